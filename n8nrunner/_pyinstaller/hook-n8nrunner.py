"""Packs the data files that PyInstaller does not find: the runtime of nodes is not a Python module."""

from PyInstaller.utils.hooks import collect_data_files

datas = collect_data_files("n8nrunner")

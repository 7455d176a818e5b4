"""What PyInstaller does not find by itself: the template of nodes is no Python module."""

from PyInstaller.utils.hooks import collect_data_files

datas = collect_data_files("n8nrunner")

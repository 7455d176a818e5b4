"""Tells PyInstaller where the hook is that packs n8nrunner's data files into a program."""

from __future__ import annotations

import os


def get_hook_dirs() -> list[str]:
    """Return the folders with hooks; PyInstaller calls this by the entry point ``pyinstaller40``."""
    return [os.path.dirname(__file__)]

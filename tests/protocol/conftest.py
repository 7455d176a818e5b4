"""The pure core opens nothing and starts nothing: looking for what is left behind would only cost time."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def nothing_left_behind() -> None:
    """Instead of the one for tests that open sockets and start threads."""


@pytest.fixture(autouse=True)
def clean_environment() -> None:
    """Instead of the one for tests that read settings."""

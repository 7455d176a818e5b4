"""A program whose files the tests change."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from n8nrunner.broker import Broker
from tests.conftest import TOKEN
from tests.reloading.programs import Served


@pytest.fixture
def program(broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A program in the current folder, whose modules are forgotten afterwards."""
    monkeypatch.setenv("N8N_RUNNERS_TASK_BROKER_URI", broker.url)
    monkeypatch.setenv("N8N_RUNNERS_AUTH_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield Served(broker, tmp_path)
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(vars(sys.modules[name]).get("__file__")):
            del sys.modules[name]

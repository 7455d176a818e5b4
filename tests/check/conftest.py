"""The fixtures of the tests of connections, for the set-ups, and no n8n on this machine."""

from __future__ import annotations

import pytest

from n8nrunner.check import walk
from tests.connection.conftest import authority, clean_certificates, names

__all__ = ["authority", "clean_certificates", "names", "no_n8n_here"]


@pytest.fixture(autouse=True)
def no_n8n_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for n8n's editor where no program listens, unless a test names its address."""
    monkeypatch.setattr(walk, "EDITOR_PORT", 1)

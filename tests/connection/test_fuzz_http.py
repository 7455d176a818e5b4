"""A short run of random HTTP answers; `python -m tests.connection.fuzz_http` goes on for longer."""

from __future__ import annotations

import pytest

from n8nrunner.connection import auth
from tests.connection.fuzz_http import run


@pytest.mark.parametrize("seed", range(4))
def test_random_answers_are_failures_to_connect_and_nothing_else(seed: int) -> None:
    outcomes = run(10.0, seed, at_most=150)
    assert {"Unreachable", "NotABroker", "UpgradeRefused", "good"} <= set(outcomes)


def test_the_fuzz_finds_an_exception_that_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Escapes(Exception):
        pass

    def fail(*_: object) -> None:
        raise Escapes

    monkeypatch.setattr(auth._LimitedSocket, "readinto", fail)
    monkeypatch.setattr(auth, "_reason", fail)
    with pytest.raises(AssertionError, match=r"Escapes.* from seed 1, answer"):
        run(10.0, 1)


def test_the_fuzz_finds_memory_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth._LimitedSocket, "readinto", lambda *_: len(bytes(20_000_000)))
    with pytest.raises(AssertionError, match="bytes with seed 1"):
        run(10.0, 1)

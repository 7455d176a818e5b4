"""A short run of random HTTP answers; `python -m tests.connection.fuzz_http` goes on for longer."""

from __future__ import annotations

import pytest

from n8nrunner.connection import auth
from tests.connection.fuzz_http import run


@pytest.mark.parametrize("seed", range(4))
def test_random_answers_are_failures_to_connect_and_nothing_else(seed: int) -> None:
    outcomes = run(10.0, seed, at_most=150)
    assert {"Unreachable", "NotABroker", "UpgradeRefused", "good"} <= set(outcomes)


def test_the_fuzz_finds_an_exception_that_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(raw: object) -> bytes:
        raise ValueError("not handled")

    class Escapes(Exception):
        pass

    monkeypatch.setattr(auth, "_content", careless)
    monkeypatch.setattr(auth, "_reason", lambda error: (_ for _ in ()).throw(Escapes()))
    with pytest.raises(AssertionError, match=r"Escapes.* from seed 1, answer"):
        run(10.0, 1)


def test_the_fuzz_finds_memory_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "_content", lambda raw: bytes(20_000_000))
    with pytest.raises(AssertionError, match="bytes with seed 1"):
        run(10.0, 1)

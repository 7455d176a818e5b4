"""Callers of a workflow that go on whether n8n is there or not."""

from __future__ import annotations

import collections
import threading
from collections import Counter
from typing import Any, Callable

import requests

CALLERS = 4


class Load:
    """Threads that call a workflow without a pause, n8n there or not, and keep account of the answers.

    Args:
        call: makes the call of a number.
        is_right: whether this is the answer to the call of a number.
    """

    def __init__(
        self, call: Callable[[int], requests.Response], is_right: Callable[[int, Any], bool]
    ) -> None:
        self._call_of = call
        self._is_right = is_right
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._next_number = 0
        self.outcomes: Counter[str] = collections.Counter()
        self.answered: set[int] = set()
        self.wrong: list[str] = []
        self._threads = [
            threading.Thread(target=self._call, name=f"caller {n}", daemon=True) for n in range(CALLERS)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *unused: Any) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(90.0)

    def wait_for_answers(self, more: int, limit: float = 90.0) -> None:
        """Waits until that many more calls were answered rightly."""
        with self._changed:
            target = self.outcomes["answered"] + more
            came = self._changed.wait_for(lambda: self.outcomes["answered"] >= target, limit)
            assert came, f"{target} answers did not come within {limit:.0f} s: {dict(self.outcomes)}"

    def _call(self) -> None:
        while not self._stopping.is_set():
            with self._changed:
                number = self._next_number
                self._next_number += 1
            outcome = self._outcome(number)
            with self._changed:
                self.outcomes[outcome] += 1
                if outcome == "answered":
                    self.answered.add(number)
                self._changed.notify_all()
            if outcome != "answered":
                # n8n is away; asking it without a pause would only slow its start.
                self._stopping.wait(0.1)

    def _outcome(self, number: int) -> str:
        try:
            response = self._call_of(number)
        except requests.RequestException:
            return "no connection"
        if response.status_code != 200:
            return f"status {response.status_code}"
        if response.text.startswith("n8n is starting up"):
            return "starting up"
        try:
            right = self._is_right(number, response.json())
        except ValueError:
            right = False
        if not right:
            self.wrong.append(f"{number}: {response.text[:200]}")
        return "answered" if right else "wrong"

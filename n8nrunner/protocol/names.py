"""The addresses of a broker's host name (``dns+http://``) as a state machine: answers in, actions out.

Each address has a link. `TRANSITIONS` has the states of an address, and what an answer to a look-up does to
it. A failed look-up changes nothing. An address is gone when `MISSES` answers in a row lack it. Its link does
not connect again from then on: it ends with its connection, or at once without one. A connection that works
stays, because n8n's process may be alive without its address: a pod that is not ready, or that terminates,
has executions that need a runner. n8n itself says when it stops.

Time is an argument. Thread: the links'; a snapshot reads attributes on any thread.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from math import inf
from typing import Union

from n8nrunner.protocol import actions, events

#: Seconds from the end of a look-up to the next one. The system's resolver does not say how long an answer
#: is valid.
INTERVAL = 5.0
#: So many answers in a row have to lack an address until it is gone.
MISSES = 3
#: The largest number of addresses of one name that get a link.
MOST_ADDRESSES = 100
#: Seconds between two log lines about the same problem.
LOG_INTERVAL = 60.0


class AddressState(enum.Enum):
    """The state of an address that has a link."""

    LISTED = "the last answer has it"
    MISSING = "the last answers lack it, but fewer than MISSES of them"
    RETIRED = "it is gone, and its link does not connect again"


LISTED, MISSING, RETIRED = AddressState


class Sight(enum.Enum):
    """News about an address, from an answer or from its link."""

    FOUND = "the answer has it"
    MISSED = "the answer lacks it"
    GONE = "the answer lacks it, and so did those before: MISSES in a row"
    CLOSED = "its link has closed, and cannot connect again"


FOUND, MISSED, GONE, CLOSED = Sight

_LinkChange = Union[type[actions.OpenLink], type[actions.RetireLink], type[actions.RestoreLink]]

#: Every transition, with the action that changes the link. None is the state of an address without a link.
TRANSITIONS: dict[AddressState | None, dict[Sight, tuple[AddressState | None, _LinkChange | None]]] = {
    None: {FOUND: (LISTED, actions.OpenLink)},
    LISTED: {FOUND: (LISTED, None), MISSED: (MISSING, None), CLOSED: (None, None)},
    MISSING: {
        FOUND: (LISTED, None),
        MISSED: (MISSING, None),
        GONE: (RETIRED, actions.RetireLink),
        CLOSED: (None, None),
    },
    RETIRED: {FOUND: (LISTED, actions.RestoreLink), GONE: (RETIRED, None), CLOSED: (None, None)},
}


class NameMachine:
    """The addresses of one name.

    Args:
        url: the URL with the name, for texts.

    Attributes:
        states: the state of each address that has a link.
        failures: look-ups in a row that failed, gave no address, or gave too many.
        last_error: the problem of the last look-up; None after an answer without one.
        has_ended: whether the runner stops, so that nothing is looked up any more.
    """

    def __init__(self, url: str) -> None:
        self.states: dict[str, AddressState] = {}
        self.failures = 0
        self.last_error: str | None = None
        self.has_ended = False
        self._url = url
        self._misses: dict[str, int] = {}
        self._is_looking_up = False
        self._next_at = -inf
        self._logged: str | None = None
        self._logged_at = -inf

    def next_deadline(self) -> float:
        """Return when `settle` must be called next."""
        return inf if self.has_ended or self._is_looking_up else self._next_at

    def settle(self, now: float) -> Sequence[actions.NameAction]:
        """Return the look-up that is due, if there is one."""
        if now < self.next_deadline():
            return ()
        self._is_looking_up = True
        return (actions.StartLookup(),)

    def recover(self, now: float, is_looking_up: bool) -> None:
        """Wait for the next look-up after an unexpected error. Say whether one is under way."""
        self._is_looking_up = is_looking_up
        self._next_at = now + INTERVAL

    def stop(self) -> None:
        """Look nothing up any more. The links stop by themselves."""
        self.has_ended = True

    def looked_up(
        self, event: events.NameLookedUp, closed: Collection[str], now: float
    ) -> list[actions.NameAction]:
        """Handle the end of a look-up, and return the actions that it asks for.

        `closed` has the addresses whose links cannot connect again.
        """
        self._is_looking_up = False
        self._next_at = now + INTERVAL
        if self.has_ended:
            return []
        for address in closed:
            self._see(address, CLOSED)
        if event.addresses is None:
            return self._note_problem(event.problem, now)
        given = dict.fromkeys(event.addresses)
        found = self._limited(given)
        wanted: list[actions.NameAction] = []
        for address in [*found, *(known for known in self.states if known not in found)]:
            wanted += self._see(address, self._sight(address, address in found))
        if not given:
            return wanted + self._note_problem(event.problem, now)
        return self._note_answer(len(given), len(found), now) + wanted

    def _limited(self, addresses: Collection[str]) -> list[str]:
        """Return at most `MOST_ADDRESSES` addresses: those with a link first."""
        known = [address for address in addresses if address in self.states]
        new = [address for address in addresses if address not in self.states]
        return [*known, *new[: max(0, MOST_ADDRESSES - len(self.states))]]

    def _sight(self, address: str, is_found: bool) -> Sight:
        misses = 0 if is_found else self._misses[address] + 1
        self._misses[address] = misses
        if is_found:
            return FOUND
        return GONE if misses >= MISSES else MISSED

    def _see(self, address: str, sight: Sight) -> list[actions.NameAction]:
        state, change = TRANSITIONS[self.states.get(address)][sight]
        if state is None:
            del self.states[address], self._misses[address]
        else:
            self.states[address] = state
        return [] if change is None else [change(address)]

    def _note_problem(self, problem: str | None, now: float) -> list[actions.NameAction]:
        self.failures += 1
        self.last_error = problem = f"{self._url}: {problem}"
        if problem == self._logged and now < self._logged_at + LOG_INTERVAL:
            return []
        self._logged, self._logged_at = problem, now
        stay = "The connections to its known addresses stay. " if self.states else ""
        text = f"{problem}. {stay}Looking it up again every {INTERVAL:g} s"
        return [actions.LogName(actions.LogLevel.WARNING, text)]

    def _note_answer(self, given: int, used: int, now: float) -> list[actions.NameAction]:
        if given > used:
            return self._note_problem(
                f"the name has {given} addresses, and a runner connects to at most {MOST_ADDRESSES}", now
            )
        self.failures = 0
        self.last_error = None
        if self._logged is None:
            return []
        self._logged = None  # at the level of the problem, so that a log that shows it also shows its end
        count = f"{used} address{'' if used == 1 else 'es'}"
        return [actions.LogName(actions.LogLevel.WARNING, f"{self._url} is known again, with {count}")]

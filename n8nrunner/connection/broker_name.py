"""Perform the actions of one name: look it up, and open, retire and restore the links of its addresses.

`NameMachine` (`protocol/names.py`) decides. Everything here runs on the links' thread, except the constructor
and `snapshot`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, NamedTuple, Protocol

from n8nrunner.config import BrokerUrl
from n8nrunner.connection.attempt import run_on_thread
from n8nrunner.connection.broker_link import BrokerLink
from n8nrunner.connection.lookup import look_up
from n8nrunner.logs import logger
from n8nrunner.protocol import actions, events
from n8nrunner.protocol.names import NameMachine
from n8nrunner.snapshot import LinkSnapshot


class LookupEnded(NamedTuple):
    """A look-up has ended. Its thread posts this."""

    name: BrokerName
    event: events.NameLookedUp


class NameOwner(Protocol):
    """The owner of the names and of their links."""

    def open_link(self, url: BrokerUrl, origin: str) -> BrokerLink:
        """Open a link to an address of the name `origin`."""

    def tell(self, link: BrokerLink, event: events.Retired | events.Restored) -> None:
        """Let a link handle an event."""

    def post_lookup(self, ended: LookupEnded) -> None:
        """Post the end of a look-up. For any thread."""

    def cannot_look_up(self, error: Exception) -> None:
        """Note that no thread could be started for a look-up."""


class BrokerName:
    """One name among the brokers, such as ``dns+http://worker:5679``.

    `index` is unlike that of every other name and link.
    """

    def __init__(self, index: int, url: BrokerUrl, owner: NameOwner) -> None:
        self.index = index
        self.url = url
        self.machine = NameMachine(url.base)
        #: A copy of `NameMachine.next_deadline`, which the loop reads often.
        self.due_at = self.machine.next_deadline()
        self._owner = owner
        self._links: dict[str, BrokerLink] = {}
        # Whether a look-up is under way, whose thread has not posted its end yet.
        self._is_looking_up = False

    def snapshot(self) -> LinkSnapshot | None:
        """Return the name as a link that waits, if it has a problem or no address yet; otherwise None.

        Any thread may call this.
        """
        machine = self.machine
        problem = machine.last_error
        if problem is None:
            if machine.states:
                return None
            problem = f"{self.url.base}: the look-up of {self.url.host!r} has not ended yet"
        state = "closed" if machine.has_ended else "waiting"
        return LinkSnapshot(self.url.base, state, 0, machine.failures, problem)

    def settle(self, now: float) -> None:
        """Start the look-up that is due."""
        self._perform(self.machine.settle(now), now)

    def looked_up(self, event: events.NameLookedUp, now: float) -> None:
        """Handle the end of a look-up."""
        self._is_looking_up = False
        self._links = {address: link for address, link in self._links.items() if not link.machine.is_closed}
        # An address has no link either if an unexpected error has kept the link from being opened.
        closed = [address for address in self.machine.states if address not in self._links]
        self._perform(self.machine.looked_up(event, closed, now), now)

    def recover(self, now: float) -> None:
        """Look the name up later, after an unexpected error."""
        self.machine.recover(now, self._is_looking_up)
        self.due_at = self.machine.next_deadline()

    def stop(self) -> None:
        """Look nothing up any more. The links stop by themselves."""
        self.machine.stop()
        self.due_at = self.machine.next_deadline()

    def _perform(self, wanted: Sequence[actions.NameAction], now: float) -> None:
        for action in wanted:
            _PERFORM[type(action)](self, action, now)
        self.due_at = self.machine.next_deadline()

    def _start_lookup(self, action: actions.StartLookup, now: float) -> None:
        try:
            run_on_thread(
                f"n8nrunner-lookup-{self.index}",
                f"looking up {self.url.host!r}",
                lambda: LookupEnded(self, look_up(self.url.host)),
                lambda problem: LookupEnded(self, events.NameLookedUp(None, problem)),
                self._owner.post_lookup,
            )
            self._is_looking_up = True
        except RuntimeError as error:  # no more threads, or the interpreter is ending
            self._owner.cannot_look_up(error)
            self.looked_up(events.NameLookedUp(None, f"the name was not looked up: {error}"), now)

    def _open(self, action: actions.OpenLink, now: float) -> None:
        logger.info("%s has the new address %s", self.url.base, action.address)
        self._links[action.address] = self._owner.open_link(self.url.at(action.address), self.url.base)

    def _retire(self, action: actions.RetireLink, now: float) -> None:
        logger.info(
            "%s no longer has the address %s. The runner does not connect to it again",
            self.url.base,
            action.address,
        )
        self._owner.tell(self._links[action.address], events.Retired())

    def _restore(self, action: actions.RestoreLink, now: float) -> None:
        logger.info("%s has the address %s again", self.url.base, action.address)
        self._owner.tell(self._links[action.address], events.Restored())

    def _log(self, action: actions.LogName, now: float) -> None:
        logger.log(action.level, "%s", action.text)


_PERFORM: dict[type, Callable[[BrokerName, Any, float], None]] = {
    actions.StartLookup: BrokerName._start_lookup,
    actions.OpenLink: BrokerName._open,
    actions.RetireLink: BrokerName._retire,
    actions.RestoreLink: BrokerName._restore,
    actions.LogName: BrokerName._log,
}

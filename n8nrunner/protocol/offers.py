"""Offers of one link: open at the broker, or lapsed a moment ago (docs/protocol.md, "Offers and acceptance").

`Slots` decides how many offers of each type the link may have open. `Offers` gives them ids, makes new ones
when they lapse, and knows which acceptances may become tasks. Only `RunnerSession` calls this.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from collections.abc import Set as AbstractSet
from math import inf
from typing import Callable

from n8nrunner.protocol.messages import TaskOffer
from n8nrunner.protocol.slots import Slots

#: Seconds for which an offer is valid, and the most that is added at random: short enough that a sleeping
#: laptop leaves no dead offers behind for long, long enough that an idle runner has little to do.
OFFER_VALIDITY = 10.0
OFFER_JITTER = 5.0
#: Seconds for which an offer that has lapsed by the runner's clock is honoured, if a slot is free.
OFFER_HONOUR = 1.0
#: Seconds of silence after which a link that cannot offer sends an expired offer. n8n 2.40 closes runners
#: that stay silent.
KEEP_ALIVE = 1.5

#: Reasons of the official runners.
REASON_EXPIRED = "Offer expired - not accepted within validity window"
REASON_FULL = "No open task slots - runner already at capacity"


class Offers:
    """The offers of one link.

    `link` is the link's key in `slots`, which all links of the runner share. `new_id` returns a unique id.

    Attributes:
        types: the task types with their limits.
        validity: seconds for which an offer is valid.
        open: the task type and the end of each open offer, by id, in the order of the ends.
        lapsed: the task type of each lapsed offer and the moment until which it is honoured, by id.
    """

    def __init__(
        self, link: Hashable, slots: Slots, types: Mapping[str, int | None], new_id: Callable[[], str]
    ) -> None:
        self.types = dict(types)
        self._link = link
        self._slots = slots
        self._new_id = new_id
        self.validity = OFFER_VALIDITY
        self.open: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self.lapsed: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._rejected = False

    def begin(self, jitter: float) -> None:
        """Start over with a new connection. `jitter` in [0, 1] spreads the ends of its offers."""
        self.validity = OFFER_VALIDITY + OFFER_JITTER * jitter
        self._rejected = False

    def join(self, now: float) -> AbstractSet[Hashable]:
        """Let the link offer its types from now on. Return the links that should look at the slots again."""
        return self._slots.join(self._link, self.types, now)

    def withdraw(self, now: float) -> AbstractSet[Hashable]:
        """Forget all offers, and offer no more. Return the links that should look at the slots again."""
        self.open.clear()
        self.lapsed.clear()
        return self._slots.leave(self._link, now)

    def void(self) -> None:
        """Forget all offers, because the broker has dropped them. The link continues to offer."""
        self.open.clear()
        self.lapsed.clear()
        self._slots.void(self._link)

    def claim(self, offer_id: str, now: float) -> tuple[str | None, str]:
        """Claim a slot for an offer that the broker has accepted.

        Return the task type of the offer and "", or None and the reason to reject the acceptance.
        """
        offer = self.open.pop(offer_id, None)
        if offer is not None:
            if self._slots.take(self._link, offer[0]):
                return offer[0], ""
            return None, REASON_FULL
        offer = self.lapsed.pop(offer_id, None)
        if offer is not None and offer[1] > now and self._slots.take(self._link, offer[0], lapsed=True):
            return offer[0], ""
        return None, REASON_EXPIRED

    def note_rejection(self) -> None:
        """Note that the link rejects an acceptance. n8n 2.27 then needs an offer, as `renew` says."""
        self._rejected = True

    def renew(
        self, now: float, ready: bool, silent_since: float | None
    ) -> tuple[list[TaskOffer], AbstractSet[Hashable]]:
        """Let offers lapse, and return new ones, and the links that should look at the slots again.

        Without `ready`, no offer can be sent: behind a large message it would wait and lapse. `silent_since`
        is when the link last sent a message, if only an offer can end its silence.
        """
        self._lapse(now)
        wanted, others = self._slots.offers(self._link, now, ready)
        offers: list[TaskOffer] = []
        until = now + self.validity
        for task_type, count in wanted:
            for _ in range(count):
                offer = TaskOffer(self._new_id(), task_type, int(self.validity * 1000))
                self.open[offer.offer_id] = (task_type, until)
                offers.append(offer)
        is_owed = self._rejected and ready
        if is_owed:
            self._rejected = False
        if not offers and self.types and (is_owed or now >= self._silence_end(silent_since)):
            # Arrives expired. n8n 2.27 matches a rejected request only when an offer arrives, even if it has
            # offers of other runners.
            offers.append(TaskOffer(self._new_id(), next(iter(self.types)), 0))
        return offers, others

    def _lapse(self, now: float) -> None:
        counts: dict[str, int] = {}
        while self.open:
            offer_id, (task_type, until) = next(iter(self.open.items()))
            if until > now:
                break
            del self.open[offer_id]
            self.lapsed[offer_id] = (task_type, until + OFFER_HONOUR)
            counts[task_type] = counts.get(task_type, 0) + 1
        while self.lapsed and next(iter(self.lapsed.values()))[1] <= now:
            self.lapsed.popitem(last=False)
        for task_type, count in counts.items():
            self._slots.lapse(self._link, task_type, count)

    def next_deadline(self, silent_since: float | None) -> float:
        """Return when `renew` has to be called, infinity if never; `silent_since` as for `renew`."""
        if self.open:
            soonest = next(iter(self.open.values()))[1]
        else:
            soonest = self._silence_end(silent_since)
        if self.lapsed:
            soonest = min(soonest, next(iter(self.lapsed.values()))[1])
        return min(soonest, self._slots.next_deadline(self._link)) if self._slots.reserved_pairs else soonest

    def _silence_end(self, silent_since: float | None) -> float:
        """Return when the link has to send something; infinity if it does not have to."""
        if silent_since is None or self.open or not self.types:
            return inf
        return silent_since + KEEP_ALIVE

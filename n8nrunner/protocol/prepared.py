"""Tasks that are answered at once (docs/protocol.md, "Task types that are answered at once").

The answer to the tasks of a *prepared type* is known before they come. They need no slot and no handler, so a
link has one open offer of each prepared type at any time, and makes the next one when that is accepted or
lapses. Only `RunnerSession` calls this.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from math import inf
from typing import Callable

from n8nrunner.protocol.events import Prepared
from n8nrunner.protocol.messages import TaskOffer
from n8nrunner.protocol.offers import OFFER_HONOUR
from n8nrunner.protocol.tasks import SETTINGS_TIMEOUT, Accepted, remove_due

#: While so many accepted tasks wait for their settings, the link makes no further offer: a peer that accepts,
#: and sends no settings, would fill the memory.
ACCEPTED_LIMIT = 20


class PreparedTasks:
    """The prepared types of one link, their offers, and the accepted tasks. `new_id` returns a unique id.

    Attributes:
        types: the answers of each type.
        offers: the task type and the end of each open or recently lapsed offer, by id, in the order of the
            ends.
        accepted: the type of each task that waits for its settings, and the moment until which it waits, by
            id, in the order of the moments.
        due: when `expire` and `renew` have to be called.
    """

    def __init__(self, new_id: Callable[[], str]) -> None:
        self.types: dict[str, Prepared] = {}
        self.offers: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self.accepted: OrderedDict[str, Accepted] = OrderedDict()
        self.due = inf
        self._new_id = new_id
        self._validity: float | None = None
        # The latest answers of each type, also of those that are gone: their accepted tasks need one.
        self._answers: dict[str, Prepared] = {}
        # The end of the open offer of each type that has one.
        self._ends: dict[str, float] = {}

    def change(self, types: Mapping[str, Prepared]) -> None:
        """Have these types from now on. Forget the offers of types that are gone."""
        self.types = dict(types)
        self._answers.update(types)
        for offer_id, (task_type, _) in list(self.offers.items()):
            if task_type not in types:
                del self.offers[offer_id]
                self._ends.pop(task_type, None)
        self.due = -inf

    def join(self, validity: float) -> None:
        """Offer the types from now on. An offer is valid for `validity` seconds."""
        self._validity = validity
        self.due = -inf

    def withdraw(self) -> None:
        """Forget all offers, and offer no more. Accepted tasks stay."""
        self._validity = None
        self.void()

    def void(self) -> None:
        """Forget all offers, because the broker has dropped them. The link continues to offer."""
        self.offers.clear()
        self._ends.clear()
        self.due = -inf

    def end(self) -> None:
        """Forget everything about a connection that has ended."""
        self.withdraw()
        self.accepted.clear()

    def accept(self, offer_id: str, task_id: str, now: float) -> bool:
        """Add the task of an offer that the broker has accepted. Return False if there is no such offer."""
        task_type, end = self.offers.pop(offer_id, ("", -inf))
        if end + OFFER_HONOUR <= now:
            return False
        if self._ends.get(task_type) == end:  # the open offer, and not a lapsed one
            del self._ends[task_type]
        self.accepted[task_id] = task_type, now + SETTINGS_TIMEOUT
        self.due = -inf
        return True

    def remove(self, task_id: str) -> Prepared | None:
        """Remove a task and return the latest answers; None if no task with this id waits."""
        task = self.accepted.pop(task_id, None)
        if task is None:
            return None
        self.due = -inf
        return self._answers[task[0]]

    def expire(self, now: float) -> list[str]:
        """Remove the tasks that have waited too long for their settings, and return their ids."""
        return [task_id for task_id, _ in remove_due(self.accepted, now)]

    def renew(self, now: float, ready: bool) -> list[TaskOffer]:
        """Return new offers for the types without an open one; none without `ready`. Set `due`."""
        while self.offers and next(iter(self.offers.values()))[1] + OFFER_HONOUR <= now:
            self.offers.popitem(last=False)
        self._ends = {task_type: end for task_type, end in self._ends.items() if end > now}
        made: list[TaskOffer] = []
        if ready and self._validity is not None and len(self.accepted) < ACCEPTED_LIMIT:
            for task_type in self.types:
                if task_type in self._ends:
                    continue
                offer = TaskOffer(self._new_id(), task_type, int(self._validity * 1000))
                self._ends[task_type] = end = now + self._validity
                self.offers[offer.offer_id] = task_type, end
                made.append(offer)
        self.due = min(self._ends.values(), default=inf)
        if self.offers:
            self.due = min(self.due, next(iter(self.offers.values()))[1] + OFFER_HONOUR)
        if self.accepted:
            self.due = min(self.due, next(iter(self.accepted.values()))[1])
        return made

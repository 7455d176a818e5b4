"""One capacity shared by all brokers and task types of a runner: who may offer what, and when.

A *pair* is one task type on one link. The words of its bookkeeping:

- *taken*: slots in which a task sits, from the acceptance of its offer until its handler has returned.
- *open*: a pair's offers at the broker that can still be accepted.
- *promised*: free slots that are kept for one pair. Every open offer of a pair beyond its first one has
  a promised slot, and so has a pair whose *turn* it is.
- *room*: free slots that are promised to nobody.

While there is room, every pair has an open offer, so more offers than slots may be open when there are many
pairs. An acceptance that finds no room is refused, and its pair is promised the next slot that becomes free:
so no task is refused twice. When slots are scarce, freed ones go round the pairs in the order in which they
began to wait, as promises that lapse after `TURN` seconds.

A pair whose offers are all accepted, while there is plenty of room, makes several at once the next time: up
to its share of half the room, so that no pair's idle offers can keep more than that from the others. A runner
with a single pair needs no turns: all its free slots are offered.

The object knows neither threads nor clocks. All links of a runner share one and call it on their one thread.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Hashable, Mapping

#: Seconds for which a freed slot is kept for the pair whose turn it is.
TURN = 1.0

_NONE: set[Hashable] = set()


class _Claim(enum.Enum):
    """Why a pair waits, which decides what it gets."""

    IDLE = "its last offer lapsed, or it is new"  # gets an offer that nothing is kept for
    BUSY = "its last offer was accepted"  # gets a turn if others wait too
    REFUSED = "an acceptance found no room"  # gets a turn in any case


class _Pair:
    __slots__ = ("claim", "link", "may_offer", "open", "refused", "task_type", "turn_until")

    def __init__(self, link: Hashable, task_type: _TaskType) -> None:
        self.link = link
        self.task_type = task_type
        self.open = 0
        #: Acceptances that found no room, and have not been made good for by a turn.
        self.refused = 0
        #: How many offers the pair may make when its link asks next.
        self.may_offer = 0
        self.turn_until: float | None = None
        self.claim: _Claim | None = None


class _TaskType:
    __slots__ = ("limit", "name", "promised", "taken")

    def __init__(self, name: str, limit: int | None) -> None:
        self.name = name
        self.limit = limit
        self.taken = 0
        self.promised = 0


class Slots:
    """The slots of one runner.

    Args:
        capacity: tasks that may run at once.
        brokers: how many links will join; with more than one, no link may offer all free slots to its own.
    """

    def __init__(self, capacity: int, brokers: int = 1) -> None:
        self.capacity = capacity
        self.taken = 0
        #: Pairs whose turn it is.
        self.turns = 0
        #: When the last task ended; None while one is held. Set by `join` and `release`.
        self.idle_since: float | None = None
        self._brokers = brokers
        self._promised = 0
        self._types: dict[str, _TaskType] = {}
        self._links: dict[Hashable, dict[str, _Pair]] = {}
        self._pairs = 0
        self._waiting: deque[_Pair] = deque()

    @property
    def can_serve(self) -> bool:
        """Whether a pair waits while there is room, so that `offers` may have something for somebody."""
        return bool(self._waiting) and self.capacity - self.taken - self._promised > 0

    # --- what links do --------------------------------------------------------------------------

    def join(self, link: Hashable, types: Mapping[str, int | None], now: float) -> set[Hashable]:
        """A link can offer now, or has more task types than before.

        Args:
            link: names it in all later calls.
            types: each task type with its own limit, or None.

        Returns:
            Other links that should look at `offers` again.
        """
        pairs = self._links.setdefault(link, {})
        for name, limit in types.items():
            task_type = self._types.setdefault(name, _TaskType(name, limit))
            task_type.limit = limit
            pair = pairs.get(name)
            if pair is None:
                pair = pairs[name] = _Pair(link, task_type)
                self._pairs += 1
                self._wait(pair, _Claim.IDLE)
            elif not pair.open and not pair.may_offer:
                self._wait(pair, _Claim.BUSY)  # a single pair does not wait, and it may be single no more
        if self.taken == 0:
            self.idle_since = now
        return self._serve(now, link)

    def leave(self, link: Hashable, now: float) -> set[Hashable]:
        """A link has lost its connection or drains: its offers are void. Slots that are taken stay taken."""
        for pair in self._links.pop(link, {}).values():
            self._pairs -= 1
            self._set_open(pair, 0)
            self._end_turn(pair)
            if pair.claim is not None:
                self._waiting.remove(pair)
        return self._serve(now, link)

    def take(self, link: Hashable, type_name: str, now: float, lapsed: bool = False) -> bool:
        """An offer was accepted; whether there is a slot for it.

        Args:
            lapsed: the offer was not counted as open any more; what is promised to open offers is not for it.
        """
        pair = self._links.get(link, {}).get(type_name)
        if pair is None:
            return False
        has_turn = pair.turn_until is not None
        # A promised slot becomes the taken one, or a free one does.
        granted = has_turn or (pair.open > 1 and not lapsed) or self._room(pair.task_type) > 0
        if not lapsed:
            self._set_open(pair, pair.open - 1)
        if not granted:
            pair.refused += 1
            self._wait(pair, _Claim.REFUSED)
            return False
        self._end_turn(pair)
        self.taken += 1
        pair.task_type.taken += 1
        self.idle_since = None
        if has_turn and pair.refused:
            pair.refused -= 1
        if pair.refused:
            self._wait(pair, _Claim.REFUSED)
        elif pair.open == 0:
            self._wait(pair, _Claim.BUSY)
        return True

    def lapse(self, link: Hashable, type_name: str, count: int) -> None:
        """So many open offers have run out of time; `offers` tells what takes their place."""
        pair = self._links.get(link, {}).get(type_name)
        if pair is not None:
            self._set_open(pair, pair.open - count)
            if pair.open == 0:
                self._replace(pair, _Claim.IDLE)

    def void(self, link: Hashable) -> None:
        """The broker has thrown away all offers of this link."""
        for pair in self._links.get(link, {}).values():
            self._set_open(pair, 0)
            self._replace(pair, _Claim.BUSY)

    def offers(
        self, link: Hashable, now: float, ready: bool = True
    ) -> tuple[list[tuple[str, int]], set[Hashable]]:
        """What this link is to offer now; counted as open from here on.

        Args:
            ready: whether the link can send offers now. If not, all it does is let its promises lapse.

        Returns:
            Pairs of task type and number of offers; and other links that should look again.
        """
        pairs = self._links.get(link)
        if not pairs:
            return [], _NONE
        if self._is_single():
            (pair,) = pairs.values()
            self._forget_wait(pair)
            self._end_turn(pair)
            pair.refused = 0
            pair.may_offer = 0
            if not ready:
                return [], _NONE
            free = self._free(pair.task_type) - pair.open
            if free <= 0:
                return [], _NONE
            self._set_open(pair, pair.open + free)
            return [(pair.task_type.name, free)], _NONE
        for pair in pairs.values():
            if pair.turn_until is not None and pair.turn_until <= now:
                self._end_turn(pair)
                pair.refused = 0
        others = self._serve(now, link)
        wanted = []
        for pair in pairs.values():
            if pair.may_offer and ready:
                # All but the first take room, which may have shrunk since they were granted.
                count = 1 + max(0, min(pair.may_offer - 1, self._room(pair.task_type)))
                pair.may_offer = 0
                self._set_open(pair, count)
                wanted.append((pair.task_type.name, count))
        return wanted, others

    def next_deadline(self, link: Hashable) -> float | None:
        """When a promise to this link lapses, so that `offers` has to be called; None if there is none."""
        turns = [pair.turn_until for pair in self._links.get(link, {}).values() if pair.turn_until]
        return min(turns, default=None)

    # --- what the end of a task does ------------------------------------------------------------

    def release(self, type_name: str, now: float) -> set[Hashable]:
        """A task's handler has returned: its slot is free.

        Returns:
            Links that should look at `offers` now; whichever link the task came from may be among them.
        """
        self.taken -= 1
        self._types[type_name].taken -= 1
        if self.taken == 0:
            self.idle_since = now
        if self._is_single():
            return set(self._links)
        return self._serve(now, None) if self._waiting else _NONE

    # --- bookkeeping, under the lock ------------------------------------------------------------

    def _is_single(self) -> bool:
        return self._brokers == 1 and self._pairs == 1

    def _free(self, task_type: _TaskType) -> int:
        free = self.capacity - self.taken
        return free if task_type.limit is None else min(free, task_type.limit - task_type.taken)

    def _room(self, task_type: _TaskType) -> int:
        room = self.capacity - self.taken - self._promised
        if task_type.limit is None:
            return room
        return min(room, task_type.limit - task_type.taken - task_type.promised)

    def _promise(self, pair: _Pair, count: int) -> None:
        self._promised += count
        pair.task_type.promised += count

    def _set_open(self, pair: _Pair, count: int) -> None:
        count = max(0, count)
        difference = max(0, count - 1) - max(0, pair.open - 1)
        pair.open = count
        if difference:
            self._promise(pair, difference)

    def _end_turn(self, pair: _Pair) -> None:
        if pair.turn_until is not None:
            pair.turn_until = None
            self.turns -= 1
            self._promise(pair, -1)

    def _replace(self, pair: _Pair, claim: _Claim) -> None:
        """All offers of a pair are gone, and no acceptance took the last one."""
        if pair.turn_until is not None:
            pair.may_offer = 1
        else:
            self._wait(pair, claim)

    def _wait(self, pair: _Pair, claim: _Claim) -> None:
        if pair.claim is not None:
            if claim is not _Claim.REFUSED or pair.claim is _Claim.REFUSED:
                return
            self._waiting.remove(pair)
        pair.claim = claim
        pair.may_offer = 0
        if claim is _Claim.REFUSED:
            # Behind those that were refused before it, ahead of everybody else.
            position = sum(1 for other in self._waiting if other.claim is _Claim.REFUSED)
            self._waiting.insert(position, pair)
        else:
            self._waiting.append(pair)

    def _forget_wait(self, pair: _Pair) -> None:
        if pair.claim is not None:
            pair.claim = None
            self._waiting.remove(pair)

    def _serve(self, now: float, asking: Hashable | None) -> set[Hashable]:
        """Lets waiting pairs offer while there is room; which links other than `asking` that concerns."""
        if not self._waiting:
            return _NONE
        served: set[Hashable] = set()
        for pair in list(self._waiting):
            if self.capacity - self.taken - self._promised <= 0:
                break
            room = self._room(pair.task_type)
            if room <= 0:
                continue  # its type's own limit; others may still have room
            scarce = room < len(self._waiting)
            offers = 1
            if pair.claim is _Claim.REFUSED or (scarce and pair.claim is _Claim.BUSY):
                pair.turn_until = now + TURN
                self.turns += 1
                self._promise(pair, 1)
            elif pair.claim is _Claim.BUSY:
                offers = max(1, room // (2 * self._pairs))
            self._forget_wait(pair)
            pair.may_offer = offers if pair.open == 0 else 0
            if pair.link != asking:
                served.add(pair.link)
        return served

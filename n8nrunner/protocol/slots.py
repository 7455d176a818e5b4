"""Share the slots of one runner between its brokers and task types.

A *pair* is one task type on one link. The terms:

- *taken* slot: a task is in it, from the acceptance of its offer until its handler has returned.
- *open* offer: an offer of a pair that the broker can still accept.
- *reserved* slot: a free slot that is kept for one pair. Each open offer of a pair beyond its first one has a
  reserved slot. A waiting pair can get one too: a *reservation*, which lapses after `RESERVATION_TIME`.
- *room*: free slots that are not reserved.

While there is room, every pair has an open offer, so that more offers than slots can be open when there are
many pairs. An acceptance that finds no room is refused, and its pair gets the next free slot as a
reservation, so that its next acceptance finds a slot. When slots are scarce, freed ones go to the pairs as
reservations, in the order in which they began to wait.

A pair whose offers were all accepted while there was plenty of room makes several at once the next time: at
most half the room, divided by the number of pairs. A runner with a single pair needs no reservations: it
offers all its free slots.

All links of a runner share one `Slots`. Only the links' thread changes it; any thread may read `taken`.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Hashable, Mapping
from collections.abc import Set as AbstractSet
from math import inf

#: Seconds for which a freed slot is kept for a waiting pair.
RESERVATION_TIME = 1.0

_NONE: AbstractSet[Hashable] = frozenset()


class WaitReason(enum.Enum):
    """The reason why a pair waits, on which its next offer depends."""

    IDLE = "its last offer lapsed, or it is new"  # gets an offer without a reservation
    BUSY = "its last offer was accepted"  # gets a reservation if slots are scarce
    REFUSED = "an acceptance found no room"  # gets a reservation in any case


class Pair:
    """A task type on one link.

    Attributes:
        open: the number of open offers.
        refused: the number of refused acceptances, less the tasks that a reservation has let in since.
        may_offer: the number of offers that the pair can make when its link next asks.
        reserved_until: when its reservation lapses; None without one.
        wait_reason: why it waits; None if it does not.
    """

    def __init__(self, link: Hashable, task_type: TaskType) -> None:
        self.link = link
        self.task_type = task_type
        self.open = 0
        self.refused = 0
        self.may_offer = 0
        self.reserved_until: float | None = None
        self.wait_reason: WaitReason | None = None


class TaskType:
    """A task type on all links: its limit, and its numbers of taken and of reserved slots."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.limit: int | None = None
        self.taken = 0
        self.reserved = 0


class Slots:
    """The slots of one runner.

    Args:
        capacity: the number of slots.
        brokers: the number of links that will join (`expect`).

    Attributes:
        taken: the number of taken slots.
        reserved: the number of reserved slots.
        reserved_pairs: the number of pairs with a reservation.
        idle_since: since when no slot is taken, counted from the last registration or change of the types;
            None while a slot is taken, and before the first registration.
        links: the pairs of each link, by task type.
        waiting: the waiting pairs, in their order.
    """

    def __init__(self, capacity: int, brokers: int = 1) -> None:
        self.capacity = capacity
        self.taken = 0
        self.reserved = 0
        self.reserved_pairs = 0
        self.idle_since: float | None = None
        self.links: dict[Hashable, dict[str, Pair]] = {}
        self.waiting: deque[Pair] = deque()
        self._brokers = brokers
        self._types: dict[str, TaskType] = {}
        self._pairs = 0

    @property
    def can_serve(self) -> bool:
        """Whether a pair waits while there is room, so that `offers` can have something for a link."""
        return bool(self.waiting) and self.capacity - self.taken - self.reserved > 0

    def expect(self, brokers: int, now: float) -> AbstractSet[Hashable]:
        """Change the number of links that can join. With more than one, no link may offer all free slots.

        Call it before a new link joins, and after a link has left for good. Return the links that should ask
        for `offers` now.
        """
        was_single = self._is_single()
        self._brokers = brokers
        if self._is_single():
            return set(self.links)
        if was_single:  # a single pair does not wait
            for pair in (pair for pairs in self.links.values() for pair in pairs.values()):
                if not pair.open and not pair.may_offer:
                    self._enqueue(pair, WaitReason.BUSY)
        return self._serve(now, None)

    def join(self, link: Hashable, types: Mapping[str, int | None], now: float) -> AbstractSet[Hashable]:
        """Add a link, or change its task types, each with its own limit or None.

        Forget the offers of types that are gone. Return the other links that should ask for `offers` again.
        """
        pairs = self.links.setdefault(link, {})
        for name in pairs.keys() - types.keys():
            self._remove(pairs.pop(name))
        for name, limit in types.items():
            task_type = self._types.setdefault(name, TaskType(name))
            task_type.limit = limit
            pair = pairs.get(name)
            if pair is None:
                pair = pairs[name] = Pair(link, task_type)
                self._pairs += 1
                self._enqueue(pair, WaitReason.IDLE)
            elif not pair.open and not pair.may_offer:
                self._enqueue(pair, WaitReason.BUSY)  # a single pair does not wait; it may have company now
        if self.taken == 0:
            self.idle_since = now
        return self._serve(now, link)

    def leave(self, link: Hashable, now: float) -> AbstractSet[Hashable]:
        """Remove a link and its offers. Its taken slots stay taken.

        Return the other links that should ask for `offers` again.
        """
        for pair in self.links.pop(link, {}).values():
            self._remove(pair)
        return self._serve(now, link)

    def _remove(self, pair: Pair) -> None:
        self._pairs -= 1
        self._set_open(pair, 0)
        self._end_reservation(pair)
        self._dequeue(pair)

    def take(self, link: Hashable, type_name: str, lapsed: bool = False) -> bool:
        """Take a slot for an accepted offer of a link. Return whether there was one.

        A lapsed offer has no right to the reserved slots of open offers.
        """
        pair = self.links.get(link, {}).get(type_name)
        if pair is None:
            return False
        has_reservation = pair.reserved_until is not None
        # The slot is a reserved one or a part of the room.
        granted = has_reservation or (pair.open > 1 and not lapsed) or self._room(pair.task_type) > 0
        if not lapsed:
            self._set_open(pair, pair.open - 1)
        if not granted:
            pair.refused += 1
            self._enqueue(pair, WaitReason.REFUSED)
            return False
        self._end_reservation(pair)
        self.taken += 1
        pair.task_type.taken += 1
        self.idle_since = None
        if has_reservation and pair.refused:
            pair.refused -= 1
        if pair.refused:
            self._enqueue(pair, WaitReason.REFUSED)
        elif pair.open == 0:
            self._enqueue(pair, WaitReason.BUSY)
        return True

    def lapse(self, link: Hashable, type_name: str, count: int) -> None:
        """Remove open offers whose time is over. `offers` replaces them."""
        pair = self.links.get(link, {}).get(type_name)
        if pair is not None:
            self._set_open(pair, pair.open - count)
            if pair.open == 0:
                self._requeue(pair, WaitReason.IDLE)

    def void(self, link: Hashable) -> None:
        """Remove all offers of a link, because its broker has dropped them. `offers` replaces them."""
        for pair in self.links.get(link, {}).values():
            self._set_open(pair, 0)
            self._requeue(pair, WaitReason.BUSY)

    def offers(
        self, link: Hashable, now: float, ready: bool = True
    ) -> tuple[list[tuple[str, int]], AbstractSet[Hashable]]:
        """Return the offers that this link should send now, and count them as open.

        If the link is not `ready` to send, only its reservations can lapse. Return task types, each with a
        number of offers, and the other links that should ask again.
        """
        pairs = self.links.get(link)
        if not pairs:
            return [], _NONE
        if self._is_single():
            (pair,) = pairs.values()
            self._dequeue(pair)
            self._end_reservation(pair)
            pair.refused = 0
            pair.may_offer = 0
            free = self._free(pair.task_type) - pair.open
            if free <= 0 or not ready:
                return [], _NONE
            self._set_open(pair, pair.open + free)
            return [(pair.task_type.name, free)], _NONE
        for pair in pairs.values():
            if pair.reserved_until is not None and pair.reserved_until <= now:
                self._end_reservation(pair)
                pair.refused = 0
        others = self._serve(now, link)
        wanted = []
        for pair in pairs.values():
            if pair.may_offer and ready:
                # All but the first need room, and there may be less of it than when they were granted.
                count = 1 + max(0, min(pair.may_offer - 1, self._room(pair.task_type)))
                pair.may_offer = 0
                self._set_open(pair, count)
                wanted.append((pair.task_type.name, count))
        return wanted, others

    def next_deadline(self, link: Hashable) -> float:
        """Return when a link has to ask for `offers`, because a reservation lapses; infinity without one."""
        ends = [pair.reserved_until for pair in self.links.get(link, {}).values()]
        return min([end for end in ends if end is not None], default=inf)

    def release(self, type_name: str, now: float) -> AbstractSet[Hashable]:
        """Free the slot of a task whose handler has returned.

        Return the links that should ask for `offers` now. The link of the task can be one of them.
        """
        self.taken -= 1
        self._types[type_name].taken -= 1
        if self.taken == 0:
            self.idle_since = now
        if self._is_single():
            return set(self.links)
        return self._serve(now, None) if self.waiting else _NONE

    # --- bookkeeping ----------------------------------------------------------------------------

    def _is_single(self) -> bool:
        return self._brokers == 1 and self._pairs == 1

    def _free(self, task_type: TaskType) -> int:
        free = self.capacity - self.taken
        return free if task_type.limit is None else min(free, task_type.limit - task_type.taken)

    def _room(self, task_type: TaskType) -> int:
        room = self.capacity - self.taken - self.reserved
        if task_type.limit is None:
            return room
        return min(room, task_type.limit - task_type.taken - task_type.reserved)

    def _reserve(self, pair: Pair, count: int) -> None:
        self.reserved += count
        pair.task_type.reserved += count

    def _set_open(self, pair: Pair, count: int) -> None:
        count = max(0, count)
        difference = max(0, count - 1) - max(0, pair.open - 1)
        pair.open = count
        if difference:
            self._reserve(pair, difference)

    def _end_reservation(self, pair: Pair) -> None:
        if pair.reserved_until is not None:
            pair.reserved_until = None
            self.reserved_pairs -= 1
            self._reserve(pair, -1)

    def _requeue(self, pair: Pair, reason: WaitReason) -> None:
        """Let a pair offer again that has no offer left, other than by an acceptance."""
        if pair.reserved_until is not None:
            pair.may_offer = 1
        else:
            self._enqueue(pair, reason)

    def _enqueue(self, pair: Pair, reason: WaitReason) -> None:
        if pair.wait_reason is not None:
            if reason is not WaitReason.REFUSED or pair.wait_reason is WaitReason.REFUSED:
                return
            self.waiting.remove(pair)
        pair.wait_reason = reason
        pair.may_offer = 0
        if reason is WaitReason.REFUSED:
            # Behind the pairs that were refused before, ahead of all others.
            position = sum(1 for other in self.waiting if other.wait_reason is WaitReason.REFUSED)
            self.waiting.insert(position, pair)
        else:
            self.waiting.append(pair)

    def _dequeue(self, pair: Pair) -> None:
        if pair.wait_reason is not None:
            pair.wait_reason = None
            self.waiting.remove(pair)

    def _serve(self, now: float, asking: Hashable | None) -> AbstractSet[Hashable]:
        """Let waiting pairs offer while there is room. Return the links of these pairs, without `asking`."""
        if not self.waiting:
            return _NONE
        served: set[Hashable] = set()
        for pair in list(self.waiting):
            if self.capacity - self.taken - self.reserved <= 0:
                break
            room = self._room(pair.task_type)
            if room <= 0:
                continue  # its type's own limit; others may still have room
            scarce = room < len(self.waiting)
            offers = 1
            if pair.wait_reason is WaitReason.REFUSED or (scarce and pair.wait_reason is WaitReason.BUSY):
                pair.reserved_until = now + RESERVATION_TIME
                self.reserved_pairs += 1
                self._reserve(pair, 1)
            elif pair.wait_reason is WaitReason.BUSY:
                offers = max(1, room // (2 * self._pairs))
            self._dequeue(pair)
            pair.may_offer = offers if pair.open == 0 else 0
            if pair.link != asking:
                served.add(pair.link)
        return served

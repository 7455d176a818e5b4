"""The open offers of all runners."""

from __future__ import annotations

import heapq
from collections import OrderedDict

from n8nrunner.broker.records import Connection, Offer


class OpenOffers:
    """Open offers by task type, oldest first."""

    def __init__(self) -> None:
        self._by_type: dict[str, OrderedDict[int, Offer]] = {}
        self._lapsing: list[tuple[float, int, Offer]] = []
        self._number = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, connection: Connection, offer_id: str, task_type: str, lapses_at: float | None) -> None:
        """Add an offer; `lapses_at` is None if it never lapses."""
        self._number += 1
        offer = Offer(self._number, connection, offer_id, task_type)
        self._by_type.setdefault(task_type, OrderedDict())[offer.number] = offer
        connection.offers[offer.number] = offer
        self._count += 1
        if lapses_at is not None:
            heapq.heappush(self._lapsing, (lapses_at, offer.number, offer))

    def first(self, task_type: str) -> Offer | None:
        of_type = self._by_type.get(task_type)
        return next(iter(of_type.values())) if of_type else None

    def remove(self, offer: Offer) -> None:
        of_type = self._by_type[offer.task_type]
        del of_type[offer.number]
        if not of_type:
            del self._by_type[offer.task_type]
        del offer.connection.offers[offer.number]
        self._count -= 1

    def remove_lapsed(self, now: float) -> list[Offer]:
        """Remove and return the offers that have lapsed."""
        lapsed = []
        while self._lapsing and self._lapsing[0][0] <= now:
            offer = heapq.heappop(self._lapsing)[2]
            if offer.number in offer.connection.offers:
                self.remove(offer)
                lapsed.append(offer)
        return lapsed

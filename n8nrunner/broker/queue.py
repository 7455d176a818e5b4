"""The requests that wait for a runner."""

from __future__ import annotations

import heapq

from n8nrunner.broker.records import Request


class RequestQueue:
    """Waiting requests by task type, in the order of their places.

    A heap for each type, because a request whose runner rejected it goes back to its old place.
    """

    def __init__(self) -> None:
        self._by_type: dict[str, list[tuple[int, Request]]] = {}
        self._unmatched: set[str] = set()

    def add(self, request: Request) -> None:
        """Add a request at the first of its places."""
        heapq.heappush(self._by_type.setdefault(request.task_type, []), (request.places[0], request))
        self._unmatched.add(request.task_type)

    def changed(self, task_type: str) -> None:
        """Let the next match pass look at this type: it has a new offer."""
        self._unmatched.add(task_type)

    def next_unmatched_type(self) -> str | None:
        """Return a type that changed since a match pass looked at it, each type once."""
        return self._unmatched.pop() if self._unmatched else None

    def first(self, task_type: str) -> Request | None:
        """Return the first waiting request of a type."""
        of_type = self._by_type.get(task_type)
        while of_type:
            place, request = of_type[0]
            if request.places and request.places[0] == place:
                return request
            heapq.heappop(of_type)  # it has left this place
        if of_type is not None:
            del self._by_type[task_type]
        return None

    def remove_first(self, task_type: str) -> None:
        heapq.heappop(self._by_type[task_type])

    def types(self) -> set[str]:
        """Return the types of all waiting requests."""
        return {task_type for task_type in list(self._by_type) if self.first(task_type) is not None}

"""The only way into the links' thread, from all others at once."""

from __future__ import annotations

import selectors
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from n8nrunner.connection.inbox import Inbox
from tests.conftest import LIMIT


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    inbox = Inbox()
    inbox.open()
    yield inbox
    inbox.close()


def readable(inbox: Inbox, timeout: float = 0.0) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(inbox.fileno(), selectors.EVENT_READ)
        return bool(selector.select(timeout))


def test_a_post_to_a_thread_that_is_awake_costs_no_wake_up(inbox: Inbox) -> None:
    inbox.post("link", "event")
    assert list(inbox.events) == [("link", "event")]
    assert not readable(inbox)


def test_a_post_to_a_thread_that_sleeps_wakes_it(inbox: Inbox) -> None:
    inbox.asleep = True
    inbox.post("link", "event")
    assert readable(inbox)
    inbox.clear_wake_ups()
    assert not readable(inbox)
    inbox.clear_wake_ups()  # nothing there: nothing happens


def test_a_thread_is_woken_once(inbox: Inbox) -> None:
    inbox.asleep = True
    inbox.post("link", "event")
    inbox.clear_wake_ups()
    inbox.post("link", "another")
    assert not readable(inbox)
    assert [event for _, event in inbox.events] == ["event", "another"]


def test_no_number_of_wake_ups_blocks_who_posts(inbox: Inbox) -> None:
    for number in range(50_000):  # far more than the pipe takes
        inbox.asleep = True
        inbox.post(None, number)
    assert readable(inbox)
    while readable(inbox):
        inbox.clear_wake_ups()
    assert len(inbox.events) == 50_000


def test_posting_to_an_inbox_that_is_closed_raises_nothing() -> None:
    inbox = Inbox()
    inbox.open()
    inbox.asleep = True
    inbox.close()
    inbox.close()
    inbox.post("link", "event")
    assert inbox.is_closed
    assert list(inbox.events) == [("link", "event")]


def test_no_event_of_many_threads_is_slept_through(inbox: Inbox) -> None:
    """The reader sleeps after every event, so that each post races with its going to sleep."""
    count, threads = 500, 4
    taken: list[Any] = []

    def post(link: int) -> None:
        for number in range(count):
            inbox.post(link, number)

    posting = [threading.Thread(target=post, args=(link,)) for link in range(threads)]
    with selectors.DefaultSelector() as selector:
        selector.register(inbox.fileno(), selectors.EVENT_READ)
        for thread in posting:
            thread.start()
        while len(taken) < count * threads:
            inbox.asleep = True
            if not inbox.events:
                assert selector.select(LIMIT), f"asleep with {len(taken)} events taken"
            inbox.asleep = False
            inbox.clear_wake_ups()
            if inbox.events:
                taken.append(inbox.events.popleft())
    for thread in posting:
        thread.join()
    for link in range(threads):
        assert [number for where, number in taken if where == link] == list(range(count))

"""Received messages become events, skipped ones included."""

from __future__ import annotations

from typing import Any

import pytest

from n8nrunner.protocol import messages as m
from n8nrunner.protocol.codec import LARGE_MESSAGE, event_of
from n8nrunner.protocol.events import MessageSkipped, Pong
from n8nrunner.protocol.frames import PongFrame, SkippedMessage

HEAD = m.Head("broker:tasksettings", "t", None, None, None)
START = b'{"type":"broker:tasksettings","taskId":"t","settings":'
TOO_LARGE = (
    "is too large for the runner",
    "It has 2000 bytes; the runner's limit is 1000 (N8N_RUNNERS_MAX_PAYLOAD).",
)
NOT_UTF_8 = (
    "cannot be read by the runner",
    f"The reason: a message of {len(START) + 4} bytes is not UTF-8.",
)


@pytest.mark.parametrize(
    ("received", "event"),
    [
        (b'{"type":"broker:inforequest"}', m.InfoRequest()),
        (bytearray(START + b"[1]}"), m.TaskSettings("t", [1])),
        (b'{"type":"broker:news"}', None),
        (PongFrame(b"12"), Pong("12")),
        (PongFrame(b"\xff"), Pong("\xff")),
        (SkippedMessage(START, 2000), MessageSkipped(HEAD, *TOO_LARGE)),
        (SkippedMessage(b"\xff", 2000), MessageSkipped(m.Head(None, None, None, None, None), *TOO_LARGE)),
        (START + b'"\xff"}', MessageSkipped(HEAD, *NOT_UTF_8)),
    ],
)
def test_a_received_message_becomes_its_event(received: Any, event: Any) -> None:
    assert event_of(received, 1000) == event


@pytest.mark.parametrize("size", [10, LARGE_MESSAGE])
def test_an_unreadable_message_names_its_task_and_the_problem(size: int) -> None:
    event = event_of(START + b" " * size + b"[,]}", 1000)
    if size == LARGE_MESSAGE:  # its value is decoded on the handler's thread
        assert isinstance(event, m.TaskSettings)
    else:
        assert isinstance(event, MessageSkipped)
        assert event.head == HEAD
        assert "is not valid JSON" in event.description


def test_a_large_message_that_is_not_utf_8_names_its_task() -> None:
    event = event_of(bytearray(START + b'"' + b"x" * LARGE_MESSAGE + b'\xff"}'), 1000)
    assert isinstance(event, MessageSkipped)
    assert event.head == HEAD
    assert "is not UTF-8" in event.description


def test_a_large_message_that_is_not_valid_json_names_its_task() -> None:
    start = b'{"type":"broker:taskcancel","taskId":"t","reason":'
    event = event_of(bytearray(start + b" " * LARGE_MESSAGE + b"[,]}"), 1000)
    assert isinstance(event, MessageSkipped)
    assert event.head == m.Head("broker:taskcancel", "t", None, None, None)
    assert "is not valid JSON" in event.description


@pytest.mark.parametrize(("extra", "kind"), [(0, str), (1, m.Undecoded)])
def test_a_message_above_a_mebibyte_keeps_its_value_undecoded(extra: int, kind: type) -> None:
    value = b"x" * (LARGE_MESSAGE + extra - len(START) - len(b'""}'))
    event = event_of(START + b'"' + value + b'"}', 1000)
    assert isinstance(event, m.TaskSettings)
    assert type(event.settings) is kind


def test_the_memory_of_a_large_message_is_freed_when_its_text_is_decoded() -> None:
    received = bytearray(START + b'"' + b"x" * LARGE_MESSAGE + b'"}')
    event = event_of(received, 1000)
    assert isinstance(event, m.TaskSettings)
    assert isinstance(event.settings, m.Undecoded)
    assert not received

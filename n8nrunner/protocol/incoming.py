"""Decode received messages into events of a session."""

from __future__ import annotations

from typing import Union

from n8nrunner.errors import ProtocolError
from n8nrunner.protocol import codec
from n8nrunner.protocol.events import OversizedMessage, Pong, UnreadableMessage
from n8nrunner.protocol.frames import Payload, PongFrame, SkippedMessage
from n8nrunner.protocol.messages import FromBroker, Head

#: Handlers' threads decode the large value of a message above this many bytes.
LARGE_MESSAGE = 1024 * 1024

#: Bytes of an unreadable message in which to look for its type and ids.
_HEAD_SIZE = 4096

#: Whole messages, messages above the size limit, and pongs, in the order in which they came.
Received = Union[Payload, SkippedMessage, PongFrame]


def event_of(
    received: Received, max_payload: int
) -> FromBroker | OversizedMessage | UnreadableMessage | Pong | None:
    """Return the event of a received message; None if the type of the message is unknown.

    Args:
        received: a message, of which a large one in a `bytearray` is cleared to free its memory.
        max_payload: the size limit that a skipped message exceeds, in bytes.
    """
    if isinstance(received, SkippedMessage):
        return OversizedMessage(_peek(received.head), received.size, max_payload)
    if isinstance(received, PongFrame):
        return Pong(received.payload.decode("latin-1"))
    start = b""  # of a large message
    try:
        if len(received) <= LARGE_MESSAGE:
            return codec.decode_from_broker(received.decode())
        start = bytes(received[:_HEAD_SIZE])
        text = received.decode()
        if isinstance(received, bytearray):
            received.clear()  # the caller still refers to it
        return codec.decode_large(text)
    except UnicodeDecodeError:
        problem = f"a message of {len(received)} bytes is not UTF-8"
    except ProtocolError as error:
        problem = str(error)
    return UnreadableMessage(_peek(start or bytes(received[:_HEAD_SIZE])), problem)


def _peek(start: bytes) -> Head:
    return codec.peek(start.decode("utf-8", "ignore"))

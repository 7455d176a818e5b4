"""Events of a session or a link, besides broker messages (docs/protocol.md, "States of a connection").

Moments are in seconds of one monotonic clock. `jitter` is a random number in [0, 1], which spreads what many
runners do after the same event.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol, Union

from n8nrunner.errors import N8nRunnerError
from n8nrunner.protocol.failures import LinkFailure
from n8nrunner.protocol.messages import FromBroker, Head, Json


class PendingCall(Protocol):
    """A handler's call to n8n. A session only passes it on."""

    def put(self, answer: tuple[Json, Json], /) -> None:
        """Give the waiting handler the value, or the error if that is not None."""


class OpenConnection(Protocol):
    """A WebSocket. A link only passes it on."""

    def close(self) -> None:
        """Close the socket."""


class ConnectionOpened(NamedTuple):
    """An attempt has opened a WebSocket. `jitter` spreads the ends of this connection's offers."""

    connection: OpenConnection
    jitter: float


class ConnectionEnded(NamedTuple):
    """The connection is closed or lost."""

    reason: LinkFailure
    started: int  #: messages of which a byte may have been sent. All others have certainly not arrived
    clean: bool  #: whether the broker answered the runner's close frame, so that it has read every message
    jitter: float


class FunctionCalls(enum.Enum):
    """Summary of the function calls in a result. The result of another task type counts as `DONE`."""

    DONE = "all returned"
    FAILED = "at least one failed"
    AGAIN = "none ran, and the node tries again"


class HandlerFinished(NamedTuple):
    """A handler has returned or raised, or could not be run, and its slot is free."""

    task_id: str
    generation: int  #: that of `StartTask`
    payload: bytes  #: the encoded answer
    failed: bool  #: whether the answer is an error
    freed: bool = True  #: whether this link may be able to make an offer now
    interrupted: bool = False  #: whether the task was cut short, rather than failed by itself
    calls: FunctionCalls = FunctionCalls.DONE
    function: str | None = None  #: the name of the function that was called, for a report about the result


class CallMade(NamedTuple):
    """A handler calls n8n with the encoded message `payload`. `call` is None if no answer is wanted."""

    task_id: str
    generation: int
    call_id: str
    payload: bytes
    call: PendingCall | None


class TimeLimitSet(NamedTuple):
    """A handler's task has a time limit of its own, which the node's author has set."""

    task_id: str
    generation: int
    deadline: float  #: the moment at which it times out, if that is earlier than the runner's
    limit: float  #: the time limit in seconds


class SlotFreed(NamedTuple):
    """A slot may be free for an offer of this link."""


class Prepared(NamedTuple):
    """The answers to the tasks of a prepared type, as JSON text (`prepared.py`)."""

    running: str
    draining: str  #: the answer while the runner finishes its tasks because of a `StopRequested`


class TypesChanged(NamedTuple):
    """The task types, at the start and whenever a handler or a function is registered or removed."""

    types: Mapping[str, int | None]  #: the types with a handler, each with its limit
    #: the types that are answered at once. A type that is also in `types` belongs to its handler
    prepared: Mapping[str, Prepared]
    announced: Collection[str]  #: types that ``runner:info`` names besides


class OfferingChanged(NamedTuple):
    """Tasks can be run from now on, or cannot. While they cannot, the session offers and accepts none."""

    wanted: bool


class MessageSkipped(NamedTuple):
    """A message was skipped. `head` is its beginning; `problem` and `description` say why, for people."""

    head: Head
    problem: str  #: continues a sentence about the message
    description: str


class Pong(NamedTuple):
    """The broker has answered a ping."""

    payload: str


class SocketMeasured(NamedTuple):
    """Counts of bytes since the connection was opened, the answer to `MeasureSocket`."""

    bytes_written: int  #: bytes that the local kernel has taken
    unacknowledged: int  #: those of them that the peer's kernel has not acknowledged; 0 if unknown
    pinged_to: float  #: `bytes_written` at the end of the last liveness ping; infinite while the ping waits
    silent_for: float | None  #: seconds since the last acknowledgement; None if unknown


class StopRequested(NamedTuple):
    """Finish the running tasks until the moment `until` at the latest, then close."""

    until: float


Event = Union[
    FromBroker, ConnectionOpened, ConnectionEnded, HandlerFinished, CallMade, TimeLimitSet, SlotFreed,
    TypesChanged, OfferingChanged, MessageSkipped, Pong, SocketMeasured, StopRequested,
]  # fmt: skip

# --- events of a link -------------------------------------------------------------------------------


class AttemptFailed(NamedTuple):
    """An attempt has failed. `grant` is the grant token that was tried, or None if there was none."""

    reason: LinkFailure
    grant: str | None
    jitter: float


class BrokerProbed(NamedTuple):
    """A probe has ended. `problem` says why the broker is not healthy; None if it is."""

    problem: str | None
    jitter: float


class CloseReceived(NamedTuple):
    """The broker has sent a close frame. `code` is None if the frame has none."""

    code: int | None


class RefusalAnswered(NamedTuple):
    """The runner has handled `ReportRefused` with `error`. `is_final` says whether the link gives up."""

    error: N8nRunnerError
    is_final: bool


class TimePassed(NamedTuple):
    """Look at the deadlines, while no connection is open."""


class Retired(NamedTuple):
    """The broker's address is gone. The link ends with its connection, or at once if it has none."""


class Restored(NamedTuple):
    """The broker's address is back, so that a `Retired` link connects again."""


LinkEvent = Union[
    ConnectionOpened, AttemptFailed, BrokerProbed, CloseReceived, ConnectionEnded, RefusalAnswered,
    TimePassed, Retired, Restored, StopRequested,
]  # fmt: skip

# --- events of a name -------------------------------------------------------------------------------


class NameLookedUp(NamedTuple):
    """A look-up has ended. `addresses` is None if it failed; `problem` says why it gave no address."""

    addresses: tuple[str, ...] | None
    problem: str | None

"""What a handler may touch: its `Task`. And what becomes of a result that n8n did not get: `Undelivered`."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from n8nrunner import logs
from n8nrunner.errors import TaskCancelled, TaskError, TaskTimeout
from n8nrunner.protocol import messages as m
from n8nrunner.protocol.codec import encode_request
from n8nrunner.protocol.json_text import NotJson, decode_member, encode_value

if TYPE_CHECKING:
    from typing import Protocol

    class CallPort(Protocol):
        """A handler's way to its link. Nothing in it waits."""

        max_payload: int

        def new_id(self) -> str:
            """An id that no other call of the connection has."""

        def call(self, task: Task, call_id: str, payload: bytes, call: Call | None) -> None:
            """Posts the text of a call; its answer ends `call`."""


logger = logs.get_logger("n8nrunner.tasks")

#: Lines that one task may log to n8n; what is beyond is counted and left out.
LOG_LINES = 1000
#: Lines about failures of one task in the runner's own log; each 200 characters count as a line.
OWN_LOG_LINES = 200
_LINE = 200
#: Characters of a text of progress in the runner's own log.
_PROGRESS_TEXT = 1000
#: Seconds between two lines of progress in our own log.
PROGRESS_INTERVAL = 1.0
#: A call answered by nothing at all ends this long after the task's own time limit, in seconds.
_CALL_MARGIN = 5.0

#: Characters of an execution's id; a longer one is none.
_ID_LIMIT = 64

# Cancelling is rare and short, so one lock for all tasks spares each of them a lock of its own.
_cancel_lock = threading.Lock()


def renew_lock_after_fork() -> None:
    """Replace the lock in a child process: a thread that is not there may have held it."""
    global _cancel_lock
    _cancel_lock = threading.Lock()


class Call:
    """One call to n8n, on which a handler waits. The link's thread ends it."""

    __slots__ = ("_ended", "error", "value")

    def __init__(self) -> None:
        self._ended = threading.Event()
        self.value: Any = None
        self.error: Any = None

    def end(self, value: Any, error: Any) -> None:
        """Called once, by the link: `error` is None, or says why there is no value."""
        self.value = value
        self.error = error
        self._ended.set()

    def wait(self, timeout: float) -> bool:
        """Whether the call ended within `timeout` seconds."""
        return self._ended.wait(timeout)


class Tally(NamedTuple):
    """What became of a task's calls to a function.

    Attributes:
        function: its name; empty if the runner has no such function.
        done: calls that returned.
        failed: calls that raised, or could not be made.
        again: whether nothing ran, and the node tries again.
    """

    function: str
    done: int
    failed: int
    again: bool = False


class Task:
    """One task, as its handler sees it. Every wait in it ends with the task.

    Attributes:
        id: n8n's id of the task.
        type: the task type.
        settings: what the node sent; any JSON, for most nodes an object.
        deadline: the moment of `time.monotonic()` at which the task times out.
        progress_fraction: what `progress` was last given, from 0 to 1; None if it was not called.
        progress_text: the text that `progress` was last given.
        started_at: the moment of `time.monotonic()` at which the task was handed to the pool.
    """

    __slots__ = (
        "_cancel_event",
        "_cancel_reason",
        "_lines",
        "_log_lines",
        "_on_cancel",
        "_port",
        "_progress_logged_at",
        "_settings",
        "_timed_out",
        "deadline",
        "generation",
        "has_ended",
        "id",
        "left_out",
        "progress_fraction",
        "progress_text",
        "started_at",
        "tally",
        "type",
    )

    def __init__(
        self,
        id: str,
        type: str,
        settings: Any,
        deadline: float,
        generation: int = 0,
        port: CallPort | None = None,
    ) -> None:
        self.id = id
        self.type = type
        self.deadline = deadline
        self.progress_fraction: float | None = None
        self.progress_text = ""
        self.started_at = time.monotonic()
        self._settings = settings
        #: Which connection of its link the task came over.
        self.generation = generation
        self._port = port
        self._cancel_reason: str | None = None
        self._cancel_event: threading.Event | None = None
        self._on_cancel: Callable[[], None] | None = None
        self._timed_out = False
        #: What became of its calls to a function; None if its handler is not a function's.
        self.tally: Tally | None = None
        #: Whether its slot has been given back. The links' thread alone reads and sets it.
        self.has_ended = False
        self._lines = 0
        self._log_lines = 0
        #: Records about the task that the runner's own log has not taken.
        self.left_out = 0
        self._progress_logged_at = 0.0

    def __repr__(self) -> str:
        return f"<Task {self.id} of type {self.type!r}>"

    @property
    def execution_id(self) -> str | None:
        """The id of the execution in n8n, if the node has sent it; None for settings not decoded yet."""
        settings = self._settings
        found = settings.get("executionId") if isinstance(settings, dict) else None
        return found if isinstance(found, str) and found.isalnum() and len(found) <= _ID_LIMIT else None

    def describe(self) -> str:
        """Return what runs and the task's id, for a line of the log: ``score_lead (task 4711)``."""
        settings = self._settings  # decodes nothing: this is called on other threads than the handler's
        name = settings.get("function") if isinstance(settings, dict) else None
        is_name = isinstance(name, str) and name.isidentifier()
        return f"{name if is_name else self.type} (task {self.id})"

    def __reduce__(self) -> Any:
        # In another process the task is plain data: nothing there can reach the connection.
        return Task, (self.id, self.type, self.settings, self.deadline)

    # --- input ----------------------------------------------------------------------------------

    @property
    def settings(self) -> Any:
        """What the node sent. Large settings are decoded here, at the first look, on the handler's thread."""
        if isinstance(self._settings, m.Undecoded):
            self._settings = decode_member(self._settings.text, self._settings.key)
        return self._settings

    @property
    def items(self) -> list[dict[str, Any]]:
        """The input items in n8n's form, ``[{"json": {...}, "binary": {...}}, ...]``; empty if none came."""
        settings = self.settings
        items = settings.get("items") if isinstance(settings, dict) else None
        return items if isinstance(items, list) else []

    # --- cancellation ---------------------------------------------------------------------------

    @property
    def cancelled(self) -> bool:
        """Whether no result is wanted: cancelled in n8n, timed out, connection lost, or runner stopped.

        A thread cannot be ended from outside: a handler that runs for long looks here from time to time.
        """
        return self._cancel_reason is not None

    @property
    def cancel_reason(self) -> str | None:
        """Why the task was cancelled; None if it was not."""
        return self._cancel_reason

    def wait_for_cancel(self, timeout: float | None = None) -> bool:
        """Waits until the task is cancelled, at most `timeout` seconds. A `time.sleep` that can be ended.

        Returns:
            Whether the task is cancelled.
        """
        with _cancel_lock:
            if self._cancel_reason is not None:
                return True
            if self._cancel_event is None:
                self._cancel_event = threading.Event()
        return self._cancel_event.wait(timeout)

    def raise_if_cancelled(self) -> None:
        """Raises `TaskCancelled`, or `TaskTimeout`, if no result is wanted any more."""
        if self._cancel_reason is not None:
            raise (TaskTimeout if self._timed_out else TaskCancelled)(self._cancel_reason)

    def cancel(self, reason: str, timed_out: bool = False) -> None:
        """Tell the handler that no result is wanted. Called by the link; the first reason stays."""
        with _cancel_lock:
            if self._cancel_reason is not None:
                return
            self._timed_out = timed_out
            self._cancel_reason = reason
            callback = self._on_cancel
            if self._cancel_event is not None:
                self._cancel_event.set()
        if callback is not None:
            callback()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the task is cancelled, or now if it is. One callback, which is the pool's."""
        with _cancel_lock:
            self._on_cancel = callback
            if self._cancel_reason is None:
                return
        callback()

    # --- news for n8n ---------------------------------------------------------------------------

    def log(self, *args: Any) -> None:
        """Writes a line to the browser's console in manual runs.

        In production runs n8n prints it if it was started with ``CODE_ENABLE_STDOUT=true``, and drops it
        otherwise. It is sent at once and waits for nothing. A task may log `LOG_LINES` lines.
        """
        if self.cancelled:
            return
        self._lines += 1
        if self._lines > LOG_LINES + 1:
            return
        if self._lines == LOG_LINES + 1:
            params = [f"'Further lines of this task are left out: {LOG_LINES} are the most that it may log'"]
        else:
            params = [_format(value) for value in args]
        self._send(lambda call_id: m.RpcCall(call_id, self.id, "logNodeOutput", None), params, None)

    def progress(self, fraction: float | None = None, text: str = "") -> None:
        """Says how far the task is.

        It shows in `Runner.snapshot` and in the runner's log (level INFO, once a second at most). n8n has no
        place for it; `log` writes to the browser's console.

        Args:
            fraction: from 0 to 1; None if it cannot be said.
            text: what is being done.
        """
        self.progress_fraction = None if fraction is None else min(1.0, max(0.0, float(fraction)))
        self.progress_text = text
        now = time.monotonic()
        if now - self._progress_logged_at >= PROGRESS_INTERVAL:
            self._progress_logged_at = now
            share = "" if self.progress_fraction is None else f" {self.progress_fraction:.0%}"
            shown = text if len(text) <= _PROGRESS_TEXT else text[:_PROGRESS_TEXT] + " ..."
            logger.info("Task %s (%s):%s %s", self.id, self.type, share, shown)

    def has_room_in_log(self, text: str) -> bool:
        """Return whether the runner's own log takes another text about this task. If not, it is left out.

        Each item of a task can fail with a traceback of its own. The first one is always taken.
        """
        if self._log_lines >= OWN_LOG_LINES:
            self.left_out += 1
            return False
        self._log_lines += 1 + text.count("\n") + len(text) // _LINE
        return True

    # --- calls to n8n ---------------------------------------------------------------------------

    def rpc(self, name: str, *params: Any) -> Any:
        """Calls one of the helper functions that n8n offers to runners (docs/protocol.md, "Calls to n8n").

        Args:
            name: such as "helpers.httpRequest".
            params: JSON values; bytes as ``{"type": "Buffer", "data": [...]}``.

        Raises:
            TaskError: n8n refused the call or its function failed.
            TaskCancelled, TaskTimeout: the task ended meanwhile.
        """
        return self._ask(name, lambda call_id: m.RpcCall(call_id, self.id, name, None), list(params))

    def request_data(
        self,
        nodes: str | Sequence[str] = "all",
        *,
        previous_node: bool = True,
        env: bool = True,
        input: bool = True,
        chunk: Mapping[str, int] | None = None,
    ) -> dict[str, Any]:
        """The data of the execution that this task belongs to (docs/protocol.md, "Data of the execution").

        Args:
            nodes: names of the nodes whose output is wanted, or "all".
            previous_node: whether the output of the node before is wanted in any case.
            env: whether the environment's variables are wanted, if n8n gives them.
            input: whether the input items are wanted.
            chunk: ``{"startIndex": 0, "count": 1000}`` for a part of the input items.

        Raises: as `rpc`.
        """
        wanted_input: dict[str, Any] = {"include": input}
        if chunk is not None:
            wanted_input["chunk"] = dict(chunk)
        wanted = {
            "dataOfNodes": nodes if isinstance(nodes, str) else list(nodes),
            "prevNode": previous_node,
            "env": env,
            "input": wanted_input,
        }
        answer = self._ask("request_data", lambda call_id: m.TaskDataRequest(self.id, call_id, {}), wanted)
        return answer if isinstance(answer, dict) else {}

    def request_node_types(self, node_types: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Descriptions of node types.

        Args:
            node_types: such as ``[{"name": "n8n-nodes-base.code", "version": 2}]``.

        Raises: as `rpc`.
        """
        wanted = [dict(node_type) for node_type in node_types]
        answer = self._ask(
            "request_node_types", lambda call_id: m.NodeTypesRequest(self.id, call_id, []), wanted
        )
        return answer if isinstance(answer, list) else []

    def read_file(self, item_index: int, name: str) -> bytes:
        """The bytes of an input item's file.

        n8n sends them as a list of numbers, for which it needs about twenty times their memory: 100 MB and
        more may be the end of it.

        Args:
            item_index: the item's place in the node's input, from 0.
            name: the binary property, most often "data".

        Raises: as `rpc`.
        """
        return _from_buffer(self.rpc("helpers.getBinaryDataBuffer", item_index, name))

    def save_file(self, data: bytes, filename: str | None = None, mime: str | None = None) -> dict[str, Any]:
        """Stores a file in n8n, whose need of memory is that of `read_file`.

        Args:
            data: its bytes.
            filename: its name.
            mime: its type; None lets n8n derive it from the bytes.

        Returns:
            What belongs into an output item: ``{"json": {...}, "binary": {"data": <this>}}``.

        Raises: as `rpc`.
        """
        arguments: list[Any] = [to_buffer(data)]
        if filename is not None or mime is not None:
            arguments.append(filename)
        if mime is not None:
            arguments.append(mime)
        saved = self.rpc("helpers.prepareBinaryData", *arguments)
        if not isinstance(saved, dict):
            raise TaskError(
                f"n8n answered a saved file with {type(saved).__name__}, not with its description"
            )
        return saved

    def http_request(self, **options: Any) -> Any:
        """Lets n8n itself make an HTTP request.

        Args:
            options: n8n's own: url, method, headers, body, qs, json, returnFullResponse, ...

        Raises: as `rpc`.
        """
        return self.rpc("helpers.httpRequest", options)

    # --- the way to the link --------------------------------------------------------------------

    def _send(self, build: Callable[[str], Any], params: Any, call: Call | None) -> None:
        port = self._port
        if port is None:
            raise RuntimeError(
                "this task runs in another process, which has no connection to n8n: read what you need from "
                "task.settings, and return what you have; files, log and calls need an executor of threads"
            )
        call_id = port.new_id()
        message = build(call_id)
        # Encoded here, on the handler's thread: a file of many MB must not hold up the connection.
        try:
            payload = encode_request(message, encode_value(params, "params"))
        except NotJson as error:
            raise TaskError(f"a call to n8n was not made: {error}") from None
        if len(payload) > port.max_payload:
            raise TaskError(
                f"a call to n8n was not made: it has {len(payload)} bytes, of {port.max_payload} allowed "
                "(max_payload of the runner, N8N_RUNNERS_MAX_PAYLOAD)"
            )
        port.call(self, call_id, payload, call)

    def _ask(self, name: str, build: Callable[[str], Any], params: Any) -> Any:
        self.raise_if_cancelled()
        call = Call()
        self._send(build, params, call)
        if not call.wait(max(0.0, self.deadline - time.monotonic()) + _CALL_MARGIN):
            self.raise_if_cancelled()
            raise TaskTimeout(f"n8n did not answer {name} in time")
        if call.error is not None:
            self.raise_if_cancelled()
            raise TaskError(f"{name} failed in n8n: {_message_of(call.error)}")
        value = call.value
        return decode_member(value.text, value.key) if isinstance(value, m.Undecoded) else value


class Undelivered:
    """A result that n8n did not get, or may not have got, because its connection was lost.

    Attributes:
        task_id: n8n's id of the task.
        task_type: the task type.
        broker: the broker's URL.
        failed: whether the handler had raised.
        certain: True if n8n certainly did not get it; False if it was sent and may have arrived.
    """

    __slots__ = ("_payload", "broker", "certain", "failed", "task_id", "task_type")

    def __init__(
        self, task_id: str, task_type: str, broker: str, payload: bytes | None, failed: bool, certain: bool
    ) -> None:
        self.task_id = task_id
        self.task_type = task_type
        self.broker = broker
        self.failed = failed
        self.certain = certain
        self._payload = payload

    def __repr__(self) -> str:
        return f"<Undelivered {self.task_id} of type {self.task_type!r}, certain={self.certain}>"

    @property
    def kept(self) -> bool:
        """Whether the result's text is there. False if it was sent but was too large to keep a copy of."""
        return self._payload is not None

    @property
    def result(self) -> Any:
        """What the handler returned, as n8n would have seen it; None if it raised or nothing was kept."""
        if self._payload is None or self.failed:
            return None
        return json.loads(self._payload)["data"]["result"]

    @property
    def error(self) -> dict[str, Any] | None:
        """What the handler raised, with "message" and more; None if it returned."""
        if self._payload is None or not self.failed:
            return None
        error = json.loads(self._payload)["error"]
        return error if isinstance(error, dict) else None


def to_buffer(data: bytes) -> dict[str, Any]:
    """n8n's form of bytes in a call."""
    return {"type": "Buffer", "data": list(data)}


def _from_buffer(value: Any) -> bytes:
    if isinstance(value, dict) and value.get("type") == "Buffer" and isinstance(value.get("data"), list):
        try:
            return bytes(value["data"])
        except (TypeError, ValueError):
            raise TaskError("n8n sent a file whose bytes are not numbers from 0 to 255") from None
    raise TaskError(f"n8n answered with {type(value).__name__} where a file's bytes were expected")


def _format(value: Any) -> str:
    """As the official runners write what is logged: texts in single quotes, everything else as JSON."""
    if isinstance(value, str):
        return f"'{value}'"
    try:
        return json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):
        return repr(value)


def _message_of(error: Any) -> str:
    if isinstance(error, str):
        return error
    if isinstance(error, m.Undecoded):
        error = decode_member(error.text, error.key)
    if isinstance(error, dict):
        for key in ("message", "description"):
            if isinstance(error.get(key), str):
                return str(error[key])
    return "no reason was given"

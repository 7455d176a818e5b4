"""`Task`, which a handler gets, and `Undelivered`, a result that n8n did not get.

`ActiveTask` adds the parts of a task that are for the runner only.
"""

from __future__ import annotations

import json
import math
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Protocol, TypeVar

from n8nrunner.errors import ProtocolError, TaskCancelled, TaskError, TaskTimeout
from n8nrunner.logs import task_logger
from n8nrunner.protocol import messages as m
from n8nrunner.protocol.codec import encode_with
from n8nrunner.protocol.json_text import NotJson, decode_member, encode_value
from n8nrunner.task_types import TYPE_PREFIX

if TYPE_CHECKING:
    from n8nrunner.hooks import CallHooks
    from n8nrunner.protocol.actions import Ending  # slow to import, and many runners are not started

#: Gets n8n's answer to a call: a value, or else an error.
Answers = queue.SimpleQueue[tuple[m.Json, m.Json]]


class CallPort(Protocol):
    """The link of a task, as far as its handler needs it. No method waits."""

    max_payload: int

    def new_id(self) -> str: ...

    def call(self, task: ActiveTask, call_id: str, payload: bytes, answers: Answers | None) -> None: ...

    def limit_time(self, task: ActiveTask, limit: float) -> None: ...


_Kind = TypeVar("_Kind")

#: Lines that one task may log to n8n. Further lines are left out.
LOG_LINES = 1000
#: Lines about failures of one task in the runner's own log; each 200 characters count as a line.
OWN_LOG_LINES = 200
_LINE = 200
#: Characters of the text of `Task.progress` in the runner's own log.
_PROGRESS_TEXT = 1000
#: Failures of one task that are kept for the runner's last errors: each of thousands of items can fail.
FAILURES = 5
#: Seconds between two lines about a task's progress in the runner's own log.
PROGRESS_INTERVAL = 1.0
#: Seconds after the task's time limit at which a call without an answer ends.
_CALL_MARGIN = 5.0

#: Longest execution id that is accepted, in characters.
_ID_LIMIT = 64
#: Characters of a node's name that are kept.
_NAME_LIMIT = 200

# One lock for all tasks, because cancelling is rare and short and a lock for each task would cost time.
_cancel_lock = threading.Lock()


def renew_lock_after_fork() -> None:
    """Replace the lock in a child process: a thread of the parent process may have held it."""
    global _cancel_lock
    _cancel_lock = threading.Lock()


class Failure(NamedTuple):
    """Why a call has failed, or a task."""

    kind: str  #: a line without a text of the application, such as the type of the exception.
    message: str  #: what n8n shows.
    description: str | None = None  #: what n8n shows below.
    traceback: str | None = None
    item: int | None = None  #: the first item of the call; None for a task.


class Tally(NamedTuple):
    """The outcome of a task's calls to a function."""

    function: str  #: the function's name; empty if the runner has no such function.
    done: Sequence[float]  #: the seconds inside of each call that returned.
    failed: Sequence[float]  #: the same of each call that raised; 0 for each call that could not be made.
    again: bool = False  #: whether nothing ran, and the node will send the task again.


class Task:
    """One task, as its handler sees it. Every method that waits ends when the task ends.

    Attributes:
        id: n8n's id of the task.
        type: the task type.
        deadline: the moment of `time.monotonic()` at which the task times out.
        progress_fraction: the fraction that `progress` was called with last, from 0 to 1, or None.
        progress_text: the text that `progress` was called with last.
    """

    __slots__ = (
        "_cancel_event", "_cancel_reason", "_lines", "_port", "_progress_logged_at", "_settings",
        "_timed_out", "deadline", "id", "progress_fraction", "progress_text", "type",
    )  # fmt: skip

    def __init__(self, id: str, type: str, settings: Any, deadline: float) -> None:
        self.id = id
        self.type = type
        self.deadline = deadline
        self.progress_fraction: float | None = None
        self.progress_text = ""
        self._settings = settings
        self._port: CallPort | None = None
        self._cancel_reason: str | None = None
        self._cancel_event: threading.Event | None = None
        self._timed_out = False
        self._lines = 0
        self._progress_logged_at = -math.inf

    def __repr__(self) -> str:
        return f"<Task {self.id} of type {self.type!r}>"

    @property
    def execution_id(self) -> str | None:
        """The id of the execution in n8n; None if the node sent none, or large settings were not read yet."""
        settings = self._settings
        found = settings.get("executionId") if isinstance(settings, dict) else None
        return found if isinstance(found, str) and found.isalnum() and len(found) <= _ID_LIMIT else None

    @property
    def node_name(self) -> str | None:
        """The name of the node in the workflow; None as for `execution_id`."""
        settings = self._settings
        found = settings.get("nodeName") if isinstance(settings, dict) else None
        return found[:_NAME_LIMIT] if isinstance(found, str) and found else None

    # --- input ----------------------------------------------------------------------------------

    @property
    def settings(self) -> Any:
        """The settings that the node sent: any JSON value, an object for most nodes.

        Large settings are decoded when they are first read, on the thread that reads them.

        Raises:
            TaskError: Python cannot decode them, such as for an integer of too many digits.
        """
        self._settings = _decoded(self._settings)
        return self._settings

    @property
    def items(self) -> list[dict[str, Any]]:
        """The input items as n8n has them: ``[{"json": {...}, "binary": {...}}, ...]``. May be empty."""
        settings = self.settings
        items = settings.get("items") if isinstance(settings, dict) else None
        return items if isinstance(items, list) else []

    # --- cancellation ---------------------------------------------------------------------------

    @property
    def cancelled(self) -> bool:
        """Whether the task was cancelled or timed out, lost its connection, or the runner stops.

        Python cannot end a thread. A handler that takes long should read this from time to time, and return.
        In a process of an executor, a handler does not learn of its cancellation.
        """
        return self._cancel_reason is not None

    @property
    def cancel_reason(self) -> str | None:
        """The reason of the cancellation; None if the task is not cancelled."""
        return self._cancel_reason

    def wait_for_cancel(self, timeout: float | None = None) -> bool:
        """Wait until the task is cancelled. Use it in place of `time.sleep`.

        Args:
            timeout: the longest wait, in seconds; None for no limit.

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
        """Raise an error if n8n wants no result any more, which ends the handler.

        Raises:
            TaskCancelled: the task was cancelled, its connection was lost, or the runner stops.
            TaskTimeout: the task timed out.
        """
        if self._cancel_reason is not None:
            raise (TaskTimeout if self._timed_out else TaskCancelled)(self._cancel_reason)

    # --- output -----------------------------------------------------------------------------------

    def log(self, *args: Any) -> None:
        """Write a line to the browser's console, in executions that were started in n8n's editor.

        In other executions n8n prints the line if n8n was started with ``CODE_ENABLE_STDOUT=true``, and drops
        it otherwise. This does not wait. A task may log 1000 lines; further lines are left out.

        Args:
            *args: the values. Strings are shown in single quotes, other values as JSON.

        Raises:
            TaskError: the line is larger than `RunnerConfig.max_payload`.
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
        """Report the progress of the task.

        `Runner.snapshot` and the runner's log show it, the log with level INFO and once a second at most. n8n
        does not show it; `log` writes to the browser's console. In a process of an executor, only the log of
        that process shows it.

        Args:
            fraction: the part that is done, from 0 to 1; None if it is unknown.
            text: a description of the current step.
        """
        self.progress_fraction = None if fraction is None else min(1.0, max(0.0, float(fraction)))
        self.progress_text = text
        now = time.monotonic()
        if now - self._progress_logged_at >= PROGRESS_INTERVAL:
            self._progress_logged_at = now
            share = "" if self.progress_fraction is None else f" {self.progress_fraction:.0%}"
            shown = text if len(text) <= _PROGRESS_TEXT else text[:_PROGRESS_TEXT] + " ..."
            facts = {"task": self.id, "execution": self.execution_id, "node": self.node_name}
            task_logger.info("Task %s (%s):%s %s", self.id, self.type, share, shown, extra=facts)

    # --- calls to n8n ---------------------------------------------------------------------------

    def rpc(self, name: str, *params: Any) -> Any:
        """Call a helper function of n8n and wait for its result (docs/protocol.md, "Calls to n8n").

        Args:
            name: the function's name, such as "helpers.httpRequest".
            *params: the arguments, as JSON values. Bytes are ``{"type": "Buffer", "data": [...]}``.

        Returns:
            The result, as a JSON value.

        Raises:
            TaskError: n8n refused the call, its function failed, its answer cannot be used, or the arguments
                are too large or not JSON.
            TaskCancelled: the task was cancelled before the answer came.
            TaskTimeout: the task timed out before the answer came.
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
        """Ask n8n for the data of the task's execution (docs/protocol.md, "Data of the execution").

        Args:
            nodes: the names of the nodes whose output to send, or "all".
            previous_node: whether to send the output of the previous node in any case.
            env: whether to send the environment variables, if n8n permits that.
            input: whether to send the input items.
            chunk: a part of the input items, such as ``{"startIndex": 0, "count": 1000}``; None for all.

        Returns:
            The data, as a JSON object.

        Raises:
            TaskError, TaskCancelled, TaskTimeout: as for `rpc`.
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
        return _expect(dict, answer, "request_data")

    def request_node_types(self, node_types: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Ask n8n for descriptions of node types.

        Args:
            node_types: the names and versions, such as ``[{"name": "n8n-nodes-base.code", "version": 2}]``.

        Returns:
            The descriptions, as JSON objects.

        Raises:
            TaskError, TaskCancelled, TaskTimeout: as for `rpc`.
        """
        wanted = [dict(node_type) for node_type in node_types]
        name = "request_node_types"
        answer = self._ask(name, lambda call_id: m.NodeTypesRequest(self.id, call_id, []), wanted)
        return _expect(list, answer, name)

    def read_file(self, item_index: int, name: str) -> bytes:
        """Read the file of an input item.

        n8n sends the bytes as a list of numbers and needs about twenty times their memory for it. A file of
        100 MB or more can end n8n.

        Args:
            item_index: the index of the item in the node's input, from 0.
            name: the binary property, which is "data" for most nodes.

        Returns:
            The bytes of the file.

        Raises:
            TaskError, TaskCancelled, TaskTimeout: as for `rpc`.
        """
        return _from_buffer(self.rpc("helpers.getBinaryDataBuffer", item_index, name))

    def save_file(self, data: bytes, filename: str | None = None, mime: str | None = None) -> dict[str, Any]:
        """Store a file in n8n. n8n needs as much memory as for `read_file`.

        Args:
            data: the bytes of the file.
            filename: the name of the file.
            mime: the MIME type; None to let n8n find it from the name and the bytes.

        Returns:
            The description of the file for an output item: ``{"json": {...}, "binary": {"data": <this>}}``.

        Raises:
            TaskError, TaskCancelled, TaskTimeout: as for `rpc`.
        """
        arguments: list[Any] = [{"type": "Buffer", "data": list(data)}, filename, mime]
        while arguments[-1] is None:
            arguments.pop()
        return _expect(dict, self.rpc("helpers.prepareBinaryData", *arguments), "save_file")

    def http_request(self, **options: Any) -> Any:
        """Let n8n make an HTTP request.

        Args:
            **options: n8n's options: url, method, headers, body, qs, json, returnFullResponse and others.

        Returns:
            The body of the response, or what the options ask for.

        Raises:
            TaskError, TaskCancelled, TaskTimeout: as for `rpc`.
        """
        return self.rpc("helpers.httpRequest", options)

    # --- sending ---------------------------------------------------------------------------------

    def _send(self, build: Callable[[str], m.Request], params: object, answers: Answers | None) -> None:
        port = self._port
        if port is None:
            raise RuntimeError(
                "this task runs in another process, which has no connection to n8n: read task.settings, and "
                "return what you have; task.log and calls to n8n need an executor of threads"
            )
        call_id = port.new_id()
        message = build(call_id)
        # Encoded here, on the handler's thread: a file of many MB must not hold up the connection.
        try:
            payload = encode_with(message, encode_value(params, "params"))
        except NotJson as error:
            raise TaskError(f"a call to n8n was not made: {error}") from None
        if len(payload) > port.max_payload:
            raise TaskError(
                f"a call to n8n was not made: it has {len(payload)} bytes, of {port.max_payload} allowed "
                "(max_payload of the runner, N8N_RUNNERS_MAX_PAYLOAD)"
            )
        assert isinstance(self, ActiveTask)  # no other task has a port
        port.call(self, call_id, payload, answers)

    def _ask(self, name: str, build: Callable[[str], m.Request], params: object) -> Any:
        self.raise_if_cancelled()
        answers: Answers = queue.SimpleQueue()
        self._send(build, params, answers)
        try:
            value, error = answers.get(timeout=max(0.0, self.deadline - time.monotonic()) + _CALL_MARGIN)
        except queue.Empty:
            self.raise_if_cancelled()
            raise TaskTimeout(f"n8n did not answer {name} in time") from None
        if error is not None:
            self.raise_if_cancelled()
            raise TaskError(f"{name} failed in n8n: {_message_of(error)}")
        return _decoded(value)


class ActiveTask(Task):
    """A task with the parts that the links, the pool and the functions use.

    The object that a handler gets is of this class, so that a task costs one object. The public class `Task`
    is what users see of it.

    Args:
        port: its link; None in a process of an executor.
        generation: the number of its connection. Each link counts its connections.
        error_details: whether the runner's own log shows the texts of exceptions that the handler raises.

    Attributes:
        begun_at: the moment of `time.monotonic()` at which its handler began in this process, or 0.
        duration: the seconds inside of its handler.
        ending: how it has ended, if its result is not wanted any more; otherwise None.
        failures: why it, or calls of it, have failed; a bounded number.
        hooks: the application's functions before and after each call; None without one.
        has_ended: whether its slot has been given back. Only the links' thread uses this.
        left_out: the number of records about the task that the runner's own log left out.
        logged: the handler's exception, if it is logged already, and its error object for n8n.
        started_at: the moment of `time.monotonic()` at which the task was handed to the pool.
        tally: the outcome of its calls to a function; None if its handler is not a function's.
    """

    __slots__ = (
        "_log_lines", "_on_cancel", "begun_at", "duration", "ending", "error_details", "failures",
        "generation", "has_ended", "hooks", "left_out", "logged", "started_at", "tally",
    )  # fmt: skip

    def __init__(
        self,
        id: str,
        type: str,
        settings: Any,
        deadline: float,
        port: CallPort | None = None,
        generation: int = 0,
        error_details: bool = True,
    ) -> None:
        super().__init__(id, type, settings, deadline)
        self._port = port
        self.error_details = error_details
        self.generation = generation
        self.started_at = time.monotonic()
        self.begun_at = self.duration = 0.0
        self.ending: Ending | None = None
        self.tally: Tally | None = None
        self.failures: tuple[Failure, ...] = ()
        self.hooks: CallHooks | None = None
        self.logged: tuple[BaseException, dict[str, str]] | None = None
        self.has_ended = False
        self.left_out = 0
        self._log_lines = 0
        self._on_cancel: Callable[[], None] | None = None

    def __reduce__(self) -> tuple[type[ActiveTask], tuple[object, ...]]:
        # In another process the task is plain data: nothing there can reach the connection. So the time limit
        # of a function's call is applied here.
        settings = self.settings
        if self.type.startswith(TYPE_PREFIX):
            self.limit_time()
        return ActiveTask, (self.id, self.type, settings, self.deadline, None, 0, self.error_details)

    @property
    def in_other_process(self) -> bool:
        """Whether the task was sent to a process of an executor, which Ctrl-C may reach."""
        return self._port is None

    def limit_time(self) -> None:
        """Apply the time limit that the settings have, if they have one and it ends before the runner's.

        Large settings that were not read yet count as settings without a limit.
        """
        settings = self._settings
        limit = settings.get("timeLimit") if isinstance(settings, dict) else None
        is_number = isinstance(limit, (int, float)) and not isinstance(limit, bool)
        if limit is not None and is_number and 0 < limit < self.deadline - self.started_at:
            self.deadline = self.started_at + limit
            if self._port is not None:
                self._port.limit_time(self, limit)

    @property
    def function(self) -> str | None:
        """The name of the function that a node calls; None for the handler of a task type."""
        settings = self._settings  # decodes nothing: this is called on other threads than the handler's
        name = settings.get("function") if isinstance(settings, dict) else None
        is_name = self.type.startswith(TYPE_PREFIX) and isinstance(name, str) and name.isidentifier()
        return name if is_name else None

    def describe(self) -> str:
        """Return the function or type and the task's id for the log, such as ``score_lead (task 4711)``."""
        return f"{self.function or self.type} (task {self.id})"

    def note_failure(self, failure: Failure) -> None:
        """Keep why a call has failed, for the runner's last errors."""
        if len(self.failures) < FAILURES:
            self.failures += (failure,)

    def cancel(self, reason: str, ending: Ending = "cancelled") -> None:
        """Tell the handler that n8n wants no result any more. The first reason stays."""
        with _cancel_lock:
            if self._cancel_reason is not None:
                return
            self._timed_out = ending == "timed_out"
            self.ending = ending
            self._cancel_reason = reason
            callback = self._on_cancel
            if self._cancel_event is not None:
                self._cancel_event.set()
        if callback is not None:
            callback()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the task is cancelled, or now if it is. It replaces an earlier callback."""
        with _cancel_lock:
            self._on_cancel = callback
            if self._cancel_reason is None:
                return
        callback()

    def admit_to_log(self, text: str) -> bool:
        """Count a text about this task, and return whether the runner's own log shows it.

        Each item of a task can fail with a traceback of its own. The first text is always shown.
        """
        if self._log_lines >= OWN_LOG_LINES:
            self.left_out += 1
            return False
        self._log_lines += 1 + text.count("\n") + len(text) // _LINE
        return True


class Undelivered:
    """A result that n8n did not get, or may not have got, because the connection was lost.

    Attributes:
        task_id: n8n's id of the task.
        task_type: the task type.
        broker: the broker's URL.
        failed: whether the task failed. `error` then has the error.
        certain: True if n8n did not get the result; False if it was sent and may have arrived.
        function: the name of the function that was called; None for the handler of a task type.
    """

    __slots__ = ("_payload", "broker", "certain", "failed", "function", "task_id", "task_type")

    def __init__(
        self,
        task_id: str,
        task_type: str,
        broker: str,
        payload: bytes | None,
        failed: bool,
        certain: bool,
        function: str | None = None,
    ) -> None:
        self.task_id = task_id
        self.task_type = task_type
        self.broker = broker
        self.failed = failed
        self.certain = certain
        self.function = function
        self._payload = payload

    def __repr__(self) -> str:
        return f"<Undelivered {self.task_id} of type {self.task_type!r}, certain={self.certain}>"

    @property
    def kept(self) -> bool:
        """Whether the result was kept. False if it was sent when other copies used up the memory for them."""
        return self._payload is not None

    @property
    def result(self) -> Any:
        """The handler's return value, as a JSON value; None if the task failed or nothing was kept."""
        if self._payload is None or self.failed:
            return None
        return json.loads(self._payload)["data"]["result"]

    @property
    def error(self) -> dict[str, Any] | None:
        """The task's error, an object with "message"; None if it did not fail or nothing was kept."""
        if self._payload is None or not self.failed:
            return None
        error = json.loads(self._payload)["error"]
        return error if isinstance(error, dict) else None


def _from_buffer(value: m.Json) -> bytes:
    if isinstance(value, dict) and value.get("type") == "Buffer" and isinstance(value.get("data"), list):
        try:
            return bytes(value["data"])
        except (TypeError, ValueError):
            raise TaskError("n8n sent a file whose bytes are not numbers from 0 to 255") from None
    raise TaskError(f"n8n answered with {type(value).__name__} where a file's bytes were expected")


def _decoded(value: Any) -> Any:
    """Return a value that n8n sent, decoded here, on the handler's thread, or raise `TaskError`."""
    if not isinstance(value, m.Undecoded):
        return value
    try:
        return decode_member(value.text, value.key)
    except ProtocolError as error:
        raise TaskError(f"n8n sent data that cannot be read: {error}") from None


def _expect(kind: type[_Kind], value: object, name: str) -> _Kind:
    """Return what n8n answered to a call, if it has the type that the call returns."""
    if not isinstance(value, kind):
        raise TaskError(f"n8n answered {name} with {type(value).__name__}, expected {kind.__name__}")
    return value


def _format(value: Any) -> str:
    """Return a logged value as n8n's own runners write it: a string in single quotes, others as JSON."""
    if isinstance(value, str):
        return f"'{value}'"
    try:
        return json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):
        return repr(value)


def _message_of(error: m.Json) -> str:
    error = _decoded(error)
    if isinstance(error, str):
        return error
    if isinstance(error, dict):
        for key in ("message", "description"):
            if isinstance(error.get(key), str):
                return str(error[key])
    return "no reason was given"

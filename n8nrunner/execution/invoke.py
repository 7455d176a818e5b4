"""Runs one handler and encodes its answer, in this process or in a process of an executor.

Thread: the pool's, or one of an executor. An executor of processes pickles `invoke` and its arguments.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Callable, NamedTuple

from n8nrunner import logs
from n8nrunner.errors import TaskError
from n8nrunner.formatters import format_traceback
from n8nrunner.hooks import Around, Call, CallHooks
from n8nrunner.logs import task_logger
from n8nrunner.protocol.codec import encode_error, encode_result
from n8nrunner.protocol.json_text import Encoded, NotJson, encode_value
from n8nrunner.task import ActiveTask, Failure, Tally

#: Takes a task and returns a JSON value. The parameter of an application's handler is a `Task`.
Handler = Callable[[ActiveTask], object]

#: Characters of an exception's message or description that n8n shows.
_MESSAGE_LIMIT = 10_000

#: The folders whose functions call a handler. Tracebacks leave their frames out.
_CALLERS = tuple(
    os.path.join(os.path.dirname(os.path.dirname(__file__)), folder, "")
    for folder in ("execution", "functions")
)


class Answer(NamedTuple):
    """The end of a task."""

    payload: bytes  #: the JSON text of a ``runner:taskdone`` or, if `failed`, of a ``runner:taskerror``.
    failed: bool  #: whether the task failed.
    interrupted: bool = False  #: whether Ctrl-C ended the handler in another process.
    #: the seconds inside of the handler; 0 if it did not begin. Not moments, because other machines have
    #: another clock.
    duration: float = 0.0
    #: the outcome of the task's calls to a function; None if its handler is not a function's.
    tally: Tally | None = None
    failures: tuple[Failure, ...] = ()  #: why the task, or calls of it, have failed.


def invoke(handler: Handler, task: ActiveTask, around: Around, max_payload: int) -> Answer:
    """Run a handler, within the context and the hooks of `around`, and return the answer to its task.

    Exceptions become answers too. An answer has at most `max_payload` bytes. In another process, Ctrl-C
    raises `KeyboardInterrupt` in the handler or while its result is encoded.
    """
    try:
        return _run(handler, task, around, max_payload)
    except BaseException as error:  # noqa: BLE001 - SystemExit in a handler ends the task, not the pool
        if isinstance(error, KeyboardInterrupt) and task.in_other_process:
            return _interrupted(task)
        return _failed(task, error, max_payload)
    finally:
        if task.left_out:
            message = "%s: %d more failures are left out of the log"
            task_logger.error(message, log_prefix(task), task.left_out, extra=facts_of(task))


def _run(handler: Handler, task: ActiveTask, around: Around, max_payload: int) -> Answer:
    """Run a handler, and encode its result. Raises what the handler, the context or the result raises."""
    result = None  # stays so if the context suppresses the handler's exception
    task.hooks = around.calls
    if around.context is None:
        result = _call(handler, task)
    else:
        with around.enter(task):
            result = _call(handler, task)
    try:
        text = result.text if type(result) is Encoded else encode_value(result)
        payload = encode_result(task.id, text)
    except NotJson as error:
        kind = "The result cannot be sent to n8n"  # the error names the place by keys, which are the user's
        return _refused(task, max_payload, kind, f"{kind}: {error}")
    if len(payload) > max_payload:
        message = f"The result is too large: {len(payload)} bytes, and {max_payload} are allowed"
        return _refused(
            task,
            max_payload,
            message,
            message,
            "Raise N8N_RUNNERS_MAX_PAYLOAD for n8n and for the runner, or return less, such as a file.",
        )
    if task_logger.isEnabledFor(logging.DEBUG):
        task_logger.debug("%s finished after %.3f s", task.describe(), time.monotonic() - task.started_at)
    return Answer(payload, False, False, task.duration, task.tally, task.failures)


def _call(handler: Handler, task: ActiveTask) -> object:
    if task.hooks is not None and not getattr(handler, "makes_calls", False):
        return _call_with_hooks(handler, task, task.hooks)
    begun = task.begun_at = time.monotonic()
    try:
        return handler(task)
    finally:
        task.duration = time.monotonic() - begun


def _call_with_hooks(handler: Handler, task: ActiveTask, hooks: CallHooks) -> object:
    call = Call(task, None, None)
    begun = task.begun_at = time.monotonic()
    try:
        hooks.start(call, task)
        begun = time.monotonic()
        result = handler(task)
    except BaseException as error:
        task.duration = time.monotonic() - begun
        # The hooks may end a trace, so the error is logged before them.
        if not ends_task(task, error):
            task.logged = error, log_error(task, error)
        hooks.end(call, task, task.duration, error)
        del call  # it has the error, whose traceback has this frame
        raise
    task.duration = time.monotonic() - begun
    hooks.end(call, task, task.duration)
    return result


def ends_task(task: ActiveTask, error: BaseException) -> bool:
    """Return whether an exception is the end of a task that is cancelled or interrupted, not a failure."""
    return task.cancelled or (isinstance(error, KeyboardInterrupt) and task.in_other_process)


def failure(task: ActiveTask, message: str, description: str | None = None) -> Answer:
    """Return the answer for a task whose handler could not run."""
    task.note_failure(Failure(message, message, description))
    return _answer(task, None, _error_object(message, description))


def _refused(
    task: ActiveTask, max_payload: int, kind: str, message: str, description: str | None = None
) -> Answer:
    facts = facts_of(task, outcome="failed")
    shown = message if task.error_details else kind
    task_logger.error("%s failed. %s", log_prefix(task), shown, extra=facts)
    task.note_failure(Failure(kind, message, description))
    return _answer(task, max_payload, _error_object(message, description))


def _failed(task: ActiveTask, error: BaseException, max_payload: int) -> Answer:
    if task.cancelled:
        # n8n does not want the answer, and a cancelled handler is meant to end by raising.
        facts = facts_of(task, outcome=task.ending)
        task_logger.info("%s ended after its cancellation", log_prefix(task), extra=facts)
        return failure(task, "cancelled")
    logged, task.logged = task.logged, None
    is_logged = logged is not None and logged[0] is error  # the context may have raised another one
    return _answer(task, max_payload, logged[1] if logged and is_logged else log_error(task, error))


def _interrupted(task: ActiveTask) -> Answer:
    """Return the answer for a task that Ctrl-C has ended in a process of an executor."""
    task_logger.error(
        "%s was cut short: Ctrl-C reached its process. To let tasks finish, pass "
        "initializer=n8nrunner.ignore_interrupts to the executor",
        log_prefix(task),
        extra=facts_of(task, outcome="unfinished"),
    )
    answer = failure(task, "The process of the task was interrupted", "Run it again.")
    return answer._replace(interrupted=True)


def log_error(
    task: ActiveTask, error: BaseException, where: str = "", item: int | None = None
) -> dict[str, str]:
    """Log a handler's exception, if the log has room for the task. Return the error object for n8n.

    `where` is a place in the task, and `item` the first item of a call.
    """
    described = _describe(error)
    message, stack = described["message"], described.get("stack")
    kind = logs.describe(error)
    facts = facts_of(task, item=item, outcome="failed")
    task.note_failure(Failure(kind, message, described.get("description"), stack, item))
    if not task.error_details:
        if task.admit_to_log(""):
            level = logging.INFO if stack is None else logging.ERROR
            task_logger.log(level, "%s failed: %s", log_prefix(task, where), kind, extra=facts)
    elif stack is None:
        if task.admit_to_log(message):
            shown = f"{type(error).__name__}: {message}"
            task_logger.info("%s failed: %s", log_prefix(task, where), shown, extra=facts)
    elif task.admit_to_log(stack):
        facts["traceback"] = stack.rstrip()
        task_logger.error("%s failed: %s", log_prefix(task, where), message, extra=facts)
    return described


def log_prefix(task: ActiveTask, where: str = "") -> str:
    """Return the beginning of a line of the log: the task, the place in it, and what is known of n8n's."""
    node, execution = task.node_name, task.execution_id
    parts = [
        f"Task {task.id} ({task.type})",
        where,
        f"node {node}" if node else "",
        f"execution {execution}" if execution else "",
    ]
    return ", ".join(part for part in parts if part)


def facts_of(task: ActiveTask, **more: object) -> dict[str, object]:
    """Return the attributes of a record of the log about a task (`n8nrunner.formatters.FIELDS`)."""
    return {
        "task": task.id,
        "function": task.function or task.type,
        "execution": task.execution_id,
        "node": task.node_name,
        **more,
    }


def _describe(error: BaseException) -> dict[str, str]:
    """Return a handler's exception for the workflow's author: "message", and "description" or "stack"."""
    if isinstance(error, TaskError):
        # A subclass may have put anything there, or not have called the constructor.
        message = text_of(getattr(error, "message", error)) or type(error).__name__
        description = getattr(error, "description", None)
        return _error_object(message, None if description is None else text_of(description))
    name, text = type(error).__name__, text_of(error)
    return {**_error_object(f"{name}: {text}" if text else name), "stack": _stack_of(error)}


def _error_object(message: str, description: str | None = None) -> dict[str, str]:
    """Return the error object of n8n's message."""
    error = {"message": _cut(message)}
    return error if description is None else {**error, "description": _cut(description)}


def _answer(task: ActiveTask, max_payload: int | None, error: dict[str, str]) -> Answer:
    payload = encode_error(task.id, error)
    if max_payload is not None and len(payload) > max_payload:
        # n8n would close the connection, and fail everything on it. A character may take twelve bytes.
        shorter = error["message"][: max(0, max_payload - 200) // 12]
        payload = encode_error(task.id, {"message": f"{shorter} ..."})
    return Answer(payload, True, False, task.duration, task.tally, task.failures)


def error_text(error: BaseException) -> str:
    """Return the type and the text of an exception."""
    return f"{type(error).__name__}: {text_of(error)}"


def text_of(value: object) -> str:
    """Return ``str(value)``, or a replacement if that raises."""
    try:
        return str(value)
    except BaseException:  # noqa: BLE001 - an exception whose text cannot be made is still reported
        return "(its text could not be made)"


def _cut(text: str) -> str:
    return text if len(text) <= _MESSAGE_LIMIT else text[:_MESSAGE_LIMIT] + " ..."


def _stack_of(error: BaseException) -> str:
    """Return the handler's own traceback, without the frames of its callers in n8nrunner."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_CALLERS):
        trace = trace.tb_next
    return format_traceback((type(error), error, trace))

"""Runs the tasks of generated nodes. A task has one call of a function for each item.

docs/protocol.md, "Functions", has the form of settings and results. `Functions.add`, `remove` and `types` run
under the registry's lock, and everything else on the handler's thread.
"""

from __future__ import annotations

import collections.abc
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable

from n8nrunner import logs
from n8nrunner.errors import TaskCancelled, TaskError
from n8nrunner.execution.invoke import ends_task, facts_of, log_error, log_prefix
from n8nrunner.functions.arguments import (
    ItemCall,
    SignatureChanged,
    check_names,
    convert_arguments,
    join_calls,
    read_calls,
)
from n8nrunner.functions.conversion import Conversion, Mismatch, UnknownZone
from n8nrunner.functions.files import FileTransfer
from n8nrunner.functions.function import Function, Limit
from n8nrunner.functions.items import Item, ResultItems, make_encodable, make_items, pair
from n8nrunner.hooks import Call
from n8nrunner.logs import task_logger
from n8nrunner.protocol.json_text import Encoded, NotJson, encode_value
from n8nrunner.task import ActiveTask, Failure, Tally
from n8nrunner.task_types import TYPE_PREFIX, task_type

#: The version of settings and result. A node may have an older or a newer one than the runner.
VERSION = 1


class Functions:
    """The functions of one runner, by name. A call of this object handles a task of one of their types."""

    #: Whether the hooks of calls are called here, and not around the whole task.
    makes_calls = True

    def __init__(self) -> None:
        #: Replaced, never changed in place, because other threads iterate over it.
        self.by_name: dict[str, Function] = {}
        # The last limit of each function that has, or had, one: a function that was removed may still run.
        self._limits: dict[str, Limit] = {}
        # The names of the functions that were left out of the copy in another process, for an error.
        self._left_out: tuple[str, ...] = ()

    def add(self, function: Function) -> None:
        """Register a function, or replace the one of its name."""
        name = function.signature.name
        function.share_limit(self._limits)
        self.by_name = {**self.by_name, name: function}

    def remove(self, name: str) -> None:
        """Remove a function. Its running calls go on."""
        self.by_name = {other: function for other, function in self.by_name.items() if other != name}

    def successor(self, functions: Iterable[Function]) -> Functions:
        """Return other functions, in place of all of these. Tasks that run keep these.

        A limit counts the calls of a function and of the one that replaces it together.
        """
        successor = Functions()
        successor._limits = dict(self._limits)
        for function in functions:
            successor.add(function)
        return successor

    def types(self, runner_name: str) -> dict[str, int | None]:
        """Return the task types of all functions, with their limits.

        A function with a limit has a task type of its own. Tasks over the limit wait in n8n, where another
        runner can take them. The type stays when the limit or the function is removed, so that a node from
        before gets its result, or an error at once instead of n8n's after a minute.
        """
        types: dict[str, int | None] = {task_type(runner_name): None}
        for name in self._limits:
            function = self.by_name.get(name)
            types[task_type(runner_name, name)] = None if function is None else function.limit
        return types

    def descriptions(self) -> list[str]:
        """Return the functions' parts of the runner's answer, sorted by their titles."""
        functions = sorted(self.by_name.values(), key=lambda function: function.order)
        return [function.described for function in functions if function.described is not None]

    def for_process(self, task: ActiveTask) -> Functions:
        """Return the same functions for one task. A pickle has only the function that the task calls."""
        return _FunctionsOfTask(self, task)

    def __call__(self, task: ActiveTask) -> Encoded | dict[str, Any]:
        """Run a task's calls.

        Returns:
            The result that docs/protocol.md, "Functions", describes.

        Raises:
            TaskError: the settings are not those of a node of n8nrunner.
            TaskCancelled, TaskTimeout: the task was cancelled or timed out.
        """
        settings = task.settings
        if not isinstance(settings, dict) or not isinstance(settings.get("function"), str):
            raise TaskError(
                "This task was not sent by a node of n8nrunner",
                "Its settings have no function. Write the node again with: n8nrunner node",
            )
        if settings.get("timeLimit") is not None:
            _check_time_limit(settings["timeLimit"])
        task.limit_time()
        name = settings["function"]
        version = settings.get("version")
        # `lastTry` is False if the node will send the task again after one of these errors.
        will_retry = settings.get("lastTry") is False
        if not isinstance(version, int) or version > VERSION:
            message = f"the node is newer than {_this_runner(task)} (version {version!r:.20})"
            return _refuse(task, Tally("", (), ()), "newer_node", message)
        function = self.by_name.get(name)
        if function is None:
            names = ", ".join(sorted(self.by_name or self._left_out)) or "none"
            message = f"{_this_runner(task)} has no function {name!r:.100}; it has {names}"
            # The node's field can be an expression with a value of an item.
            shown = repr(task.function) if task.function else "of the name that the node gives"
            log_message = f"{_this_runner(task)} has no function {shown}; it has {names}"
            tally = Tally("", (), (), will_retry)
            return _refuse(task, tally, "unknown_function", message, log_message=log_message)
        calls = read_calls(settings)
        try:
            return _FunctionTask(task, function, settings).run(calls)
        except SignatureChanged as error:
            items = [None] if function.signature.batch else [call.item for call in calls]
            tally = Tally(name, (), (0.0,) * len(items), will_retry)
            message = f"{error} ({_this_runner(task)})"
            refusal = "the call does not fit the function"
            result = _refuse(task, tally, "changed", message, function, refusal)
            if not will_retry:
                for item in items:
                    _note_not_made(task, name, item, TaskError(message))
            return result


class _FunctionsOfTask(Functions):
    """The functions of a runner, for one task in another process.

    So a function that cannot be pickled fails alone, and a task costs the same with any number of functions.
    """

    def __init__(self, functions: Functions, task: ActiveTask) -> None:
        super().__init__()
        self.by_name = functions.by_name
        self._task = task

    def __reduce__(self) -> tuple[Callable[..., Functions], tuple[Function | None, tuple[str, ...]]]:
        # The name is read only here, because large settings are decoded when the task is pickled.
        settings = self._task.settings
        name = settings.get("function") if isinstance(settings, dict) else None
        called = self.by_name.get(name) if isinstance(name, str) else None
        return _copy_of, (called, () if called else tuple(self.by_name))


def _copy_of(called: Function | None, left_out: tuple[str, ...]) -> Functions:
    """Return the functions of a task in another process: the one that it calls, or names for an error."""
    functions = Functions()
    functions._left_out = left_out
    if called is not None:
        functions.by_name = {called.signature.name: called}
    return functions


def _check_time_limit(limit: Any) -> None:
    """Raise `TaskError` if this is not a number of seconds above 0."""
    is_number = isinstance(limit, (int, float)) and not isinstance(limit, bool)
    if not is_number or limit <= 0:
        # Not the value, which may be of an item: the message is logged.
        shown = "a lower number" if is_number else type(limit).__name__
        raise TaskError(
            f"The node's time limit is not valid: expected a number of seconds above 0, got {shown}",
            "Correct Time Limit, under Options of the node. Without it, the runner's limit applies.",
        )


def _this_runner(task: ActiveTask) -> str:
    """Return the runner's name and process. An old runner with the same name may still run elsewhere."""
    name = task.type[len(TYPE_PREFIX) :].partition(".")[0]
    return f"the runner {name} ({logs.this_process()})"


def _refuse(
    task: ActiveTask,
    tally: Tally,
    code: str,
    message: str,
    function: Function | None = None,
    log_message: str | None = None,
) -> dict[str, Any]:
    """Return the result of a task whose calls cannot be made.

    `log_message` replaces `message` in the log if that contains values of items.
    """
    task.tally = tally
    shown = log_message or message
    task_logger.warning("%s was refused (%s): %s", log_prefix(task), code, shown, extra=facts_of(task))
    if not tally.again:
        task.note_failure(Failure(log_message or message, message))
    error: dict[str, Any] = {"code": code, "message": message}
    if function is not None:
        error["function"] = function.describe()
    return {"version": VERSION, "error": error}


def _note_not_made(task: ActiveTask, function: str, item: int | None, error: TaskError) -> None:
    """Call the hooks of a call that cannot be made, because its arguments do not fit."""
    if task.hooks is not None:
        call = Call(task, function, item)
        task.hooks.start(call, task)
        task.hooks.end(call, task, 0.0, error)


def _cannot_be_sent(error: NotJson) -> TaskError:
    return TaskError(f"The result cannot be sent to n8n: {error}")


class _FunctionTask:
    """Runs the calls of one task, and collects their results."""

    def __init__(self, task: ActiveTask, function: Function, settings: Mapping[str, Any]) -> None:
        self._task = task
        self._function = function
        self._continue_on_fail = settings.get("continueOnFail") is True
        self._is_current = settings.get("signature") == function.signature.hash
        zone = settings.get("timezone")
        #: The workflow's time zone; None if the node is older and does not send it.
        self._zone = zone if isinstance(zone, str) else None
        self._files = FileTransfer(task, settings)
        self._items: list[Item] = []
        # Parallel lists with one entry for each result: its source items, and its number of items (None if it
        # was not a list). Flat, to keep garbage collection cheap.
        self._sources: list[Sequence[int]] = []
        self._counts: list[int | None] = []
        self._errors: list[dict[str, Any]] = []
        # The seconds inside of each call.
        self._done: list[float] = []
        self._failed: list[float] = []

    def run(self, calls: Sequence[ItemCall]) -> Encoded:
        """Make the calls, and return the result. Raises `SignatureChanged` before the first call."""
        try:
            self._run(calls)
            try:
                return self._encode()
            except NotJson:
                self._check_results()
                return self._encode()
        finally:
            self._task.tally = Tally(self._function.signature.name, self._done, self._failed)

    def _run(self, calls: Sequence[ItemCall]) -> None:
        # Convert all before the first call: if the function has changed, the node tries again, so no call may
        # have been made.
        conversion = Conversion([call.arguments for call in calls], self._zone, self._task.raise_if_cancelled)
        converted: list[ItemCall] = []
        for call in calls:
            arguments = self._convert(call, conversion)
            if arguments is not None:
                converted.append(call._replace(arguments=arguments))
            elif not self._continue_on_fail:
                return
        if self._function.signature.batch:
            self._call_batch(converted)
        else:
            for call in converted:
                self._task.raise_if_cancelled()
                self._call(call.arguments, (call.item,))
                if self._errors and not self._continue_on_fail:
                    break

    def _convert(self, call: ItemCall, conversion: Conversion) -> dict[str, Any] | None:
        """Return the Python values of a call's arguments; None if one does not fit, which is recorded."""
        signature = self._function.signature
        try:
            check_names(signature, list(call.arguments), self._is_current)
            return convert_arguments(
                signature, call.arguments, lambda value: self._files.receive(call.item, value), conversion
            )
        except Mismatch as mismatch:
            if not self._is_current:
                # It may have matched the version of the function that the node was generated from.
                raise SignatureChanged(signature.name, mismatch) from None
            self._record_mismatch(call, mismatch)
            return None
        except UnknownZone as error:
            raise TaskError(
                f"Python does not know the workflow's time zone, {error}",
                "Install time zones where the Python program runs: pip install tzdata. Or choose another "
                "time zone in the workflow's settings.",
            ) from None

    def _record_mismatch(self, call: ItemCall, mismatch: Mismatch) -> None:
        self._failed.append(0.0)
        signature = self._function.signature
        name = mismatch.path.split(".")[0].split("[")[0]
        expected = signature.parameters[name].type.expected
        description = f"Item {call.item}, parameter '{name}' of {signature.name}: it takes {expected}."
        # Without the message: it contains the value, which must not be logged.
        if self._task.admit_to_log(description):
            facts = facts_of(self._task, item=call.item, outcome="failed")
            prefix = log_prefix(self._task)
            task_logger.warning("%s: an argument does not fit. %s", prefix, description, extra=facts)
        self._task.note_failure(Failure(description, str(mismatch), description, item=call.item))
        _note_not_made(self._task, signature.name, call.item, TaskError(str(mismatch), description))
        self._record_error(call.item, {"message": str(mismatch), "description": description})

    def _call(self, arguments: dict[str, Any], sources: Sequence[int]) -> None:
        """Call the function once, for one input item or for all of a batch."""
        task, hooks = self._task, self._task.hooks
        if hooks is not None:
            item = None if self._function.signature.batch else sources[0]
            call = Call(task, self._function.signature.name, item)
        begun = time.monotonic()
        try:
            if hooks is not None:
                hooks.start(call, task)
                begun = time.monotonic()
            result = self._function.call(task, arguments, self._make_items)
            pair(result[0], sources)
            self._add(sources, result)
            seconds = time.monotonic() - begun
        except BaseException as error:  # SystemExit too: it fails the item, not the task
            seconds = time.monotonic() - begun
            is_end = isinstance(error, TaskCancelled) or ends_task(task, error)
            if not is_end:
                self._record_exception(error, sources, seconds)
            if hooks is not None:
                hooks.end(call, task, seconds, error)
                del call  # it has the error, whose traceback has this frame
            if is_end:
                raise  # a result would be dropped
        else:
            self._done.append(seconds)
            if hooks is not None:
                hooks.end(call, task, seconds)

    def _call_batch(self, calls: Sequence[ItemCall]) -> None:
        arguments, complete, incomplete = join_calls(self._function.signature, calls)
        for call, mismatch in incomplete:
            self._record_mismatch(call, mismatch)
        if complete and (self._continue_on_fail or not self._errors):
            self._call(arguments, [call.item for call in complete])

    def _make_items(self, result: Any) -> ResultItems:
        if isinstance(result, collections.abc.Iterator):
            result = self._until_cancelled(result)
        try:
            return make_items(result, self._files.send)
        except NotJson as error:
            raise _cannot_be_sent(error) from None

    def _until_cancelled(self, rows: Iterator[Any]) -> Iterator[Any]:
        """Yield a generator's rows until it ends or the task is cancelled."""
        try:
            for row in rows:
                self._task.raise_if_cancelled()
                yield row
        finally:
            close = getattr(rows, "close", None)
            if close is not None:
                close()  # releases the generator's resources now, not when the exception is freed

    def _add(self, sources: Sequence[int], result: ResultItems) -> None:
        items, is_list = result
        self._items += items
        self._sources.append(sources)
        self._counts.append(len(items) if is_list else None)

    def _encode(self) -> Encoded:
        return Encoded(encode_value({"version": VERSION, "items": self._items, "errors": self._errors}))

    def _check_results(self) -> None:
        """Encode each result separately, and fail the calls whose result is not JSON."""
        items, results = self._items, list(zip(self._sources, self._counts, self._done))
        self._clear()
        self._done = []
        end = 0
        for sources, count, seconds in results:
            start, end = end, end + (1 if count is None else count)
            result = items[start:end], count is not None
            try:
                self._add(sources, (make_encodable(result), result[1]))
                self._done.append(seconds)
            except NotJson as error:
                self._record_exception(_cannot_be_sent(error), sources, seconds)
                if not self._continue_on_fail:
                    return

    def _clear(self) -> None:
        self._items, self._sources, self._counts = [], [], []

    def _record_exception(self, error: BaseException, sources: Sequence[int], seconds: float) -> None:
        self._failed.append(seconds)
        items = f"item {sources[0]}" if len(sources) == 1 else f"{len(sources)} items from {sources[0]} on"
        where = f"function {self._function.signature.name}, {items}"
        described = log_error(self._task, error, where, sources[0])
        if "stack" in described:
            described["stack"] += f"\n{_this_runner(self._task)}"
        self._record_error(sources[0], described)
        if self._continue_on_fail:
            for source in sources[1:]:
                self._record_error(source, {"message": described["message"]})  # one traceback is enough

    def _record_error(self, item: int, described: Mapping[str, Any]) -> None:
        if not self._continue_on_fail:
            self._clear()
        self._errors.append({"item": item, **described})

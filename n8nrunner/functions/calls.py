"""Runs what a node asks for: a task of calls, each with the arguments of one item.

The forms of settings and result are in docs/protocol.md, "Functions". All of it runs on the handler's thread.
"""

from __future__ import annotations

import base64
import collections.abc
import inspect
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable

from n8nrunner import logs
from n8nrunner.errors import ConfigurationError, TaskCancelled, TaskError
from n8nrunner.execution.invoke import about, describe_error, log_error, logger
from n8nrunner.functions.arguments import (
    Call,
    SignatureChanged,
    check_names,
    convert_arguments,
    join_calls,
    read_calls,
)
from n8nrunner.functions.conversion import Conversion, Mismatch, UnknownZone
from n8nrunner.functions.files import File
from n8nrunner.functions.results import Item, Made, items_of, paired, paired_with_all, writable
from n8nrunner.functions.signature import Signature
from n8nrunner.protocol.json_text import Encoded, NotJson, encode_value
from n8nrunner.task import Tally, Task

#: The version of settings and result; a node may be newer than the runner, or older.
VERSION = 1
#: Task types of functions begin with this; the runner's name follows.
TYPE_PREFIX = "n8nrunner."
#: Bytes of a file that may be stored by a call: n8n makes a list of numbers of them, and may not survive it.
_MOST_BY_CALL = 16 * 1024 * 1024
#: Seconds between two looks at whether a task that waits for its turn is still wanted.
_TURN = 0.1

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Function:
    """A registered function.

    Args:
        function: what is called.
        signature: what it takes.
        limit: how many calls may run at once; None for as many as there are slots.
    """

    def __init__(self, function: Callable[..., Any], signature: Signature, limit: int | None) -> None:
        self.function = function
        self.signature = signature
        self.limit = limit
        # A node from before the function had a limit sends its calls to the type of all functions.
        self._turns = None if limit is None else threading.BoundedSemaphore(limit)

    def succeed(self, older: Function | None) -> None:
        """Takes over from the function that had its name: calls of both are under one limit."""
        if older is not None and older.limit == self.limit:
            self._turns = older._turns

    def __getstate__(self) -> dict[str, Any]:
        # In another process only the limit of the task type counts.
        return {**self.__dict__, "_turns": None}

    def call(self, task: Task, arguments: dict[str, Any], use: Callable[[Any], Made]) -> Made:
        """Calls it, when it is its turn.

        Returns:
            What `use` makes of the result: within the turn, because a generator runs only then.
        """
        if self.signature.task_parameter is not None:
            arguments = {**arguments, self.signature.task_parameter: task}
        if self._turns is None:
            return use(self.function(**arguments))
        while not self._turns.acquire(timeout=_TURN):
            task.raise_if_cancelled()
        try:
            return use(self.function(**arguments))
        finally:
            self._turns.release()

    def describe(self) -> dict[str, Any]:
        """What a node has to know of it: JSON."""
        signature = self.signature
        return {
            "name": signature.name,
            "batch": signature.batch,
            "parameters": signature.describe(),
            "signature": signature.hash,
        }


def make_function(function: Callable[..., Any], name: str | None, batch: bool, limit: int | None) -> Function:
    """A function as it is registered.

    Args: as `Runner.function`.

    Raises:
        ConfigurationError: with everything about it that cannot work.
    """
    problems: list[str] = []
    if not callable(function) or isinstance(function, type):
        raise ConfigurationError([f"function: expected a function, got {function!r}"])
    own_name = name if name is not None else getattr(function, "__name__", "")
    if not isinstance(own_name, str) or not _NAME.fullmatch(own_name):
        problems.append(
            f"function: expected a name of letters, digits and '_' that does not begin with a digit, got "
            f"{own_name!r}; give it one: @runner.function(name=...)"
        )
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        problems.append(f"limit of {own_name!r}: expected an integer of 1 or more, got {limit!r}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        problems.append(f"{own_name}: expected a plain function, without async")
    try:
        signature = Signature(function, str(own_name), batch)
    except ConfigurationError as error:
        problems += error.problems
    if problems:
        raise ConfigurationError(problems)
    return Function(function, signature, limit)


class Functions:
    """The functions of one runner, by name. `handle` is the handler of their task types."""

    def __init__(self) -> None:
        #: Never changed, only replaced: other threads go through it.
        self.by_name: dict[str, Function] = {}

    def add(self, function: Function) -> None:
        """Registers a function, in place of one of its name. Not from two threads at once."""
        name = function.signature.name
        function.succeed(self.by_name.get(name))
        self.by_name = {**self.by_name, name: function}

    def types(self, runner_name: str) -> dict[str, int | None]:
        """The task types of all functions, with their limits.

        A function with a limit has a type of its own, so that its tasks wait in n8n, where other runners see
        them, and take no slot of this one.
        """
        if not self.by_name:
            return {}
        types: dict[str, int | None] = {task_type(runner_name): None}
        for name, function in self.by_name.items():
            if function.limit is not None:
                types[task_type(runner_name, name)] = function.limit
        return types

    def handle(self, task: Task) -> Encoded | dict[str, Any]:
        """Runs a task's calls.

        Returns:
            The answer that docs/protocol.md describes.

        Raises:
            TaskError: the settings are not those of a node of n8nrunner.
            TaskCancelled, TaskTimeout: nobody waits for the result any more.
        """
        settings = task.settings
        if not isinstance(settings, dict) or not isinstance(settings.get("function"), str):
            raise TaskError(
                "This task was not sent by a node of n8nrunner",
                "Its settings have no function. Write the node again with: n8nrunner node",
            )
        name = settings["function"]
        version = settings.get("version")
        # A node says whether it tries again when the function has changed or is not there.
        again = settings.get("lastTry") is False
        if not isinstance(version, int) or version > VERSION:
            task.tally = Tally("", 0, 1)
            return _refused(
                task, "newer_node", f"the node is newer than {_this_runner(task)} (version {version!r:.20})"
            )
        function = self.by_name.get(name)
        if function is None:
            task.tally = Tally("", 0, 1, again)
            known = ", ".join(sorted(self.by_name)) or "none"
            return _refused(
                task,
                "unknown_function",
                f"{_this_runner(task)} has no function {name!r:.100}; it has {known}",
            )
        calls = read_calls(settings)
        try:
            return _Work(task, function, settings).run(calls)
        except SignatureChanged as error:
            task.tally = Tally(name, 0, len(calls), again)
            return _refused(
                task,
                "changed",
                f"{error} ({_this_runner(task)})",
                function,
                "the call does not fit the function",
            )


def task_type(runner_name: str, function_name: str | None = None) -> str:
    """The task type of a runner's functions, or of one that has a limit."""
    own = "" if function_name is None else f".{function_name}"
    return f"{TYPE_PREFIX}{runner_name}{own}"


def _this_runner(task: Task) -> str:
    """Return which runner answers: there may be a forgotten one of the same name elsewhere."""
    name = task.type[len(TYPE_PREFIX) :].partition(".")[0]
    return f"the runner {name} ({logs.this_process()})"


def _refused(
    task: Task, code: str, message: str, function: Function | None = None, shown: str | None = None
) -> dict[str, Any]:
    """Return the answer to a task whose calls cannot be made; log it with `shown`, which holds no item."""
    logger.warning("%s was refused (%s): %s", about(task), code, shown or message)
    error: dict[str, Any] = {"code": code, "message": message}
    if function is not None:
        error["function"] = function.describe()
    return {"version": VERSION, "error": error}


def _cannot_be_sent(error: NotJson) -> TaskError:
    return TaskError(f"The result cannot be sent to n8n: {error}")


class _Work:
    """One task's calls and what has become of them."""

    def __init__(self, task: Task, function: Function, settings: Mapping[str, Any]) -> None:
        self._task = task
        self._function = function
        self._goes_on = settings.get("continueOnFail") is True
        self._is_same = settings.get("signature") == function.signature.hash
        zone = settings.get("timezone")
        #: The workflow's time zone; None if the node is from before nodes sent it.
        self._zone = zone if isinstance(zone, str) else None
        inline = settings.get("inlineFiles")
        #: How many bytes of files the node takes with the result; None if it takes none, and all go by calls.
        self._inline_most = inline if isinstance(inline, int) else None
        self._inline_left = self._inline_most or 0
        self._items: list[Item] = []
        # Of each result: what it was called for, and how many items it has become, or None if it was not a
        # list. Flat, because the garbage collector goes through every container that is kept.
        self._sources: list[int | Sequence[int]] = []
        self._counts: list[int | None] = []
        self._errors: list[dict[str, Any]] = []
        self._done = self._failures = 0

    def run(self, calls: Sequence[Call]) -> Encoded:
        try:
            self._run(calls)
            try:
                return self._encoded()
            except NotJson:
                self._check_results()
                return self._encoded()
        finally:
            self._task.tally = Tally(self._function.signature.name, self._done, self._failures)

    def _run(self, calls: Sequence[Call]) -> None:
        # All first: when the function turns out to have changed, nothing may have run, because the node
        # tries again then.
        conversion = Conversion([call.arguments for call in calls], self._zone, self._task.raise_if_cancelled)
        fitting: list[Call] = []
        for call in calls:
            arguments = self._convert(call, conversion)
            if arguments is not None:
                fitting.append(call._replace(arguments=arguments))
            elif not self._goes_on:
                return
        if self._function.signature.batch:
            self._run_at_once(fitting)
        else:
            for call in fitting:
                self._task.raise_if_cancelled()
                self._run_one(call)
                if self._errors and not self._goes_on:
                    break

    def _encoded(self) -> Encoded:
        return Encoded(encode_value({"version": VERSION, "items": self._items, "errors": self._errors}))

    def _add(self, source: int | Sequence[int], made: Made) -> None:
        items, many = made
        self._items += items
        self._sources.append(source)
        self._counts.append(len(items) if many else None)

    def _check_results(self) -> None:
        """Makes each result one that can be written, or fails its call. Good batches never come here."""
        items, sources, counts = self._items, self._sources, self._counts
        self._clear()
        end = 0
        for source, count in zip(sources, counts):
            start, end = end, end + (1 if count is None else count)
            made = items[start:end], count is not None
            try:
                self._add(source, (writable(made), made[1]))
            except NotJson as error:
                self._done -= 1 if isinstance(source, int) else len(source)
                self._failed(_cannot_be_sent(error), [source] if isinstance(source, int) else source)
                if not self._goes_on:
                    return

    def _clear(self) -> None:
        self._items, self._sources, self._counts = [], [], []

    def _run_one(self, call: Call) -> None:
        try:
            made = self._function.call(self._task, call.arguments, self._items_of)
            paired(made[0], call.item)
            self._add(call.item, made)
            self._done += 1
        except BaseException as error:  # SystemExit in a function fails its item
            if self._is_over(error):
                raise
            self._failed(error, [call.item])

    def _run_at_once(self, calls: Sequence[Call]) -> None:
        arguments, calls, incomplete = join_calls(self._function.signature, calls)
        for call, mismatch in incomplete:
            self._misfit(call, mismatch)
        if not calls or (self._errors and not self._goes_on):
            return
        sources = [call.item for call in calls]
        try:
            made = self._function.call(self._task, arguments, self._items_of)
            paired_with_all(made[0], sources)
            self._add(sources, made)
            self._done += len(sources)
        except BaseException as error:  # as above
            if self._is_over(error):
                raise
            self._failed(error, sources)

    def _items_of(self, result: Any) -> Made:
        if isinstance(result, collections.abc.Iterator):
            result = self._while_wanted(result)
        try:
            return items_of(result, self._save)
        except NotJson as error:
            raise _cannot_be_sent(error) from None

    def _while_wanted(self, rows: Iterator[Any]) -> Iterator[Any]:
        """The rows of a generator, which may have no end, as long as somebody waits for them."""
        try:
            for row in rows:
                self._task.raise_if_cancelled()
                yield row
        finally:
            close = getattr(rows, "close", None)
            if close is not None:
                close()  # what it holds is wanted back now, and not when the exception has been forgotten

    def _convert(self, call: Call, conversion: Conversion) -> dict[str, Any] | None:
        """The arguments; None if one does not fit, which is noted then."""
        signature = self._function.signature
        mismatch = check_names(signature, list(call.arguments), self._is_same)
        values: dict[str, Any] = {}
        if mismatch is None:
            try:
                values, mismatch = convert_arguments(
                    signature, call.arguments, lambda name, value: self._file(call.item, value), conversion
                )
            except UnknownZone as error:
                raise TaskError(
                    f"Python does not know the workflow's time zone, {error}",
                    "Install time zones where the Python program runs: pip install tzdata. Or choose another "
                    "time zone in the workflow's settings.",
                ) from None
        if mismatch is None:
            return values
        if not self._is_same:
            # It may have fitted what the function was when the node was written.
            raise SignatureChanged(f"the call does not fit the function {signature.name!r}: {mismatch}")
        self._misfit(call, mismatch)
        return None

    def _misfit(self, call: Call, mismatch: Mismatch) -> None:
        self._failures += 1
        described = self._about(call, mismatch)
        # The message shows the value, which belongs into no log.
        if self._task.has_room_in_log(described):
            logger.warning("%s: an argument does not fit. %s", about(self._task), described)
        self._note(call.item, {"message": str(mismatch), "description": described})

    def _about(self, call: Call, mismatch: Mismatch) -> str:
        name = mismatch.path.split(".")[0].split("[")[0]
        parameter = self._function.signature.parameters[name]
        field = "the name of one of its files" if parameter.is_file else parameter.type.expected
        return f"Item {call.item}, parameter '{name}' of {self._function.signature.name}: it takes {field}."

    def _is_over(self, error: BaseException) -> bool:
        """Whether nobody waits for the task any more."""
        return isinstance(error, TaskCancelled) or self._task.cancelled

    def _failed(self, error: BaseException, sources: Sequence[int]) -> None:
        self._failures += len(sources)
        items = f"item {sources[0]}" if len(sources) == 1 else f"{len(sources)} items from {sources[0]} on"
        log_error(self._task, error, f"function {self._function.signature.name}, {items}")
        described = describe_error(error)
        if "stack" in described:
            described["stack"] += f"\n{_this_runner(self._task)}"
        self._note(sources[0], described)
        if self._goes_on:
            for source in sources[1:]:
                self._note(source, {"message": described["message"]})  # the traceback once is enough

    def _note(self, item: int, described: Mapping[str, Any]) -> None:
        if not self._goes_on:
            self._clear()
        self._errors.append({"item": item, **described})

    # --- files ----------------------------------------------------------------------------------

    def _file(self, item: int, value: Any) -> Any:
        """The `File` of ``{"$file": property}``; anything else is left as it is.

        Its bytes are there as "content", or fetched from n8n when they are read.
        """
        if not isinstance(value, dict) or not isinstance(value.get("$file"), str):
            return value
        task, name, content = self._task, value["$file"], value.get("content")

        def fetch() -> bytes:
            return base64.b64decode(content) if isinstance(content, str) else task.read_file(item, name)

        return File.fetched_by(fetch, value.get("fileName"), value.get("mimeType"))

    def _save(self, file: File) -> dict[str, Any]:
        content = file.read()
        if len(content) > self._inline_left:
            if self._inline_most is not None and len(content) > _MOST_BY_CALL:
                raise TaskError(
                    f"The file {file.filename or 'that was returned'} is too large for n8n",
                    f"It has {len(content)} bytes; the files of one result may have {self._inline_most}. "
                    "Store it somewhere and return where, or return fewer files at once.",
                )
            saved = self._task.save_file(content, file.filename, file.mime)
            if file.filename and saved.get("fileName") != file.filename:
                # n8n took the name for a path, as of "Invoice 5/2024.pdf".
                saved["fileName"] = file.filename
                saved.pop("directory", None)
            return saved
        self._inline_left -= len(content)
        about = {"fileName": file.filename, "mimeType": file.mime}
        known = {key: value for key, value in about.items() if value is not None}
        return {"content": base64.b64encode(content).decode(), **known}

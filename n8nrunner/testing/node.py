"""The node that calls functions, as n8n runs it: it sends tasks, and makes items of the answers.

This is `run` of runtime.js for the embedded broker. docs/protocol.md, "Functions", has the form of settings
and answers.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable, NamedTuple

from n8nrunner.broker import Broker, BrokerTask, BrokerTaskError
from n8nrunner.functions.arguments import ItemCall
from n8nrunner.functions.describe import BATCH_SIZE, PARALLEL_TASKS
from n8nrunner.functions.dispatch import VERSION
from n8nrunner.functions.files import File
from n8nrunner.functions.function import Function
from n8nrunner.task_types import task_type
from n8nrunner.testing.arguments import INLINE_BYTES, FilesOfTask, any_as_sent, as_sent
from n8nrunner.testing.errors import CallFailed, failure_of, refusal_of
from n8nrunner.testing.items import Item, with_files

#: The beginnings of the messages of tasks that fail because of their items.
_OF_ITEMS = ("Task execution timed out", "The task's input is too large", "The result is too large")

#: The name of the node in the settings of its tasks.
NODE_NAME = "Python Function"


class Options(NamedTuple):
    """The options of a node."""

    continue_on_fail: bool = False
    timezone: str = "UTC"
    time_limit: float | None = None
    batch_size: int | None = None
    rpc: Mapping[str, Callable[..., Any]] | None = None


class Node:
    """A node *Python Function*, which calls functions. `ServedRunner.node` makes one with other options.

    Its methods may be called from several threads.
    """

    def __init__(
        self,
        broker: Broker,
        runner_name: str,
        find: Callable[[str | Callable[..., object]], tuple[str, Function | None]],
        log: list[str],
        options: Options,
    ) -> None:
        self._broker = broker
        self._runner_name = runner_name
        self._find = find
        self._log = log
        self._options = options
        self._executions = itertools.count(1)

    def call(self, function: str | Callable[..., object], /, **arguments: object) -> list[Item]:
        """Call a function for one item of n8n, and return the items of its result.

        The embedded broker sends the task that the node *Python Function* would send. The arguments are
        converted as from the node's form, and the result becomes n8n's items.

        Args:
            function: its name in n8n, or the function itself.
            arguments: its arguments: the values that it should get, such as a date or a dataclass, or what a
                field would contain, such as ``"2024-12-31"``. A `File` parameter takes a `File`, bytes or a
                path. A parameter without an argument is an empty field.

        Raises:
            CallFailed: the call failed; it has what n8n shows.
            TypeError: the function has no such parameter, or n8n cannot send such a value.
        """
        __tracebackhide__ = True
        return self.call_items(function, [arguments])

    def call_items(
        self, function: str | Callable[..., object], items: Sequence[Mapping[str, object]], /
    ) -> list[Item]:
        """Call a function for several items of n8n, and return the items of all results.

        Args:
            function: its name in n8n, or the function itself.
            items: the arguments for each item, as for `call`. A function with ``batch=True`` gets all items
                at once.

        Raises:
            CallFailed: an item failed, and the node does not continue on errors.
            TypeError: as for `call`.
        """
        __tracebackhide__ = True  # pytest shows the line of the test
        name, registered = self._find(function)
        calls = [ItemCall(number, self._sent(name, registered, given)) for number, given in enumerate(items)]
        execution = str(next(self._executions))
        batches = _batches(calls, self._batch_size(registered))
        output: list[Item] = []
        failed: list[Item] = []
        for batch, outcome in self._outcomes(name, registered, batches, execution):
            if isinstance(outcome, CallFailed):
                failed += [_failed_item(call.item, outcome.message) for call in batch]
                continue
            output += with_files(outcome.get("items") or ())
            failed += [_failed_item(error["item"], error["message"]) for error in outcome.get("errors") or ()]
        return sorted(output + failed, key=_place) if failed else output

    def _sent(self, name: str, function: Function | None, arguments: Mapping[str, object]) -> dict[str, Any]:
        """Return the arguments of a call as the node sends them; files are still `File` objects."""
        if function is None:
            return {key: any_as_sent(key, value) for key, value in arguments.items()}
        parameters = function.signature.parameters
        unknown = [key for key in arguments if key not in parameters]
        if unknown:
            known = ", ".join(parameters) or "none"
            raise TypeError(f"{name} has no parameter {unknown[0]!r}; its parameters are: {known}")
        sent = {key: as_sent(parameters[key], value) for key, value in arguments.items()}
        return {key: value for key, value in sent.items() if value is not None or not parameters[key].is_file}

    def _batch_size(self, function: Function | None) -> int | None:
        if self._options.batch_size is not None:
            return self._options.batch_size
        return None if function is not None and function.signature.batch else BATCH_SIZE

    def _outcomes(
        self,
        name: str,
        function: Function | None,
        batches: Sequence[list[ItemCall]],
        execution: str,
    ) -> Iterator[tuple[list[ItemCall], dict[str, Any] | CallFailed]]:
        """Yield each batch with its answer, or with its failure if the node continues on errors.

        As many tasks run at once as the node would send. After the failure of a whole task, no other is sent.
        """
        __tracebackhide__ = True
        limit = None if function is None else function.limit
        parallel = PARALLEL_TASKS if limit is None else min(limit, PARALLEL_TASKS)
        waiting = collections.deque(batches)
        running: collections.deque[tuple[list[ItemCall], BrokerTask]] = collections.deque()
        failure: CallFailed | None = None
        try:
            while waiting or running:
                while waiting and failure is None and len(running) < parallel:
                    batch = waiting.popleft()
                    running.append((batch, self._submit(name, function, batch, execution)))
                if running:
                    batch, task = running.popleft()
                    try:
                        yield batch, self._answer(task, name, batch[0].item)
                        continue
                    except CallFailed as error:
                        if not self._options.continue_on_fail:
                            raise
                        failure = None if _is_of_items(batch, error) else error
                        yield batch, error
                elif failure is not None:
                    yield waiting.popleft(), failure
        finally:
            for _, task in running:
                task.cancel()

    def _submit(
        self, name: str, function: Function | None, batch: list[ItemCall], execution: str
    ) -> BrokerTask:
        files = FilesOfTask()
        calls = [
            {
                "item": call.item,
                "arguments": {
                    key: files.send(call.item, key, value) if isinstance(value, File) else value
                    for key, value in call.arguments.items()
                },
            }
            for call in batch
        ]
        settings = {
            "version": VERSION,
            "function": name,
            "signature": "" if function is None else function.signature.hash,
            "calls": calls,
            "continueOnFail": self._options.continue_on_fail,
            "inlineFiles": INLINE_BYTES,
            "timezone": self._options.timezone,
            "nodeName": NODE_NAME,
            "executionId": execution,
            "lastTry": True,
        }
        if self._options.time_limit is not None:
            settings["timeLimit"] = self._options.time_limit
        limited = name if function is not None and function.limit is not None else None
        return self._broker.submit(
            task_type(self._runner_name, limited), settings, files=files.to_fetch, rpc=self._options.rpc
        )

    def _answer(self, task: BrokerTask, name: str, item: int) -> dict[str, Any]:
        """Wait for the answer of a task. Raise its failure, or that of an item that ended the node."""
        __tracebackhide__ = True
        try:
            answer: dict[str, Any] = task.result()
        except BrokerTaskError as error:
            raise failure_of(error, self._runner_name, item) from error
        finally:
            self._log += task.logs
        if answer.get("error"):
            raise refusal_of(answer["error"], name, self._runner_name, item)
        errors = answer.get("errors")
        if errors and not self._options.continue_on_fail:
            raise CallFailed(errors[0])
        return answer


def _batches(calls: list[ItemCall], size: int | None) -> list[list[ItemCall]]:
    size = len(calls) if size is None else size
    return [calls[start : start + size] for start in range(0, len(calls), size or 1)]


def _is_of_items(batch: list[ItemCall], error: CallFailed) -> bool:
    """Return whether a task's own item made all of it fail, so that other items may succeed."""
    return len(batch) == 1 and error.message.startswith(_OF_ITEMS)


def _failed_item(item: int, message: str) -> Item:
    """Return the item that a node with *On Error: Continue* puts in the place of a failed one."""
    return Item(json={"error": message}, pairedItem={"item": item})


def _place(item: Item) -> int:
    paired = item.get("pairedItem", 0)
    first = (paired or [0])[0] if isinstance(paired, list) else paired
    number = first.get("item", 0) if isinstance(first, dict) else first
    return number if isinstance(number, int) else 0

"""Carries out what the matching decides, on the broker's loop, between runners, requesters and the clock."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import threading
from collections import deque
from collections.abc import Coroutine
from typing import Any, Callable, Protocol

from n8nrunner import logs
from n8nrunner.broker import actions, events, javascript, requester
from n8nrunner.broker.errors import (
    BrokerTaskCancelled,
    BrokerTaskError,
    BrokerTaskExpired,
    BrokerTaskLost,
    BrokerTaskTimeout,
)
from n8nrunner.broker.matching import Matching
from n8nrunner.broker.task import BrokerTask
from n8nrunner.broker.wording import runner_error
from n8nrunner.errors import ProtocolError
from n8nrunner.protocol import codec
from n8nrunner.protocol import messages as m
from n8nrunner.protocol.json_text import PIECE, may_have_large_integer

logger = logs.get_logger("n8nrunner.broker")

#: A timer that fires this much too late shows that this thread could not run, in seconds.
LATE = 0.05
#: What has arrived meanwhile is given this long to be read before deadlines take effect, in seconds.
CATCH_UP = 0.02

_PAYLOADS = {"runner:taskdone": "data", "runner:taskerror": "error", "runner:rpc": "params"}
_CAUSES = {
    "timed_out": BrokerTaskTimeout,
    "lost": BrokerTaskLost,
    "shut_down": BrokerTaskLost,
}


class Channel(Protocol):
    """One runner's connection, as far as the switchboard writes to it. Nothing here waits."""

    def send(self, text: str) -> None:
        """Sends a message."""

    def ping(self) -> None:
        """Sends a ping."""

    def close(self, code: int) -> None:
        """Closes the connection, after what has been sent before."""


def decode(text: str) -> m.FromRunner | None:
    """A runner's message, or None if its type is not known; large ones without holding the interpreter lock.

    Raises:
        ProtocolError: it is no message.
    """
    try:
        if len(text) > PIECE or may_have_large_integer(text):
            return _decode_large(text)
        if "NaN" in text or "Infinity" in text:
            javascript.parse(text)  # n8n's parser refuses what Python's accepts
        return codec.decode_from_runner(text)
    except ProtocolError:
        tolerated = _tolerate(text)
        if tolerated is None:
            raise
        return tolerated
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a message of {len(text)} characters is not JSON: {error}") from None


def _decode_large(text: str) -> m.FromRunner | None:
    value = javascript.parse(text)
    key = _PAYLOADS.get(str(value.get("type"))) if isinstance(value, dict) else None
    if key is None or not isinstance(value.get(key), (dict, list)):
        return codec.decode_from_runner(text)
    # The codec checks the message with an empty payload of the same kind.
    payload = value[key]
    value[key] = type(payload)()
    message: Any = codec.decode_from_runner(json.dumps(value))
    return message._replace(**{key: payload})  # type: ignore[no-any-return]


def _tolerate(text: str) -> m.FromRunner | None:
    """n8n does not check messages: a result without data fails the task, a call without parameters fails."""
    try:
        value = javascript.parse(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("taskId"), str):
        return None
    if value.get("type") == "runner:taskdone":
        return m.TaskFailed(value["taskId"], {"message": "The runner sent a result without a data object"})
    if value.get("type") == "runner:rpc" and all(
        isinstance(value.get(key), str) for key in ("callId", "name")
    ):
        return m.RpcCall(value["callId"], value["taskId"], value["name"], None)
    return None


class Switchboard:
    """One run of the broker, from its start to its end. All methods are for the loop's thread.

    Args:
        matching: decides everything.
        changed: held while the matching changes, and notified afterwards.
        log_events: logs what the matching has reported; called after `changed` is released, because a logging
            handler of the application may wait for anything.
        json_pool: decodes large messages.
        rpc_pool: answers runners on behalf of tasks.
    """

    def __init__(
        self,
        matching: Matching,
        changed: threading.Condition,
        log_events: Callable[[], None],
        json_pool: concurrent.futures.Executor,
        rpc_pool: concurrent.futures.Executor,
    ) -> None:
        self.drained = asyncio.Event()
        self._matching = matching
        self._changed = changed
        self._log_events = log_events
        self._json_pool = json_pool
        self._rpc_pool = rpc_pool
        self._loop = asyncio.get_running_loop()
        self._events: deque[events.Event] = deque()
        self._stepping = False
        self._timer: asyncio.TimerHandle | None = None
        self._catching_up = False
        self._last_key = 0
        self._channels: dict[int, Channel] = {}
        self._tasks: dict[str, BrokerTask] = {}
        self._work: set[asyncio.Task[None]] = set()
        # By connection and task: messages that wait for a large one of the same task to be decoded.
        self._decoding: dict[int, dict[str, deque[str]]] = {}
        self._leaving: set[int] = set()
        self._arm()

    # --- runners --------------------------------------------------------------------------------

    def connect(self, runner_id: str, channel: Channel) -> int:
        """A runner has connected; returns the number of its connection."""
        self._last_key += 1
        self._channels[self._last_key] = channel
        self._step(events.Connected(self._last_key, runner_id))
        return self._last_key

    def receive(self, key: int, text: str) -> None:
        """A runner has sent a text."""
        busy = self._decoding.get(key)
        large = len(text) > PIECE
        task_id = codec.peek(text).task_id if large or busy else None
        if busy is not None and task_id in busy:
            busy[task_id].append(text)
        elif large and task_id is not None:
            waiting = deque([text])
            self._decoding.setdefault(key, {})[task_id] = waiting
            self._start(self._decode_in_order(key, task_id, waiting))
        else:
            self._receive_now(key, text)

    def malformed(self, key: int, why: str) -> None:
        """A runner has sent what cannot be a message; it is counted, and otherwise ignored."""
        with self._changed:
            self._matching.count_malformed(key, self._loop.time(), why)
            self._changed.notify_all()
        self._log_events()

    def pong(self, key: int) -> None:
        """A runner has sent a pong."""
        self._step(events.PongReceived(key))

    def failing(self, key: int) -> None:
        """A runner's connection takes nothing any more."""
        self._step(events.ConnectionFailing(key))

    def disconnect(self, key: int) -> None:
        """A runner's connection has ended."""
        if key in self._decoding:
            self._leaving.add(key)  # what it had sent before comes first
        else:
            self._disconnect_now(key)

    def _disconnect_now(self, key: int) -> None:
        self._leaving.discard(key)
        self._channels.pop(key, None)
        self._step(events.Disconnected(key))

    def _receive_now(self, key: int, text: str) -> None:
        try:
            message = decode(text)
        except ProtocolError as error:
            self.malformed(key, str(error))
            return
        if message is not None:
            self._step(events.Received(key, message))

    async def _decode_in_order(self, key: int, task_id: str, waiting: deque[str]) -> None:
        while waiting:
            text = waiting[0]
            try:
                message = await self._loop.run_in_executor(self._json_pool, decode, text)
            except ProtocolError as error:
                self.malformed(key, str(error))
            else:
                if message is not None:
                    self._step(events.Received(key, message))
            del text
            waiting.popleft()
        busy = self._decoding[key]
        del busy[task_id]
        if not busy:
            del self._decoding[key]
            if key in self._leaving:
                self._disconnect_now(key)

    # --- requesters -----------------------------------------------------------------------------

    def request(self, task: BrokerTask) -> None:
        """A task is to be run."""
        self._tasks[task.request_id] = task
        self._step(events.TaskRequested(task.request_id, task.task_type, task._timeout))

    def cancel(self, task: BrokerTask, reason: str) -> None:
        """A task is not wanted any more."""
        if self._tasks.pop(task.request_id, None) is None:
            return
        if task.task_id is None:
            self._step(events.RequestWithdrawn(task.request_id, reason))
        else:
            self._step(events.TaskCancelled(task.task_id, reason))
        task._fail(BrokerTaskCancelled({"message": f"Task cancelled: {reason}"}))

    # --- the end --------------------------------------------------------------------------------

    def drain(self, timeout: float) -> None:
        """Shuts down within that many seconds; `drained` is set when it is over."""
        self._step(events.DrainStarted(timeout))

    def drop_everything(self) -> None:
        """All connections have gone at once, and so has the broker."""
        for key in list(self._channels):
            self._disconnect_now(key)
        self._step(events.DrainStarted(0.0))
        self._step(events.TimePassed())

    async def close(self, timeout: float) -> bool:
        """Lets go of timers, and of calls that take longer than `timeout` seconds; False if there are any."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._work:
            return True
        _, unfinished = await asyncio.wait(self._work, timeout=timeout)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        return not unfinished

    # --- inside ---------------------------------------------------------------------------------

    def _step(self, event: events.Event) -> None:
        # Carrying out an action can bring up the next event; it has to wait until its cause is all done.
        self._events.append(event)
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._events:
                with self._changed:
                    wanted = self._matching.handle(self._events.popleft(), self._loop.time())
                    self._changed.notify_all()
                self._log_events()
                for action in wanted:
                    self._PERFORM[type(action)](self, action)
        finally:
            self._stepping = False
        self._arm()

    def _arm(self) -> None:
        at = self._matching.next_deadline()
        if at is None:
            return
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._time_passed, at)

    def _time_passed(self, at: float) -> None:
        self._timer = None
        if self._loop.time() - at > LATE and not self._catching_up:
            # Somebody else held the interpreter: answers may have come in time that nobody could read.
            self._catching_up = True
            soon = self._loop.time() + CATCH_UP
            self._timer = self._loop.call_at(soon, self._time_passed, soon)
            return
        self._catching_up = False
        self._step(events.TimePassed())
        self._arm()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    def _send(self, action: actions.Send) -> None:
        channel = self._channels.get(action.connection)
        if channel is not None:
            channel.send(requester.encode_message(action.message))

    def _ping(self, action: actions.Ping) -> None:
        channel = self._channels.get(action.connection)
        if channel is not None:
            channel.ping()

    def _close(self, action: actions.Close) -> None:
        channel = self._channels.get(action.connection)
        if channel is not None:
            channel.close(action.code)

    def _task_ready(self, action: actions.TaskReady) -> None:
        task = self._tasks[action.request_id]
        task._task_id = action.task_id
        settings = requester.Encoded(task._settings or "null")
        task._settings = None
        self._step(events.SettingsGiven(action.task_id, settings))

    def _request_expired(self, action: actions.RequestExpired) -> None:
        self._tasks.pop(action.request_id)._fail(BrokerTaskExpired(action.error))

    def _task_done(self, action: actions.TaskDone) -> None:
        self._tasks.pop(action.request_id)._end(action.data.get("result"))

    def _task_failed(self, action: actions.TaskFailed) -> None:
        kind = _CAUSES.get(action.cause, BrokerTaskError)
        self._tasks.pop(action.request_id)._fail(kind(runner_error(action.error)))

    def _relay(self, action: actions.Relay) -> None:
        task = self._tasks[action.request_id]
        message = action.message
        if isinstance(message, m.RpcCall) and message.name == requester.LOG and message.name not in task._rpc:
            # At once, so that the logs are complete when the result is there.
            if message.params is not None:
                task.logs.append(requester.log_line(message.params))
            response = m.RpcResponse(message.task_id, message.call_id, "success", requester.NULL)
            self._step(events.Answered(message.task_id, response))
        else:
            self._start(self._answer(task, message))

    async def _answer(self, task: BrokerTask, message: m.Request) -> None:
        try:
            response = await self._loop.run_in_executor(self._rpc_pool, requester.answer, task, message)
        except Exception:
            logger.exception("the question of task %s could not be answered", message.task_id)
            return
        self._step(events.Answered(message.task_id, response))

    def _drained(self, _: actions.Drained) -> None:
        self.drained.set()

    _PERFORM: dict[type, Callable[[Switchboard, Any], None]] = {
        actions.Send: _send,
        actions.Ping: _ping,
        actions.Close: _close,
        actions.TaskReady: _task_ready,
        actions.RequestExpired: _request_expired,
        actions.TaskDone: _task_done,
        actions.TaskFailed: _task_failed,
        actions.Relay: _relay,
        actions.Drained: _drained,
    }

"""Carries out the actions of the matching, on the broker's loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections import deque
from collections.abc import Coroutine

from aiohttp import WSMsgType

from n8nrunner.broker import actions, decoding, errors, events, requester
from n8nrunner.broker.channel import Channel
from n8nrunner.broker.history import History, logger
from n8nrunner.broker.matching import Matching
from n8nrunner.broker.task import BrokerTask
from n8nrunner.broker.wording import runner_error
from n8nrunner.protocol import codec
from n8nrunner.protocol import messages as m
from n8nrunner.protocol.json_text import PIECE, Encoded

#: A timer is late if it fires this many seconds after its time: this thread could not run.
LATE = 0.05
#: Seconds for reading the messages that have come by then, before a late timer takes effect.
CATCH_UP = 0.02

#: The errors for causes of a `TaskFailed`. All others are the runner's own.
_ERRORS = {
    "timed_out": errors.BrokerTaskTimeout,
    "lost": errors.BrokerTaskLost,
    "shut_down": errors.BrokerTaskLost,
}


class Switchboard:
    """Connects runners, requesters, the clock and the matching, in one run of the broker.

    All methods are for the loop's thread. `json_pool` decodes large messages, and `rpc_pool` runs the
    functions that runners call.
    """

    def __init__(
        self,
        matching: Matching,
        history: History,
        json_pool: concurrent.futures.Executor,
        rpc_pool: concurrent.futures.Executor,
    ) -> None:
        #: Set at the end of a drain.
        self.drained = asyncio.Event()
        self._matching = matching
        self._history = history
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

    def connect(self, runner_id: str, channel: Channel) -> int:
        """Handle a new connection of a runner, and return its number."""
        self._last_key += 1
        self._channels[self._last_key] = channel
        self.step(events.Connected(self._last_key, runner_id))
        return self._last_key

    def receive(self, key: int, text: str) -> None:
        """Handle a message of a runner."""
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
            event = decoding.decode(key, text)
            if event is not None:
                self.step(event)

    def disconnect(self, key: int) -> None:
        """Handle the end of a connection."""
        if key in self._decoding:
            self._leaving.add(key)  # its earlier messages come first
        else:
            self._disconnect_now(key)

    def _disconnect_now(self, key: int) -> None:
        self._leaving.discard(key)
        self._channels.pop(key, None)
        self.step(events.Disconnected(key))

    async def _decode_in_order(self, key: int, task_id: str, waiting: deque[str]) -> None:
        while waiting:
            event = await self._loop.run_in_executor(self._json_pool, decoding.decode, key, waiting[0])
            if event is not None:
                self.step(event)
            waiting.popleft()
        busy = self._decoding[key]
        del busy[task_id]
        if not busy:
            del self._decoding[key]
            if key in self._leaving:
                self._disconnect_now(key)

    def request(self, task: BrokerTask) -> None:
        """Request a runner for a task."""
        self._tasks[task.request_id] = task
        self.step(events.TaskRequested(task.request_id, task.task_type, task._timeout))

    def cancel(self, task: BrokerTask, reason: str) -> None:
        """Withdraw the request for a task, or cancel it."""
        if self._tasks.pop(task.request_id, None) is None:
            return
        if task.task_id is None:
            self.step(events.RequestWithdrawn(task.request_id, reason))
        else:
            self.step(events.TaskCancelled(task.task_id, reason))
        task._fail(errors.BrokerTaskCancelled({"message": f"Task cancelled: {reason}"}))

    def kill(self) -> None:
        """End all connections and tasks at once, without close frames."""
        for channel in self._channels.values():
            channel.abort()
        for key in list(self._channels):
            self._disconnect_now(key)
        self.step(events.DrainStarted(0.0))
        self.step(events.TimePassed())

    async def close(self, timeout: float) -> bool:
        """Cancel timers, and calls that take longer than `timeout` seconds. Return False if there are any."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._work:
            return True
        _, unfinished = await asyncio.wait(self._work, timeout=timeout)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        return not unfinished

    def step(self, event: events.Event) -> None:
        """Give the matching an event, and carry out its actions."""
        # Carrying out an action can make the next event. It waits until all actions before it are done.
        self._events.append(event)
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._events:
                with self._history.changed:
                    requested = self._matching.handle(self._events.popleft(), self._loop.time())
                    self._history.changed.notify_all()
                self._history.log()
                for action in requested:
                    self._perform(action)
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
            # Another thread held the interpreter: answers may have arrived in time, and not been read.
            self._catching_up = True
            soon = self._loop.time() + CATCH_UP
            self._timer = self._loop.call_at(soon, self._time_passed, soon)
            return
        self._catching_up = False
        self.step(events.TimePassed())

    def _start(self, work: Coroutine[object, None, None]) -> None:
        task = self._loop.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    def _perform(self, action: actions.Action) -> None:
        if isinstance(action, (actions.Send, actions.Ping, actions.Close)):
            channel = self._channels.get(action.connection)
            if channel is None:
                pass
            elif isinstance(action, actions.Send):
                channel.put(WSMsgType.TEXT, requester.encode_message(action.message))
            elif isinstance(action, actions.Ping):
                channel.put(WSMsgType.PING, b"")
            else:
                channel.put_close(action.code)
        elif isinstance(action, actions.TaskReady):
            task = self._tasks[action.request_id]
            task._task_id = action.task_id
            settings = Encoded(task._settings or "null")
            task._settings = None
            self.step(events.SettingsGiven(action.task_id, settings))
        elif isinstance(action, actions.TaskDone):
            self._tasks.pop(action.request_id)._end(action.data.get("result"))
        elif isinstance(action, actions.TaskFailed):
            error = _ERRORS.get(action.cause, errors.BrokerTaskError)
            self._tasks.pop(action.request_id)._fail(error(runner_error(action.error)))
        elif isinstance(action, actions.RequestExpired):
            self._tasks.pop(action.request_id)._fail(errors.BrokerTaskExpired(action.error))
        elif isinstance(action, actions.Relay):
            self._relay(action)
        else:
            self.drained.set()

    def _relay(self, action: actions.Relay) -> None:
        task = self._tasks[action.request_id]
        message = action.message
        if isinstance(message, m.RpcCall) and message.name == requester.LOG and message.name not in task._rpc:
            # At once, so that the logs are complete when the task ends.
            if message.params is not None:
                task.logs.append(requester.log_line(message.params))
            response = m.RpcResponse(message.task_id, message.call_id, "success", requester.NULL)
            self.step(events.Answered(message.task_id, response))
        else:
            self._start(self._answer(task, message))

    async def _answer(self, task: BrokerTask, message: m.Request) -> None:
        try:
            response = await self._loop.run_in_executor(self._rpc_pool, requester.answer, task, message)
        except Exception:  # noqa: BLE001 - it is logged, and the other tasks go on
            logger.error("could not answer a call of task %s", message.task_id, exc_info=True)
            return
        self.step(events.Answered(message.task_id, response))

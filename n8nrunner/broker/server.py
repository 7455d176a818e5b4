"""The embedded broker: a thread of its own, an aiohttp server, and calls from any other thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import secrets
import socket
import threading
from collections import Counter, deque
from collections.abc import Coroutine, Mapping, MutableMapping, Sequence
from types import TracebackType
from typing import (
    Any,
    Callable,
)

from aiohttp import web

from n8nrunner.broker import javascript
from n8nrunner.broker.access import Access
from n8nrunner.broker.behaviour import BEHAVIOURS, PROFILES, Behaviour
from n8nrunner.broker.constants import BrokerConstants
from n8nrunner.broker.counts import BrokerEvent, Counts
from n8nrunner.broker.endpoints import Endpoints
from n8nrunner.broker.errors import BrokerNotRunning, BrokerTaskLost
from n8nrunner.broker.limits import GrantTokens
from n8nrunner.broker.matching import Matching
from n8nrunner.broker.switchboard import Switchboard, logger
from n8nrunner.broker.task import BrokerTask
from n8nrunner.deadline import Deadline

#: Events that whoever watches the broker wants to see; the rest is logged as debug.
_NOTEWORTHY = {
    "registered", "evicted", "disconnected", "heartbeat_missed", "kicked", "missed", "expired", "mismatched",
    "timed_out", "malformed", "refused",
}  # fmt: skip
#: How long the ends of connections, requests and calls are waited for when the broker stops, in seconds.
FAREWELL = 0.5
_RPC_THREADS = 32
_EVENTS_KEPT = 10_000


#: Seconds; the event loop takes no timers that are longer by much.
LONGEST_TIMEOUT = 4_000_000.0


class Broker:
    """n8n's task broker without n8n, for development, tests and demonstrations.

    It serves runners as n8n does, and is also the requester: `submit` gives a task to whichever runner offers
    to take it. Everything can be called from any thread.

    Args:
        auth_token: the shared secret that runners swap for a grant token; also for ``POST /tasks``.
        host: the address to listen on.
        port: the port to listen on; 0 for any free one, which is then kept over restarts.
        path: what n8n has in ``N8N_RUNNERS_PATH``. A leading slash is added.
        profile: the version of n8n to behave like: "1.123", "2.27" or "2.40".
        constants: limits and delays other than n8n's defaults.

    Use it as a context manager, or call `start` and `stop`. Leaving the ``with`` block stops it, and waits
    for tasks as `stop` does, unless the block was left by an exception.
    """

    def __init__(
        self,
        auth_token: str,
        host: str = "127.0.0.1",
        port: int = 0,
        path: str = "/runners",
        profile: str = "2.40",
        constants: BrokerConstants | None = None,
    ) -> None:
        if not isinstance(auth_token, str) or not auth_token:
            raise ValueError("auth_token must be a text that is not empty")
        if profile not in PROFILES:
            raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
        path = path if path.startswith("/") else f"/{path}"
        if path.endswith("/"):
            raise ValueError(f"path must not end in a slash, which n8n cannot serve either: {path!r}")
        if not 0 <= port <= 65535:
            raise ValueError(f"port must be from 0 to 65535, got {port!r}")
        self._auth_token = auth_token
        self._host = host
        self._port = port
        self._path = path
        self._behaviour = BEHAVIOURS[profile]
        self._constants = constants or BrokerConstants()
        self._lifecycle = threading.Lock()
        self._changed = threading.Condition()
        self._totals: MutableMapping[str, int] = Counter()
        self._events: deque[BrokerEvent] = deque(maxlen=_EVENTS_KEPT)
        # Level, kind and text of events that are not logged yet; only the run's thread uses it.
        self._to_log: deque[tuple[int, str, str]] = deque()
        self._matching: Matching | None = None
        self._run: _Run | None = None

    def __repr__(self) -> str:
        state = self.url if self.is_running else "not running"
        return f"<Broker {state}, profile {self._behaviour.version}>"

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # After an error nobody is left who would want the running tasks.
        self.stop(None if error is None else 0)

    @property
    def url(self) -> str:
        """What a runner is given as the broker's address."""
        if not self._port:
            raise BrokerNotRunning("the broker has no port yet: call start()")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        host = f"[{host}]" if ":" in host else host
        path = "" if self._path == "/runners" else self._path
        return f"http://{host}:{self._port}{path}"

    @property
    def port(self) -> int:
        """The port that the broker listens on; before the first start, what it was built with."""
        return self._port

    @property
    def is_running(self) -> bool:
        """Whether the broker has been started, and neither stopped nor killed."""
        run = self._run
        return run is not None and run.is_alive

    def start(self) -> None:
        """Start the broker; return when it listens. After `stop`, `kill` or a raise it can be started again.

        Raises:
            OSError: the address cannot be listened on.
            RuntimeError: it is running, or the process can have no more threads.
        """
        with self._lifecycle:
            if self.is_running:
                raise RuntimeError("the broker is running already")
            listener = _listen(self._host, self._port)
            self._port = listener.getsockname()[1]
            try:
                run = _Run(self._auth_token, self._path, self._behaviour, self._constants, listener, self)
                run.start()
            except BaseException:
                listener.close()
                raise
            self._run = run
        logger.info("n8nrunner broker ready on %s, port %d", self._host, self._port)

    def stop(self, timeout: float | None = None) -> None:
        """Shuts down as n8n does: runners are told to drain, running tasks may end, then all is closed.

        Args:
            timeout: seconds to wait for running tasks; None for `BrokerConstants.drain_timeout`.

        What has not ended then fails. Once stopped, nothing happens.
        """
        self._end("stop", self._constants.drain_timeout if timeout is None else timeout)

    def kill(self) -> None:
        """Ends at once, as if the process had died: connections are reset, and all tasks fail."""
        self._end("kill", 0.0)

    def _end(self, how: str, timeout: float) -> None:
        run = self._run
        if run is None:
            return
        run.end(how, timeout)
        with self._lifecycle:
            if self._run is run:
                self._run = None

    def submit(
        self,
        task_type: str,
        settings: Any,
        *,
        items: Sequence[Any] = (),
        files: Mapping[tuple[int, str], bytes] | None = None,
        node_types: Sequence[Mapping[str, Any]] = (),
        rpc: Mapping[str, Callable[..., Any]] | None = None,
        timeout: float | None = None,
    ) -> BrokerTask:
        """Gives a task to the first runner that offers to take it.

        Args:
            task_type: what kind of runner it needs.
            settings: any JSON; what the runner gets as the task's settings.
            items: n8n items, each like ``{"json": {...}}``: what the runner gets when it asks for the task's
                data. They are also put into the settings, if these are an object without ``items``.
            files: by item index and name, what ``helpers.getBinaryDataBuffer`` returns.
            node_types: descriptions of node types for a runner that asks for them.
            rpc: functions by name, for runners that call them; they come before n8n's own helpers, and run on
                threads of the broker's. Bytes travel as n8n's Buffer, both ways.
            timeout: seconds to wait for a runner, and again for its result, in place of the constants.

        Raises:
            ValueError, TypeError: the settings are no JSON.
            BrokerNotRunning: the broker is not running.
        """
        if timeout is not None and not 0 < timeout <= LONGEST_TIMEOUT:
            raise ValueError(
                f"timeout must be above 0 seconds and at most {LONGEST_TIMEOUT:,.0f}, got {timeout!r:.40}"
            )
        run = self._run
        if run is None:
            raise BrokerNotRunning("the broker is not running: call start()")
        items = list(items)
        if items and isinstance(settings, dict) and "items" not in settings:
            settings = {**settings, "items": items}
        task = BrokerTask(
            task_type,
            _new_id(21),
            javascript.stringify(settings),
            items,
            dict(files or {}),
            list(node_types),
            dict(rpc or {}),
            timeout,
            run.cancel,
        )
        run.request(task)
        return task

    def run_task(self, task_type: str, settings: Any, **options: Any) -> Any:
        """`submit` with the same arguments, and the result of the task it returns."""
        return self.submit(task_type, settings, **options).result()

    @property
    def counts(self) -> Counts:
        """How many of everything there are now, and how often everything has happened."""
        with self._changed:
            return self._counts()

    @property
    def events(self) -> list[BrokerEvent]:
        """What has happened, oldest first; the latest ten thousand."""
        with self._changed:
            return list(self._events)

    def wait_for(self, predicate: Callable[[Counts], bool], timeout: float = 10.0) -> Counts:
        """Waits until `predicate` is true of the counts; returns them.

        Raises:
            TimeoutError: it has not been true within `timeout` seconds.
        """
        deadline = Deadline(timeout)
        with self._changed:
            while True:
                counts = self._counts()
                if predicate(counts):
                    return counts
                if deadline.expired:
                    raise TimeoutError(f"not within {timeout:g} seconds; the counts are {counts}")
                self._changed.wait(deadline.remaining())

    def _counts(self) -> Counts:
        if self._matching is None:
            return Counts(**self._totals)
        return self._matching.counts()

    # For the run's thread.

    def _new_matching(self, now: float) -> Matching:
        matching = Matching(
            now,
            lambda: _new_id(8),
            behaviour=self._behaviour,
            constants=self._constants,
            totals=self._totals,
            on_event=self._remember,
        )
        with self._changed:
            self._matching = matching
        return matching

    def _forget_matching(self) -> None:
        with self._changed:
            self._matching = None
            self._changed.notify_all()

    def _remember(self, event: BrokerEvent) -> None:
        """Keep an event, and the line about it until `_log_events`; called with `_changed` held."""
        self._events.append(event)
        level = logging.INFO if event.kind in _NOTEWORTHY else logging.DEBUG
        if logger.isEnabledFor(level):
            about = " ".join(part for part in (event.runner_id, event.task_id, event.detail) if part)
            self._to_log.append((level, event.kind, about))

    def _log_events(self) -> None:
        """Log the events since the last call, without a lock."""
        while self._to_log:
            level, kind, about = self._to_log.popleft()
            logger.log(level, "%s %s", kind, about)


class _Run:
    """One run of the broker: a thread with an event loop, from start to stop."""

    def __init__(
        self,
        auth_token: str,
        path: str,
        behaviour: Behaviour,
        constants: BrokerConstants,
        listener: socket.socket,
        broker: Broker,
    ) -> None:
        self._auth_token = auth_token
        self._path = path
        self._behaviour = behaviour
        self._constants = constants
        self._listener = listener
        self._broker = broker
        self._lock = threading.Lock()
        self._open = False
        self._tasks: set[BrokerTask] = set()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._how = "stop"
        self._drain_timeout = 0.0
        self._thread = threading.Thread(target=self._main, name="n8nrunner-broker", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._switchboard: Switchboard | None = None

    # --- from any thread ------------------------------------------------------------------------

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread and wait until it listens. After a raise, it does not run."""
        try:
            self._thread.start()
            self._ready.wait()
        except BaseException:
            # An interrupt leaves a thread that is about to listen; a lack of threads leaves none.
            if self._thread.is_alive():
                self._ready.wait()
                self.end("kill", 0.0)
            raise
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def request(self, task: BrokerTask) -> None:
        with self._lock:
            if not self._open:
                raise BrokerNotRunning("the broker has been stopped: call start()")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            assert self._loop is not None
            assert self._switchboard is not None
            self._loop.call_soon_threadsafe(self._switchboard.request, task)

    def cancel(self, task: BrokerTask, reason: str) -> None:
        with self._lock:
            if self._open:
                assert self._loop is not None
                assert self._switchboard is not None
                self._loop.call_soon_threadsafe(self._switchboard.cancel, task, reason)

    def end(self, how: str, timeout: float) -> None:
        with self._lock:
            if self._open:
                assert self._loop is not None
                self._loop.call_soon_threadsafe(self._ask_to_end, how, timeout)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # --- on the thread --------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as failure:  # noqa: BLE001 - goes to whoever called start()
            if self._ready.is_set():
                logger.exception("the broker has ended because of an error of its own")
            self._failure = failure
        finally:
            with self._lock:
                self._open = False
                left = list(self._tasks)
            for task in left:
                error = {"message": "Node execution failed", "description": "The broker has been stopped."}
                task._fail(BrokerTaskLost(error))
            self._broker._forget_matching()
            self._listener.close()
            self._ready.set()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._stop_asked = asyncio.Event()
        self._kill_asked = asyncio.Event()
        loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(4, "n8nrunner-broker-http"))
        json_pool = concurrent.futures.ThreadPoolExecutor(1, "n8nrunner-broker-json")
        rpc_pool = concurrent.futures.ThreadPoolExecutor(_RPC_THREADS, "n8nrunner-broker-rpc")
        switchboard = Switchboard(
            self._broker._new_matching(loop.time()),
            self._broker._changed,
            self._broker._log_events,
            json_pool,
            rpc_pool,
        )
        self._switchboard = switchboard
        grants = GrantTokens(self._behaviour.grant_lifetime(self._constants), lambda: secrets.token_hex(32))
        access = Access(self._auth_token, self._path, self._constants, grants)
        endpoints = Endpoints(access, self._path, self._constants, switchboard, self._broker.submit)
        server = web.Server(endpoints.handle, handler_cancellation=True, access_log=None)
        listening = await loop.create_server(server, sock=self._listener, backlog=1024)
        with self._lock:
            self._open = True
        self._ready.set()
        try:
            await self._stop_asked.wait()
            listening.close()
            access.stopping = True
            if self._how == "stop":
                switchboard.drain(self._drain_timeout)
                await _first_of(switchboard.drained.wait(), self._kill_asked.wait())
            if self._how == "stop":
                await _first_of(endpoints.idle.wait(), self._kill_asked.wait(), timeout=FAREWELL)
            else:
                for channel in endpoints.channels:
                    channel.abort()
                switchboard.drop_everything()
        finally:
            listening.close()
            with self._lock:
                self._open = False
            for channel in list(endpoints.channels):
                channel.abort()
            server.pre_shutdown()  # ends idle connections, which would be waited for otherwise
            await server.shutdown(FAREWELL if self._how == "stop" else 0)
            finished = await switchboard.close(FAREWELL)
            for pool in (json_pool, rpc_pool):
                # A caller's function that does not return must not keep the broker from stopping.
                pool.shutdown(wait=finished, cancel_futures=True)

    def _ask_to_end(self, how: str, timeout: float) -> None:
        if how == "kill":
            self._how = how
            self._kill_asked.set()
        elif not self._stop_asked.is_set():
            self._drain_timeout = timeout
        self._stop_asked.set()


async def _first_of(*waits: Coroutine[Any, Any, Any], timeout: float | None = None) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    dualstack = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    return socket.create_server(address, family=family, backlog=1024, dualstack_ipv6=dualstack)


def _new_id(length: int) -> str:
    """An id of letters, digits, "_" and "-", as n8n's are."""
    return secrets.token_urlsafe(length)[:length]

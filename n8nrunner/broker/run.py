"""One run of the broker, from its start to its end: a thread with an event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import secrets
import socket
import threading
from typing import Callable, NamedTuple

from aiohttp import web

from n8nrunner.broker import events
from n8nrunner.broker.access import Access, GrantTokens
from n8nrunner.broker.behaviour import Behaviour
from n8nrunner.broker.constants import BrokerConstants
from n8nrunner.broker.endpoints import Endpoints
from n8nrunner.broker.errors import BrokerNotRunning, BrokerTaskLost
from n8nrunner.broker.history import History, logger
from n8nrunner.broker.matching import Matching
from n8nrunner.broker.switchboard import Switchboard
from n8nrunner.broker.task import BrokerTask

#: How long a stop waits for connections, requests and calls to end, in seconds.
END_WAIT = 0.5
_RPC_THREADS = 32


class Settings(NamedTuple):
    """The settings of a `Broker` that are the same for all of its runs."""

    auth_token: str
    path: str
    behaviour: Behaviour
    constants: BrokerConstants


class BrokerRun:
    """One run of the broker. It closes the listener at its end. `submit` is `Broker.submit`."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        history: History,
        submit: Callable[..., BrokerTask],
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._history = history
        self._submit = submit
        self._lock = threading.Lock()
        #: The loop and the switchboard while the run takes tasks. Guarded by the lock, as the tasks are.
        self._serving: tuple[asyncio.AbstractEventLoop, Switchboard] | None = None
        self._tasks: set[BrokerTask] = set()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._killed = False
        self._drain_timeout = 0.0
        self._thread = threading.Thread(target=self._main, name="n8nrunner-broker", daemon=True)

    # --- for any thread -------------------------------------------------------------------------

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread and wait until it listens. If this raises, the thread has ended."""
        try:
            self._thread.start()
            self._ready.wait()
        except BaseException:
            # An interrupt leaves a thread that is about to listen; a lack of threads leaves none.
            if self._thread.is_alive():
                self._ready.wait()
                self.end(None)
            raise
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def request(self, task: BrokerTask) -> None:
        """Request a runner for a task. Raises `BrokerNotRunning` if the run has ended."""
        with self._lock:
            if self._serving is None:
                raise BrokerNotRunning("the broker has been stopped: call start()")
            loop, switchboard = self._serving
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            loop.call_soon_threadsafe(switchboard.request, task)

    def cancel(self, task: BrokerTask, reason: str) -> None:
        """Cancel a task, unless it or the run has ended."""
        with self._lock:
            if self._serving is not None:
                loop, switchboard = self._serving
                loop.call_soon_threadsafe(switchboard.cancel, task, reason)

    def end(self, timeout: float | None) -> None:
        """End the run, within `timeout` seconds or at once if that is None, and wait for its thread."""
        with self._lock:
            if self._serving is not None:
                loop, switchboard = self._serving
                loop.call_soon_threadsafe(self._ask_to_end, switchboard, timeout)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # --- for the run's thread -------------------------------------------------------------------

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as failure:  # noqa: BLE001 - `start` raises it
            if self._ready.is_set():
                logger.error("the broker has ended because of an unexpected error", exc_info=True)
            self._failure = failure
        finally:
            with self._lock:
                self._serving = None
                left = list(self._tasks)
            for task in left:
                error = {"message": "Node execution failed", "description": "The broker has been stopped."}
                task._fail(BrokerTaskLost(error))
            self._history.set_matching(None)
            self._listener.close()
            self._ready.set()

    async def _serve(self) -> None:
        auth_token, path, behaviour, constants = self._settings
        loop = asyncio.get_running_loop()
        self._stop_asked = asyncio.Event()
        loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(4, "n8nrunner-broker-http"))
        json_pool = concurrent.futures.ThreadPoolExecutor(1, "n8nrunner-broker-json")
        rpc_pool = concurrent.futures.ThreadPoolExecutor(_RPC_THREADS, "n8nrunner-broker-rpc")
        matching = Matching(
            loop.time(),
            lambda: new_id(8),
            behaviour=behaviour,
            constants=constants,
            totals=self._history.totals,
            on_event=self._history.record,
        )
        self._history.set_matching(matching)
        switchboard = Switchboard(matching, self._history, json_pool, rpc_pool)
        grant_ttl = behaviour.grant_ttl if constants.grant_ttl is None else constants.grant_ttl
        grants = GrantTokens(grant_ttl, lambda: secrets.token_hex(32))
        access = Access(auth_token, path, constants, grants)
        endpoints = Endpoints(access, path, constants, switchboard, self._submit)
        server = web.Server(endpoints.handle, handler_cancellation=True, access_log=None)
        listening = await loop.create_server(server, sock=self._listener, backlog=1024)
        with self._lock:
            self._serving = loop, switchboard
        self._ready.set()
        try:
            await self._stop_asked.wait()
            listening.close()
            access.stopping = True
            switchboard.step(events.DrainStarted(self._drain_timeout))
            await switchboard.drained.wait()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(endpoints.idle.wait(), END_WAIT)
        finally:
            listening.close()
            with self._lock:
                self._serving = None
            for channel in endpoints.channels:
                channel.abort()
            server.pre_shutdown()  # ends idle connections, which `shutdown` would wait for
            await server.shutdown(0 if self._killed else END_WAIT)
            finished = await switchboard.close(END_WAIT)
            for pool in (json_pool, rpc_pool):
                # A caller's function that does not return must not keep the broker from stopping.
                pool.shutdown(wait=finished, cancel_futures=True)

    def _ask_to_end(self, switchboard: Switchboard, timeout: float | None) -> None:
        if timeout is not None and not self._stop_asked.is_set():
            self._drain_timeout = timeout
        self._stop_asked.set()
        if timeout is None:
            self._killed = True
            switchboard.kill()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises `OSError` if the address is not of this machine, or in use."""
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    dualstack = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    return socket.create_server(address, family=family, backlog=1024, dualstack_ipv6=dualstack)


def new_id(length: int) -> str:
    """Return a random id of letters, digits, "_" and "-", as n8n's are."""
    return secrets.token_urlsafe(length)[:length]

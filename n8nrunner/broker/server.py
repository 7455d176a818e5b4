"""The embedded broker."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Callable

from n8nrunner.broker import javascript
from n8nrunner.broker.behaviour import BEHAVIOURS, PROFILES
from n8nrunner.broker.constants import BrokerConstants
from n8nrunner.broker.counts import BrokerCounts, BrokerEvent
from n8nrunner.broker.errors import BrokerNotRunning
from n8nrunner.broker.history import History, logger
from n8nrunner.broker.run import BrokerRun, Settings, listen, new_id
from n8nrunner.broker.task import BrokerTask

#: Longest timeout of a task, in seconds. The event loop does not take much longer timers.
LONGEST_TIMEOUT = 4_000_000.0


class Broker:
    """n8n's task broker without n8n, for development, tests and demonstrations.

    It serves runners as n8n does, and is also the requester: `submit` gives a task to the first runner that
    offers to take it. All methods can be called from any thread.

    Use it as a context manager, or call `start` and `stop`. Leaving the ``with`` block stops it, and waits
    for tasks as `stop` does, unless the block was left by an exception.

    Args:
        auth_token: the shared secret that runners swap for a grant token; also for ``POST /tasks``.
        host: the address to listen on.
        port: the port to listen on; 0 for any free one, which is then kept over restarts.
        path: the base path, as in ``N8N_RUNNERS_PATH`` of n8n. A leading slash is added.
        profile: the version of n8n to behave like: "1.123", "2.27" or "2.40".
        constants: limits and delays other than n8n's defaults.
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
            raise ValueError("auth_token must be a non-empty string")
        if profile not in PROFILES:
            raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
        path = path if path.startswith("/") else f"/{path}"
        if path.endswith("/"):
            raise ValueError(f"path must not end in a slash, which n8n cannot serve either: {path!r}")
        if not 0 <= port <= 65535:
            raise ValueError(f"port must be from 0 to 65535, got {port!r}")
        self._host = host
        self._port = port
        self._settings = Settings(auth_token, path, BEHAVIOURS[profile], constants or BrokerConstants())
        self._lifecycle = threading.Lock()
        self._history = History()
        self._run: BrokerRun | None = None

    def __repr__(self) -> str:
        state = self.url if self.is_running else "not running"
        return f"<Broker {state}, profile {self._settings.behaviour.version}>"

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        # After an exception no one is left to take the results of running tasks.
        self.stop(None if error is None else 0)

    @property
    def url(self) -> str:
        """The broker's address, for a runner.

        Raises:
            BrokerNotRunning: the port is not known yet.
        """
        if not self._port:
            raise BrokerNotRunning("the broker has no port yet: call start()")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        host = f"[{host}]" if ":" in host else host
        path = self._settings.path
        return f"http://{host}:{self._port}{'' if path == '/runners' else path}"

    @property
    def auth_token(self) -> str:
        """The shared secret, for a runner."""
        return self._settings.auth_token

    @property
    def port(self) -> int:
        """The port that the broker listens on; before the first start, the argument `port`."""
        return self._port

    @property
    def is_running(self) -> bool:
        """Whether the broker has been started, and neither stopped nor killed."""
        run = self._run
        return run is not None and run.is_alive

    def start(self) -> None:
        """Start the broker and return when it listens. After `stop`, `kill` or an error, it can start again.

        Raises:
            OSError: the address is not of this machine, or in use.
            RuntimeError: the broker is running, or the process can have no more threads.
        """
        with self._lifecycle:
            if self.is_running:
                raise RuntimeError("the broker is running already")
            listener = listen(self._host, self._port)
            self._port = listener.getsockname()[1]
            try:
                run = BrokerRun(self._settings, listener, self._history, self.submit)
                run.start()
            except BaseException:
                listener.close()
                raise
            self._run = run
        logger.info("n8nrunner broker ready on %s, port %d", self._host, self._port)

    def stop(self, timeout: float | None = None) -> None:
        """Shut down as n8n does: tell runners to drain, let running tasks end, then close all connections.

        Tasks that have not ended then fail. A broker that does not run stays as it is.

        Args:
            timeout: seconds to wait for running tasks; None for `BrokerConstants.drain_timeout`.
        """
        self._end(self._settings.constants.drain_timeout if timeout is None else timeout)

    def kill(self) -> None:
        """End at once, as if the process had been killed: without close frames, and all tasks fail."""
        self._end(None)

    def _end(self, timeout: float | None) -> None:
        run = self._run
        if run is not None:
            run.end(timeout)

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
        """Give a task to the first runner that offers to take it.

        Args:
            task_type: the type that the runner has to offer.
            settings: the task's settings, any JSON value.
            items: n8n items, each like ``{"json": {...}}``, for a runner that asks for the task's data. They
                are also put into the settings, if these are an object without ``items``.
            files: the results of ``helpers.getBinaryDataBuffer``, by item index and name.
            node_types: descriptions of node types for a runner that asks for them.
            rpc: functions by name that runners can call. They come before n8n's own helpers, and run on
                threads of the broker. Bytes travel as n8n's Buffer, both ways.
            timeout: seconds to wait for a runner, and again for its result, instead of the constants.

        Raises:
            ValueError, TypeError: the settings are not valid JSON, or the timeout is not possible.
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
            new_id(21),
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
        """Give a task to a runner and return its result; arguments and errors as of `submit`.

        Raises:
            BrokerTaskError: the task ended without a result; the subclasses say why.
        """
        return self.submit(task_type, settings, **options).result()

    @property
    def counts(self) -> BrokerCounts:
        """The number of runners, tasks and so on, and how often everything has happened."""
        with self._history.changed:
            return self._history.counts()

    @property
    def events(self) -> list[BrokerEvent]:
        """The latest ten thousand events, oldest first."""
        with self._history.changed:
            return list(self._history.events)

    def wait_for(self, predicate: Callable[[BrokerCounts], bool], timeout: float = 10.0) -> BrokerCounts:
        """Wait until `predicate` is true of the counts, and return them.

        Raises:
            TimeoutError: it was not true within `timeout` seconds.
        """
        with self._history.changed:
            in_time = self._history.changed.wait_for(lambda: predicate(self._history.counts()), timeout)
            counts = self._history.counts()
        if not in_time:
            raise TimeoutError(f"not within {timeout:g} seconds; the counts are {counts}")
        return counts

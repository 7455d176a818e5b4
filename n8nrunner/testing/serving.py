"""A runner of a program, served by an embedded broker for as long as a test needs it."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Callable

from n8nrunner.broker import Broker
from n8nrunner.config import DEFAULT_NAME
from n8nrunner.errors import ConfigurationError
from n8nrunner.functions.function import Function
from n8nrunner.runner import Runner, name_from
from n8nrunner.snapshot import Snapshot
from n8nrunner.target import TargetError, default_name, locate_runner
from n8nrunner.testing.node import Node, Options

#: The name of a runner that has none of its own, and that no module's name names.
_FALLBACK_NAME = "runner"
#: Seconds within which the embedded broker has registered the runner.
_START_WAIT = 10.0


class ServedRunner(Node):
    """The functions and handlers of a runner, connected to an embedded broker. `serve` makes it.

    It is a node with the default options, whose `Node.call` and `Node.call_items` call the functions. Its
    methods may be called from several threads.

    Attributes:
        runner: the runner of the program. It stays as it is: a second one with its handlers answers.
        broker: the embedded broker.
        logs: the lines that tasks have logged with `Task.log` for the browser's console.
    """

    def __init__(self, runner: Runner, broker: Broker, name: str) -> None:
        self.runner = runner
        self.broker = broker
        self.logs: list[str] = []
        self._served = runner._copy(
            broker=(broker.url,),
            auth_token=broker.auth_token,
            auth_token_file=None,
            grant_token=None,
            runner_id=None,
            name=name,
            # Of the program's own runner, which may run now.
            health_check_enabled=False,
            auto_shutdown_timeout=0.0,
        )
        self._sync = threading.Lock()
        self._registered = runner._registry.version
        super().__init__(broker, name, self._registered_as, self.logs, Options())

    def __repr__(self) -> str:
        return f"<ServedRunner {self._served.config.name!r}, {self._served.state}>"

    def node(
        self,
        *,
        continue_on_fail: bool = False,
        timezone: str = "UTC",
        time_limit: float | None = None,
        batch_size: int | None = None,
        rpc: Mapping[str, Callable[..., Any]] | None = None,
    ) -> Node:
        """Return a node with other options, for calls.

        Args:
            continue_on_fail: whether an item that fails becomes an item with the key ``"error"``, as with *On
                Error* set to *Continue*.
            timezone: the time zone of the workflow, for dates.
            time_limit: seconds that one task may take; None for the limits of the runner and of n8n.
            batch_size: items of one task; None for 50, or all items of a function with ``batch=True``.
            rpc: functions by the name of a helper of n8n, such as ``"helpers.httpRequest"``, that are called
                in its place.
        """
        options = Options(continue_on_fail, timezone, time_limit, batch_size, rpc)
        return Node(self.broker, self._runner_name, self._registered_as, self.logs, options)

    def task(self, type: str, settings: Any = None, **options: Any) -> Any:
        """Send a task of a type of your own (`Runner.task`), and return its result.

        Args:
            type: the task type.
            settings: its settings; None for an empty object.
            options: the options of `Broker.submit`, such as ``items`` and ``files``.

        Raises:
            BrokerTaskError: the task ended without a result; it has what n8n shows.
        """
        self._update()
        task = self.broker.submit(type, {} if settings is None else settings, **options)
        try:
            return task.result()
        finally:
            self.logs += task.logs

    def snapshot(self) -> Snapshot:
        """Return the state of the runner that answers, with its counts."""
        return self._served.snapshot()

    def _start(self) -> None:
        self._served._start(_START_WAIT, gives_up=True)  # prints nothing in a notebook, unlike `start`

    def _stop(self) -> None:
        self._served.stop(0)

    def _registered_as(self, function: str | Callable[..., object]) -> tuple[str, Function | None]:
        """Return the name of a function, and the function as it is registered now; None if it is not."""
        self._update()
        functions = self._served._registry.functions
        by_name = {} if functions is None else functions.by_name
        if isinstance(function, str):
            return function, by_name.get(function)
        for name, registered in by_name.items():
            if registered.function is function:
                return name, registered
        known = ", ".join(by_name) or "none"
        raise TypeError(f"{function!r} is not a function of {self.runner!r}; its functions are: {known}")

    def _update(self) -> None:
        """Serve the functions that were registered or removed since the last call as well."""
        with self._sync:
            version = self.runner._registry.version
            if version != self._registered:
                self._served._registry.copy_from(self.runner._registry)
                self._registered = version


@contextlib.contextmanager
def serve(runner: Runner | str, broker: Broker | None = None) -> Iterator[ServedRunner]:
    """Serve the functions and handlers of a runner by an embedded broker, in a ``with`` block.

    The runner itself does not change, and may run at the same time. A second runner with its handlers,
    hooks and settings connects to the embedded broker; only the addresses, tokens, the id and the health
    check server of the runner's settings do not count.

    Args:
        runner: the runner, or ``"module"`` or ``"module:attribute"`` as for ``n8nrunner run``.
        broker: an embedded broker that runs; None for one that exists as long as the block.

    Raises:
        ConfigurationError: the text does not lead to a runner, or the runner's settings cannot work.
    """
    if isinstance(runner, str):
        name = name_from(default_name(runner))
        try:
            runner = locate_runner(runner)
        except TargetError as error:
            raise ConfigurationError([str(error)]) from None
    else:
        name = _FALLBACK_NAME
    if runner.config.name != DEFAULT_NAME:
        name = runner.config.name
    with contextlib.ExitStack() as ends:
        if broker is None:
            broker = Broker(secrets.token_hex(16))
            broker.start()
            ends.callback(broker.kill)
        served = ServedRunner(runner, broker, name or _FALLBACK_NAME)
        ends.callback(served._stop)
        served._start()
        yield served

"""The blocking steps of a connection, each on a thread of its own: grant token, dialling, upgrade, probes.

A name look-up or a handshake cannot be interrupted. So none of them runs on the thread that serves tasks,
and nothing waits for them: the thread posts one event and ends. Before, it may change the sets of open
sockets and of checked URLs.
"""

from __future__ import annotations

import threading
import uuid
from typing import Callable, TypeVar

from n8nrunner import logs
from n8nrunner.config import BrokerUrl, RunnerConfig, directory_of, read_auth_token
from n8nrunner.connection import auth
from n8nrunner.connection.delays import jitter
from n8nrunner.connection.dial import dial
from n8nrunner.connection.environment import public_address
from n8nrunner.connection.transport import Connection
from n8nrunner.deadline import Deadline
from n8nrunner.errors import ConfigurationError
from n8nrunner.logs import logger
from n8nrunner.protocol.events import AttemptFailed, BrokerProbed, ConnectionOpened, LinkEvent
from n8nrunner.protocol.failures import AuthRefused, LinkFailure, Unreachable

#: Seconds for name look-up, TCP, proxy, TLS and the upgrade together.
CONNECT_TIMEOUT = 5.0

_Outcome = TypeVar("_Outcome")

#: The URLs of brokers that `_warn_of_plain_http` has checked.
_checked_urls: set[str] = set()


def run_on_thread(
    name: str,
    step: str,
    work: Callable[[], _Outcome],
    failed: Callable[[str], _Outcome],
    post: Callable[[_Outcome], None],
) -> None:
    """Run an attempt, a probe or a look-up on a thread, and post its outcome in every case.

    `name` is the thread's; `step` says for texts what it does, such as "connecting to ...". `work` returns
    the outcome, and `failed` the one for an unexpected problem. `post` is called on the thread. The receiver
    of the outcome owns its connection.

    Raises:
        RuntimeError: the process can have no more threads.
    """

    def run() -> None:
        # There is no other attempt or look-up before there is an outcome.
        outcome = failed(f"{step} was interrupted")
        try:
            outcome = work()
        except BaseException as error:  # noqa: BLE001 - the receiver logs it
            logger.debug("Unexpected error while %s:\n%s", step, logs.frames_of(error))
            outcome = failed(f"{step} failed with {logs.describe(error)}")
        finally:
            post(outcome)

    threading.Thread(target=run, name=name, daemon=True).start()


def probe(url: BrokerUrl, config: RunnerConfig) -> LinkEvent:
    """Return whether the broker is healthy."""
    failure = auth.why_unhealthy(url, directory_of(config))
    return BrokerProbed(None if failure is None else str(failure), jitter())


def attempt(url: BrokerUrl, config: RunnerConfig, grant: str | None) -> LinkEvent:
    """Connect to a broker, with a new grant token if `grant` is None."""
    try:
        _warn_of_plain_http(url)
        if grant is None:
            grant = auth.fetch_grant(url, _secret(config), directory_of(config))
        connection = upgrade(url, config, config.runner_id or uuid.uuid4().hex, grant)
    except LinkFailure as reason:
        return AttemptFailed(reason, grant, jitter())
    return ConnectionOpened(connection, jitter())


def upgrade(url: BrokerUrl, config: RunnerConfig, runner_id: str, grant: str) -> Connection:
    """Open a WebSocket to a broker under a runner's id.

    Raises:
        LinkFailure: the broker cannot be reached, or refuses the upgrade.
    """
    deadline = Deadline(CONNECT_TIMEOUT)
    connection = Connection(dial(url, deadline, directory_of(config)), config.max_payload)
    try:
        connection.open(url.socket, runner_id, grant, deadline)
    except BaseException:
        connection.close()
        raise
    return connection


def _warn_of_plain_http(url: BrokerUrl) -> None:
    """Log once for each broker that its URL sends the token over the public internet without encryption."""
    if url.is_secure or url.auth in _checked_urls:
        return
    try:
        address = public_address(url)
    except (OSError, UnicodeError, Unreachable):
        return  # without a proxy, the attempt fails for the same reason; the next one repeats the look-up
    _checked_urls.add(url.auth)  # one URL for all addresses of a name
    if address is not None:
        logger.warning(
            "%s is plain HTTP to the public address %s: the token is readable on the way. Use https:// or a "
            "private network",
            url.base,
            address,
        )


def _secret(config: RunnerConfig) -> str:
    try:
        token = read_auth_token(config)
    except ConfigurationError as error:
        raise Unreachable(str(error)) from None
    if token is None:
        raise AuthRefused("the one-shot grant token has been used")
    return token

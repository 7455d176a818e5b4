"""Perform the steps of a connection to one broker, one after the other, and report what each one saw.

The steps are those of a runner, by the same modules of `connection/`. Nothing here names a cause.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import re
import selectors
import socket
import ssl
import time
import uuid
from collections.abc import Iterator
from typing import Callable

from n8nrunner.check.facts import Editor, Observation, Step, Trouble
from n8nrunner.config import BrokerUrl, RunnerConfig, directory_of, is_one_shot, parse_broker, read_auth_token
from n8nrunner.connection import attempt, auth, dial
from n8nrunner.connection.environment import Proxy, in_url, proxy_for
from n8nrunner.connection.lookup import look_up
from n8nrunner.connection.transport import Connection
from n8nrunner.deadline import Deadline
from n8nrunner.errors import ConfigurationError
from n8nrunner.protocol.codec import encode, event_of
from n8nrunner.protocol.failures import ConnectionLost, LinkFailure, Problem, Unreachable
from n8nrunner.protocol.messages import InfoRequest, RunnerInfo, RunnerRegistered

#: The name of the check in n8n's log.
NAME = "n8nrunner check"
#: The port of n8n's editor by default.
EDITOR_PORT = 5678
#: Seconds that n8n gets to register the check.
REGISTRATION_TIMEOUT = 10.0

#: Bytes of a page that are read. The version is at the beginning of the editor's page.
_PAGE_START = 16 * 1024
#: The tag of the editor's page with the version, in base64.
_VERSION_TAG = re.compile(rb'name="n8n:config:sentry" content="([A-Za-z0-9+/=]+)"')
#: Files of Docker and Podman in each container.
_CONTAINER_FILES = ("/.dockerenv", "/run/.containerenv")


class _Troubled(Exception):
    """A step did not pass, and no `LinkFailure` says why. The text is for people."""

    def __init__(self, text: str, trouble: Trouble) -> None:
        super().__init__(text)
        self.trouble = trouble


class Walk:
    """The steps to one broker. The last one registers a runner that offers nothing, so that it gets no task.

    Attributes:
        proxy: the URL of the proxy of the environment; None without one. The first step sets it.
    """

    def __init__(self, url: BrokerUrl, config: RunnerConfig) -> None:
        self.proxy: str | None = None
        self._url = url
        self._config = config
        self._directory = directory_of(config)
        self._deadline = Deadline(None)
        self._proxy: Proxy | None = None
        self._addresses: list[dial.Address] = []
        self._raw: socket.socket | None = None
        self._token = self._grant = ""
        self._connection: Connection | None = None

    def steps(self) -> Iterator[Observation]:
        """Perform the steps until one fails, and yield what each one saw."""
        steps: tuple[tuple[Step, Callable[[], str | None], str], ...] = (
            (Step.NAME, self._resolve, ""),
            (Step.TCP, self._connect, ""),
            (Step.PROXY, self._open_tunnel, "none in the environment"),
            (Step.TLS, self._encrypt, "not used: the address has http://"),
            (Step.HEALTH, self._ask_for_health, ""),
            (Step.LOG_IN, self._log_in, ""),
            (Step.UPGRADE, self._upgrade, ""),
            (Step.REGISTRATION, self._register, ""),
        )
        try:
            for step, perform, unneeded in steps:
                began = time.monotonic()
                try:
                    seen = perform()
                except LinkFailure as failure:
                    yield Observation(step, str(failure), time.monotonic() - began, failure.problem)
                    return
                except _Troubled as failure:
                    yield Observation(step, str(failure), time.monotonic() - began, failure.trouble)
                    return
                yield Observation(step, seen or unneeded, None if seen is None else time.monotonic() - began)
        finally:
            if self._raw is not None:
                self._raw.close()
            if self._connection is not None:
                self._connection.close()

    def _resolve(self) -> str:
        self._deadline = Deadline(attempt.CONNECT_TIMEOUT)
        self._proxy = proxy_for(self._url.auth, self._url.address)
        host, port, peer = self._url.address or self._url.host, self._url.port, self._url.base
        if self._proxy is not None:
            self.proxy = self._proxy.shown
            host, port, peer = self._proxy.host, self._proxy.port, f"the proxy {self.proxy}"
        self._addresses = dial.resolve(host, port, peer)
        found = ", ".join(dict.fromkeys(str(address[4][0]) for address in self._addresses))
        return f"the proxy {self.proxy} of the environment: {found}" if self._proxy else found

    def _connect(self) -> str:
        peer = self._url.base if self._proxy is None else f"the proxy {self.proxy}"
        self._raw = dial.connect(self._addresses, self._deadline, peer)
        try:
            address = self._raw.getpeername()
        except OSError:
            return f"{peer} accepts, and closes the connection at once"
        return f"{in_url(address[0])}:{address[1]}"

    def _open_tunnel(self) -> str | None:
        if self._proxy is None:
            return None
        assert self._raw is not None
        dial.open_tunnel(self._raw, self._proxy, self._url, self._deadline, f"the proxy {self.proxy}")
        return f"{self.proxy} connects to {in_url(self._url.address or self._url.host)}:{self._url.port}"

    def _encrypt(self) -> str | None:
        assert self._raw is not None
        raw, self._raw = self._raw, None
        with contextlib.closing(dial.finish(raw, self._url, self._deadline, self._directory)) as secure:
            return secure.version() if isinstance(secure, ssl.SSLSocket) else None

    def _ask_for_health(self) -> str:
        try:
            answer = auth.check_health(self._url, self._directory, most=1024)
        except LinkFailure as failure:
            if failure.problem is Problem.CLOSED and self._speaks_tls():
                raise Unreachable(f"{failure}; the port speaks TLS", Problem.ONLY_TLS) from None
            raise
        if answer.status == 200 and answer.value == {"status": "ok"}:
            return "n8n's answer"
        return f"HTTP {answer.status}, not n8n's answer; a proxy may pass only the runners' path on"

    def _speaks_tls(self) -> bool:
        """Return whether the port answers a TLS handshake, which its server may want instead of HTTP."""
        if self._url.is_secure:
            return False
        url = self._url._replace(is_secure=True)
        try:
            dial.dial(url, Deadline(attempt.CONNECT_TIMEOUT), self._directory).close()
        except LinkFailure as failure:
            return failure.problem is Problem.CERTIFICATE
        return True

    def _log_in(self) -> str:
        try:
            token = read_auth_token(self._config)
        except ConfigurationError as error:
            raise _Troubled(str(error), Trouble.SETTINGS) from None
        if token is None:
            one_shot = is_one_shot(self._config)
            raise _Troubled(
                "a grant token alone is not tried" if one_shot else "there is no token to log in with",
                Trouble.ONE_SHOT if one_shot else Trouble.NO_TOKEN,
            )
        self._token = token
        self._grant = auth.fetch_grant(self._url, token, self._directory)
        return "the broker accepts the token"

    def find_accepted_form(self) -> Trouble | None:
        """Return the form in which n8n has the token that it refused as it is; None if it has another token.

        n8n accepts five log-ins a second, and this can make two.
        """
        for trouble, form in (
            (Trouble.N8N_TOKEN_WITH_LINE_BREAK, f"{self._token}\n"),
            (Trouble.N8N_TOKEN_IN_QUOTES, f'"{self._token}"'),
        ):
            with contextlib.suppress(LinkFailure):
                auth.fetch_grant(self._url, form, self._directory)
                return trouble
        return None

    def _upgrade(self) -> str:
        # An id of its own: n8n ends the connection of another runner with the same id.
        self._connection = attempt.upgrade(self._url, self._config, uuid.uuid4().hex, self._grant)
        return "a WebSocket"

    def _register(self) -> str:
        connection = self._connection
        assert connection is not None
        connection.bind()
        deadline = Deadline(REGISTRATION_TIMEOUT)
        with selectors.DefaultSelector() as selector:
            selector.register(connection.raw, selectors.EVENT_READ)
            while not self._is_registered(connection):
                if not selector.select(deadline.remaining()):
                    raise _Troubled(
                        f"n8n has not registered the check within {REGISTRATION_TIMEOUT:g} s",
                        Trouble.NOT_REGISTERED,
                    )
        connection.sender.send_close()
        connection.flush()
        return f'n8n has registered "{NAME}", which offers nothing'

    def _is_registered(self, connection: Connection) -> bool:
        for received in connection.read()[0]:
            event = event_of(received, self._config.max_payload)
            if isinstance(event, InfoRequest):
                connection.sender.send_message(encode(RunnerInfo(NAME, ())))
                connection.flush()
            elif isinstance(event, RunnerRegistered):
                return True
        if connection.received_close:
            raise ConnectionLost("n8n closed the WebSocket before the registration", connection.close_code)
        return False


def editor_of(url: BrokerUrl) -> BrokerUrl:
    """Return where n8n's editor is by default, on the host of a broker."""
    return parse_broker(f"http://{in_url(url.address or url.host)}:{EDITOR_PORT}")


def brokers_at(url: BrokerUrl) -> tuple[Observation, list[BrokerUrl]]:
    """Look up a name that stands for all its addresses, and return the broker at each of them."""
    began = time.monotonic()
    found = look_up(url.host)
    addresses = found.addresses or ()
    problem = None if addresses else Problem.UNKNOWN_NAME
    seen = ", ".join(addresses) or f"{url.base}: {found.problem}"
    observation = Observation(Step.NAME, seen, time.monotonic() - began, problem)
    return observation, [url.at(address) for address in addresses]


def look_at_editor(url: BrokerUrl, directory: str) -> Editor:
    """Return whether n8n answers at the address of its editor, and its version if its page shows it."""
    try:
        answers = auth.check_health(url, directory, most=1024).value == {"status": "ok"}
        version = _version_of(auth.request("GET", url, f"{url.base}/", directory, most=_PAGE_START).body)
    except LinkFailure:
        answers, version = False, None
    return Editor(url.base, answers, version)


def _version_of(page: bytes) -> str | None:
    tag = _VERSION_TAG.search(page)
    if tag is None:
        return None
    try:
        release = json.loads(base64.b64decode(tag[1]))["release"]
    except (binascii.Error, ValueError, KeyError, TypeError):
        return None
    found = re.fullmatch(r"n8n@(\d+\.\d+\.\d+[\w.-]*)", str(release))
    return found[1] if found else None


def is_in_container() -> bool:
    """Return whether this process runs in a container of Docker, Podman or Kubernetes."""
    return "KUBERNETES_SERVICE_HOST" in os.environ or any(map(os.path.exists, _CONTAINER_FILES))

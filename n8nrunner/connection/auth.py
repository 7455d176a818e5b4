"""Requests to a broker over HTTP: the log-in, which returns a grant token, and the probe.

They run on the threads `n8nrunner-connect-N`, and use `dial`, as the WebSocket does: the same proxy,
certificates and TLS settings, and a limited time.
`requests` would add credentials of a netrc file, read the bodies of redirects, decompress answers, and read
for as long as a peer sends a byte now and then.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from n8nrunner._version import __version__
from n8nrunner.config import BrokerUrl
from n8nrunner.connection.dial import Socket, dial, dial_proxy
from n8nrunner.connection.environment import in_url, no_proxy_advice, problem_of, proxy_for, reason_of
from n8nrunner.deadline import Deadline
from n8nrunner.protocol.failures import (
    AuthRefused,
    LinkFailure,
    NotABroker,
    Problem,
    RateLimited,
    Unreachable,
)

#: Seconds to connect, and seconds for the whole answer.
HTTP_TIMEOUT = 5.0
#: Bytes that an answer may have, its head included.
_ANSWER_LIMIT = 64 * 1024
#: Bytes that are read at once. Python's default, 128 KiB since 3.14, is above the limit.
_READ_SIZE = 8 * 1024
#: The first bytes of a TLS alert, which a TLS port sends in answer to plain HTTP.
_TLS_ALERT = "\x15\x03"
_CONTENT = {"Content-Type": "application/json"}


def fetch_grant(url: BrokerUrl, auth_token: str, directory: str | None = None) -> str:
    """Exchange the shared secret for a grant token (docs/protocol.md, "Authentication").

    `directory`: see `certificates`.

    Raises:
        AuthRefused, RateLimited, NotABroker, Unreachable: see `failures`.
    """
    answer = request("POST", url, url.auth, directory, json.dumps({"token": auth_token}).encode())
    status, value = answer.status, answer.value
    if status == 200:
        data = value.get("data") if isinstance(value, dict) else None
        token = data.get("token") if isinstance(data, dict) else None
        if isinstance(token, str) and token.isascii() and token.isprintable() and token:
            return token
        what = (
            "and compressed it, which was not asked for"
            if answer.is_compressed
            else "but without a grant token"
        )
        raise NotABroker(f"{url.auth} answered 200, {what}{answer.way}", Problem.OTHER_SERVER)
    if status == 403 and _is_n8ns(value, {"code": 403, "message": "Forbidden"}):
        raise AuthRefused(f"the broker at {url.base} refused the token (HTTP 403)")
    if status == 429 and _is_n8ns(value, {"message": "Too many requests"}):
        raise RateLimited(f"the broker at {url.base} accepts only five log-ins a second (HTTP 429)")
    if status >= 500:
        raise _unavailable(url, answer)
    if 300 <= status < 400:
        raise NotABroker(
            f"{url.auth} answered HTTP {status}, a redirect, which is not followed: it would post the token "
            f"to another address; give the address that it leads to{answer.way}",
            Problem.REDIRECT,
        )
    if status == 404:
        who, problem = _who_answers(url, directory)
        raise NotABroker(f"{url.auth} answered HTTP 404; {who}{answer.way}", problem)
    if status == 400 and b"HTTPS" in answer.body.upper():
        raise NotABroker(
            f"{url.auth} answered HTTP 400: this port speaks TLS; use https:// in the broker's URL",
            Problem.ONLY_TLS,
        )
    raise NotABroker(
        f"{url.auth} answered HTTP {status}, which does not come from n8n's task broker: a proxy or gateway "
        f"in front of it has answered, or another server{answer.way}",
        Problem.OTHER_SERVER,
    )


def why_unhealthy(url: BrokerUrl, directory: str | None = None) -> Unreachable | None:
    """Return why the broker is not healthy; None if it is.

    Every answer below 500 counts as healthy: a proxy may forward only the runners' path.
    """
    try:
        check_health(url, directory)
    except Unreachable as failure:
        return failure
    return None


def check_health(url: BrokerUrl, directory: str | None = None, most: int = 0) -> Answer:
    """Return the broker's answer to the probe, with up to `most` bytes of its body.

    Raises:
        Unreachable: it is not healthy.
    """
    answer = request("GET", url, url.health, directory, most=most)
    if answer.status >= 500:
        raise _unavailable(url, answer)
    return answer


def _unavailable(url: BrokerUrl, answer: Answer) -> Unreachable:
    # The same text for a log-in and a probe: the log has a line for each new reason.
    return Unreachable(f"{url.base} answered HTTP {answer.status}{answer.way}", Problem.UNAVAILABLE)


def _is_n8ns(value: Any, expected: dict[str, Any]) -> bool:
    """Return whether an error has the fields of n8n's own; it may have others, such as a stack trace."""
    return isinstance(value, dict) and all(value.get(key) == item for key, item in expected.items())


def _who_answers(url: BrokerUrl, directory: str | None) -> tuple[str, Problem]:
    """Find out why there is no log-in at an address where a server answers.

    n8n's editor and its task broker answer the same to an unknown path; only the editor knows
    `/healthz/readiness`.
    """
    with contextlib.suppress(Unreachable):
        ready = request("GET", url, f"{url.health}/readiness", directory)
        if isinstance(ready.value, dict) and isinstance(ready.value.get("status"), str):
            prefix = "" if url.address is None else "dns+"
            return (
                "this is the port of n8n's editor; the task broker has another port: use "
                f"{prefix}http://{in_url(url.host)}:5679, or the port in n8n's N8N_RUNNERS_BROKER_PORT"
            ), Problem.EDITOR
        healthy = request("GET", url, url.health, directory)
        if healthy.status == 200 and _is_n8ns(healthy.value, {"status": "ok"}):
            path = urlsplit(url.auth).path[: -len("/auth")]
            return (
                f"n8n's task broker is there, but not below the path {path!r}: put the path in n8n's "
                "N8N_RUNNERS_PATH behind the address in the broker's URL"
            ), Problem.OTHER_PATH
    return (
        "is this the address of n8n's task broker? Its port is 5679, or n8n's N8N_RUNNERS_BROKER_PORT"
    ), Problem.OTHER_SERVER


class Answer(NamedTuple):
    """An answer to a request."""

    status: int
    body: bytes
    #: The body, if it is JSON.
    value: Any
    is_compressed: bool
    #: Advice for errors: how the request went to the broker.
    way: str


def request(
    method: str,
    broker: BrokerUrl,
    url: str,
    directory: str | None,
    content: bytes | None = None,
    most: int = _ANSWER_LIMIT,
) -> Answer:
    """Make a request, and read up to `most` bytes of the answer's body.

    Raises:
        Unreachable: there is no answer, or it is not HTTP, too long or too slow.
    """
    address = urlsplit(url)
    target = address.path
    headers = {"Host": address.netloc, "User-Agent": f"n8nrunner/{__version__}"}
    body = b""
    way = ""
    proxy = proxy_for(url, broker.address)
    if proxy is not None:
        way = f" (through the proxy {proxy.shown} of the environment; {no_proxy_advice(broker.host)})"
    try:
        # A proxy would look up the host of a plain request itself; a tunnel leads to the one address.
        if proxy is None or broker.is_secure or broker.address is not None:
            raw = dial(broker, Deadline(HTTP_TIMEOUT), directory)
        else:
            raw = dial_proxy(proxy, broker, Deadline(HTTP_TIMEOUT))
            target = url
            if proxy.authorization is not None:
                headers["Proxy-Authorization"] = proxy.authorization
        with contextlib.closing(raw), contextlib.closing(http.client.HTTPConnection("")) as connection:
            connection.sock = _LimitedSocket(raw)
            connection.request(method, target, content, headers | _CONTENT if content else headers)
            with connection.getresponse() as response:
                if most:
                    body = response.read(most)
                encoding = response.headers.get("Content-Encoding", "identity")
    except LinkFailure as failure:
        raise Unreachable(str(failure), failure.problem) from None
    except Exception as error:  # noqa: BLE001 - a peer can provoke every exception of the library
        reason, problem = _reason(error)
        raise Unreachable(f"{broker.base} cannot be reached: {reason}{way}", problem) from None
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    return Answer(response.status, body, value, encoding.lower() != "identity", way)


class _LimitedSocket(io.RawIOBase):
    """The socket of one request, whose answer has a limit of time and of bytes."""

    def __init__(self, raw: Socket) -> None:
        self._raw = raw
        self._deadline = Deadline(HTTP_TIMEOUT)
        self._left = _ANSWER_LIMIT

    def sendall(self, data: bytes) -> None:
        self._raw.settimeout(self._remaining())
        self._raw.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self, _READ_SIZE)

    def close(self) -> None:
        """Do nothing: `http.client` closes before it reads an answer without a length."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._raw.settimeout(self._remaining())
        count = self._raw.recv_into(buffer)
        self._left -= count
        if self._left < 0:
            raise OSError("the answer is too long")
        return count

    def _remaining(self) -> float:
        remaining = self._deadline.remaining()
        if not remaining:
            raise TimeoutError("the answer takes too long")
        return remaining


def _reason(error: Exception) -> tuple[str, Problem]:
    if isinstance(error, http.client.BadStatusLine) and error.args[0].startswith(_TLS_ALERT):
        return "this port speaks TLS; use https:// in the broker's URL", Problem.ONLY_TLS
    # The text of another error may hold what the peer sent, or a password of the proxy.
    if isinstance(error, OSError):
        return reason_of(error), problem_of(error)
    is_not_http = isinstance(error, http.client.HTTPException)
    return type(error).__name__, Problem.NOT_HTTP if is_not_http else Problem.UNEXPECTED

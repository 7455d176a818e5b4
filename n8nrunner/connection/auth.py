"""Requests to a broker over HTTP: the log-in, which returns a grant token, and the probe.

The requests are made by the transport of `requests`, without a session: a session adds credentials of a
netrc file, reads the bodies of redirects, and is what other packages patch. An answer has a limited time and
a limited size, and is not decompressed.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
import requests.adapters

from n8nrunner._version import __version__
from n8nrunner.config import BrokerUrl
from n8nrunner.connection.environment import (
    Proxy,
    certificates,
    no_proxy_advice,
    proxy_for,
    reason_of,
    tls_context,
)
from n8nrunner.connection.sockets import note
from n8nrunner.deadline import Deadline
from n8nrunner.logs import drop_records_of_threads
from n8nrunner.protocol.failures import AuthRefused, NotABroker, RateLimited, Unreachable

#: Seconds to connect to one address, and again for the whole answer.
HTTP_TIMEOUT = 5.0
#: Bytes that an answer may have, its head included.
_ANSWER_LIMIT = 64 * 1024
#: The first bytes of a TLS alert, which a TLS port sends in answer to plain HTTP.
_TLS_ALERT = "\x15\x03"
_SPEAKS_TLS = "this port speaks TLS; use https:// in the broker's URL"

# urllib3 logs each request, and the text of headers that it cannot parse: a peer would write the log.
for _name in ("connection", "connectionpool", "response", "util.retry"):
    drop_records_of_threads(f"urllib3.{_name}", ("n8nrunner-connect",))


def fetch_grant(url: BrokerUrl, auth_token: str, directory: str | None = None) -> str:
    """Exchange the shared secret for a grant token (docs/protocol.md, "Authentication").

    Args:
        url: the broker's addresses.
        auth_token: the shared secret.
        directory: where a relative path to certificates begins; None for the current folder.

    Raises:
        AuthRefused, RateLimited, NotABroker, Unreachable: see `failures`.
    """
    answer = _request("POST", url, url.auth, directory, {"token": auth_token})
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
        raise NotABroker(f"{url.auth} answered 200, {what}{answer.way}")
    if status == 403 and _is_n8ns(value, {"code": 403, "message": "Forbidden"}):
        raise AuthRefused(f"the broker at {url.base} refused the token (HTTP 403)")
    if status == 429 and _is_n8ns(value, {"message": "Too many requests"}):
        raise RateLimited(f"the broker at {url.base} takes five log-ins a second (HTTP 429)")
    if status >= 500:
        raise Unreachable(_unavailable(url, answer))
    if 300 <= status < 400:
        raise NotABroker(
            f"{url.auth} answered HTTP {status}, a redirect, which is not followed: it would post the token "
            f"to another address; give the address that it leads to{answer.way}"
        )
    if status == 404:
        raise NotABroker(f"{url.auth} answered HTTP 404; {_who_answers(url, directory)}{answer.way}")
    if status == 400 and b"HTTPS" in answer.body.upper():
        raise NotABroker(
            f"{url.auth} answered HTTP 400: this port speaks TLS; use https:// in the broker's URL"
        )
    raise NotABroker(
        f"{url.auth} answered HTTP {status}, which does not come from n8n's task broker: a proxy or gateway "
        f"before it has answered, or another server{answer.way}"
    )


def why_unhealthy(url: BrokerUrl, directory: str | None = None) -> Unreachable | None:
    """Return why nothing answers where the broker should be; None if something does.

    A proxy that passes only the runners' path on answers 404 here, and there n8n may be up all the same.
    """
    try:
        answer = _request("GET", url, url.health, directory, read_body=False)
    except Unreachable as failure:
        return failure
    return Unreachable(_unavailable(url, answer)) if answer.status >= 500 else None


def is_healthy(url: BrokerUrl) -> bool:
    """Return whether something answers where the broker should be."""
    return why_unhealthy(url) is None


def _unavailable(url: BrokerUrl, answer: _Answer) -> str:
    # The same text for a log-in and a probe: the log has a line for each new reason.
    return f"{url.base} answered HTTP {answer.status}{answer.way}"


def _is_n8ns(value: Any, expected: dict[str, Any]) -> bool:
    """Return whether an error has the fields of n8n's own; it may have others, such as a stack trace."""
    return isinstance(value, dict) and all(value.get(key) == item for key, item in expected.items())


def _who_answers(url: BrokerUrl, directory: str | None) -> str:
    """Find out why there is no log-in at an address where a server answers.

    n8n's editor and its task broker answer the same to an unknown path; only the editor knows
    `/healthz/readiness`.
    """
    with contextlib.suppress(Unreachable):
        ready = _request("GET", url, f"{url.health}/readiness", directory)
        if isinstance(ready.value, dict) and isinstance(ready.value.get("status"), str):
            host = f"[{url.host}]" if ":" in url.host else url.host
            return (
                "this is the port of n8n's editor; the task broker has a port of its own: use "
                f"http://{host}:5679, or the port in n8n's N8N_RUNNERS_BROKER_PORT"
            )
        healthy = _request("GET", url, url.health, directory)
        if healthy.status == 200 and _is_n8ns(healthy.value, {"status": "ok"}):
            path = urlsplit(url.auth).path[: -len("/auth")]
            return (
                f"n8n's task broker is there, but not below the path {path!r}: put the path in n8n's "
                "N8N_RUNNERS_PATH behind the address in the broker's URL"
            )
    return "is this n8n's task broker, in external mode?"


class _Answer(NamedTuple):
    status: int
    body: bytes
    #: The body, if it is JSON.
    value: Any
    is_compressed: bool
    #: Advice for errors: how the request went to the broker.
    way: str


def _request(
    method: str,
    broker: BrokerUrl,
    url: str,
    directory: str | None,
    body: dict[str, str] | None = None,
    read_body: bool = True,
) -> _Answer:
    """Make a request.

    Raises:
        Unreachable: there is no answer, or it is not HTTP, too long or too slow.
    """
    proxy: Proxy | None = None
    try:
        try:
            proxy = proxy_for(url)
            context = tls_context(certificates(directory)) if url.startswith("https") else None
        except (OSError, ValueError) as error:
            raise Unreachable(f"{broker.base} cannot be reached: {error}") from None
        request = requests.PreparedRequest()
        headers = {"Accept-Encoding": "identity", "User-Agent": f"n8nrunner/{__version__}"}
        request.prepare(method=method, url=url, headers=headers, json=body)
        with contextlib.closing(_Adapter(context, proxy)) as adapter:
            response = adapter.send(
                request, stream=True, timeout=HTTP_TIMEOUT, proxies={"all": proxy.url} if proxy else {}
            )
            with contextlib.closing(response):
                content = _content(response.raw) if read_body else b""
                status = response.status_code
                encoding = response.headers.get("Content-Encoding", "identity")
    except Unreachable:
        raise
    except Exception as error:  # noqa: BLE001 - a peer can provoke every exception of the libraries
        text = f"{broker.base} cannot be reached: {_reason(error)}{_way(proxy, broker.host)}"
        raise Unreachable(text) from None
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    return _Answer(status, content, value, encoding.lower() != "identity", _way(proxy, broker.host))


def _way(proxy: Proxy | None, host: str) -> str:
    """Return what an error says about the proxy that was used."""
    if proxy is None:
        return ""
    return f" (through the proxy {proxy.shown} of the environment; {no_proxy_advice(host)})"


def _content(raw: Any) -> bytes:
    """Read a body as it was sent: the server was asked not to compress it."""
    parts: list[bytes] = []
    while True:
        part = raw.read(_ANSWER_LIMIT, decode_content=False)
        if not part:
            return b"".join(parts)
        parts.append(part)


class _Adapter(requests.adapters.HTTPAdapter):
    """The transport of `requests` for one request: our TLS settings, and a limited answer."""

    def __init__(self, context: Any, proxy: Proxy | None) -> None:
        self._context = context
        self._proxy = proxy
        self._opened: list[Any] = []
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **options)

    def proxy_manager_for(self, proxy: Any, **options: Any) -> Any:
        return super().proxy_manager_for(proxy, ssl_context=self._context, **options)

    def proxy_headers(self, proxy: Any) -> dict[str, str]:
        authorization = self._proxy.authorization if self._proxy else None
        return {} if authorization is None else {"Proxy-Authorization": authorization}

    def cert_verify(self, *args: Any, **options: Any) -> None:
        """Leave the certificates alone: they are in the context."""

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **options)
        new_connection = pool.ConnectionCls

        def new_limited_connection(*args: Any, **options: Any) -> Any:
            connection = new_connection(*args, **options)
            note(
                connection
            )  # before it has a socket, because a fork can come right after the request is sent
            connection.response_class = self._new_response
            self._opened.append(connection)
            return connection

        pool.ConnectionCls = new_limited_connection
        return pool

    def _new_response(self, *args: Any, **options: Any) -> _Response:
        response = _Response(*args, **options)
        self._opened.append(response)
        return response

    def close(self) -> None:
        super().close()
        # urllib3 drops a response without closing it if it cannot understand its head, and leaves the
        # connections of a pool to the garbage collector.
        for opened in self._opened:
            opened.close()


class _Limited(io.RawIOBase):
    """Read from a socket until the time or the bytes for one answer are used up.

    `requests` limits the time of each read, and nothing else: a byte now and then would go on without end.
    """

    def __init__(self, raw: io.RawIOBase, connection: socket.socket) -> None:
        self._raw = raw
        self._connection = connection
        self._deadline = Deadline(HTTP_TIMEOUT)
        self._left = _ANSWER_LIMIT

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        remaining = self._deadline.remaining()
        if not remaining:
            raise TimeoutError("the answer takes too long")
        self._connection.settimeout(remaining)
        count: int | None = self._raw.readinto(buffer)
        self._left -= count or 0
        if self._left < 0:
            raise OSError("the answer is too long")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer whose head and body are limited together."""

    def __init__(self, connection: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(connection, *args, **options)
        note(connection)
        self.fp = io.BufferedReader(_Limited(self.fp.detach(), connection))


def _reason(error: BaseException) -> str:
    """Return the system's own reason, without the wrapping of urllib3 and `requests`."""
    seen = error
    while isinstance(seen, requests.RequestException) or not isinstance(seen, OSError):
        inner = seen.__cause__ or seen.__context__ or getattr(seen, "reason", None)
        if not isinstance(inner, BaseException):
            break
        seen = inner
    if isinstance(seen, OSError) and not isinstance(seen, requests.RequestException):
        return reason_of(seen)
    if isinstance(seen, http.client.BadStatusLine) and seen.args[0].startswith(_TLS_ALERT):
        return _SPEAKS_TLS
    # The text may hold what the peer sent, or a password of the proxy; the type says enough.
    return type(seen).__name__

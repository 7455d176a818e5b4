"""What is asked of a broker over HTTP: a grant token, and whether n8n is up.

Proxies and certificates are taken from where users of `requests` set them; a proxy is never used for this
machine itself.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import json
import socket
from typing import Any, Dict, NamedTuple, Optional
from urllib.parse import urlsplit

import requests
import requests.adapters
import urllib3
import urllib3.connection

from n8nrunner.config import BrokerUrl
from n8nrunner.connection.failures import AuthRefused, NotABroker, RateLimited, Unreachable
from n8nrunner.deadline import Deadline

#: Seconds to connect to one address, and again for the whole answer.
HTTP_TIMEOUT = 5.0
#: Bytes that an answer may have, its head included.
_ANSWER_LIMIT = 64 * 1024


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def environment_settings(url: str) -> Dict[str, Any]:
    """What `requests` takes from the environment for a URL: "proxies", and "verify" (True, or a path)."""
    proxies: Dict[str, Any] = {}
    host = urlsplit(url).hostname or ""
    if is_loopback(host):
        proxies["no_proxy"] = host
    with requests.Session() as session:
        return dict(session.merge_environment_settings(url, proxies, None, None, None))


def fetch_grant(url: BrokerUrl, auth_token: str) -> str:
    """Exchanges the shared secret for a grant token (docs/protocol.md, "Authentication").

    Raises:
        AuthRefused, RateLimited, NotABroker, Unreachable: see `failures`.
    """
    answer = _request("POST", url.auth, {"token": auth_token})
    status = answer.status
    if status == 200:
        data = answer.value.get("data") if isinstance(answer.value, dict) else None
        token = data.get("token") if isinstance(data, dict) else None
        if isinstance(token, str) and token.isascii() and token.isprintable() and token:
            return token
        raise NotABroker(f"{url.auth} answered 200, but without a grant token")
    if status in (401, 403):
        raise AuthRefused(f"the broker at {url.base} refused the token (HTTP {status})")
    if status == 429:
        raise RateLimited(f"the broker at {url.base} takes five log-ins a second (HTTP 429)")
    if status >= 500:
        raise Unreachable(f"{url.auth} answered HTTP {status}")
    if 300 <= status < 400:
        raise NotABroker(
            f"{url.auth} answered HTTP {status}, a redirect, which is not followed: it would post the token "
            "to another address; give the address that it leads to"
        )
    raise NotABroker(f"{url.auth} answered HTTP {status}; is this n8n's task broker, in external mode?")


def is_healthy(url: BrokerUrl) -> bool:
    """Whether something answers where the broker should be.

    A proxy that passes only the runners' path on answers 404 here, and there n8n may be up all the same.
    """
    try:
        return _request("GET", url.health, None).status < 500
    except Unreachable:
        return False


class _Answer(NamedTuple):
    status: int
    value: Any


def _request(method: str, url: str, body: Optional[Dict[str, str]]) -> _Answer:
    settings = environment_settings(url)
    try:
        with requests.Session() as session:
            session.mount("http://", _Adapter())
            session.mount("https://", _Adapter())
            response = session.request(
                method,
                url,
                json=body,
                timeout=HTTP_TIMEOUT,
                allow_redirects=False,
                proxies=settings["proxies"],
                verify=settings["verify"],
            )
    except (requests.RequestException, OSError, ValueError) as error:
        # The text of the exception names addresses only; the token was in the body.
        raise Unreachable(f"{url} cannot be reached: {_reason(error)}") from None
    try:
        value = json.loads(response.content)
    except (ValueError, RecursionError):
        value = None
    return _Answer(response.status_code, value)


class _Limited(io.RawIOBase):
    """What comes from a socket, until the time or the bytes for one answer are used up.

    `requests` limits the time of each read, and nothing else: a byte now and then would go on for ever.
    """

    def __init__(self, raw: io.RawIOBase, connection: socket.socket) -> None:
        self._raw = raw
        self._connection = connection
        self._deadline = Deadline(HTTP_TIMEOUT)
        self._left = _ANSWER_LIMIT

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Optional[int]:
        remaining = self._deadline.remaining()
        if not remaining:
            raise TimeoutError("the answer takes too long")
        self._connection.settimeout(remaining)
        count: Optional[int] = self._raw.readinto(buffer)
        self._left -= count or 0
        if self._left < 0:
            raise OSError("the answer is too long")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, connection: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(connection, *args, **options)
        self.fp = io.BufferedReader(_Limited(self.fp.detach(), connection))


class _Connection(urllib3.connection.HTTPConnection):
    response_class = _Response


class _SecureConnection(urllib3.connection.HTTPSConnection):
    response_class = _Response


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Adapter(requests.adapters.HTTPAdapter):
    """`requests` with limited answers."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = self.poolmanager.pool_classes_by_scheme
        return manager


def _reason(error: BaseException) -> str:
    """The reason that the system gave, without the wrapping of urllib3 and `requests`."""
    seen = error
    while isinstance(seen, requests.RequestException) or not isinstance(seen, OSError):
        inner = seen.__cause__ or seen.__context__ or getattr(seen, "reason", None)
        if not isinstance(inner, BaseException):
            break
        seen = inner
    return f"{type(seen).__name__}: {str(seen) or error}"

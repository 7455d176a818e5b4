"""What is asked of a broker over HTTP: a grant token, and whether n8n is up.

Proxies and certificates are taken from where users of `requests` set them; a proxy is never used for this
machine itself.
"""

from __future__ import annotations

import ipaddress
import json
from typing import Any, Dict, NamedTuple, Optional
from urllib.parse import urlsplit

import requests

from n8nrunner.config import BrokerUrl
from n8nrunner.connection.failures import AuthRefused, NotABroker, RateLimited, Unreachable
from n8nrunner.deadline import Deadline

#: Seconds for one request.
HTTP_TIMEOUT = 5.0
#: Bytes of an answer that are looked at.
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
    deadline = Deadline(HTTP_TIMEOUT)
    settings = environment_settings(url)
    try:
        with requests.request(
            method,
            url,
            json=body,
            timeout=HTTP_TIMEOUT,
            allow_redirects=False,
            stream=True,
            proxies=settings["proxies"],
            verify=settings["verify"],
        ) as response:
            received = b""
            for chunk in response.iter_content(4096):
                received += chunk
                if len(received) > _ANSWER_LIMIT or deadline.expired:
                    raise Unreachable(f"{url} sends more, or slower, than a broker does")
            try:
                value = json.loads(received)
            except ValueError:
                value = None
            return _Answer(response.status_code, value)
    except (requests.RequestException, OSError, ValueError) as error:
        # The text of the exception names addresses only; the token was in the body.
        raise Unreachable(f"{url} cannot be reached: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    """The innermost reason, without urllib3's wrapping."""
    seen = error
    while True:
        inner = seen.__cause__ or seen.__context__ or getattr(seen, "reason", None)
        if not isinstance(inner, BaseException) or inner is seen:
            break
        seen = inner
    text = str(seen) or str(error)
    return f"{type(seen).__name__}: {text}"

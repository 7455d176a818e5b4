"""A connected socket to a broker: name look-up, TCP, a proxy's CONNECT and TLS, all within one deadline."""

from __future__ import annotations

import base64
import os
import socket
import ssl
from typing import Optional, Union
from urllib.parse import unquote, urlsplit

import requests
import requests.utils

from n8nrunner.config import BrokerUrl
from n8nrunner.connection.auth import environment_settings
from n8nrunner.connection.failures import NotABroker, Unreachable
from n8nrunner.connection.sockets import keep_alive
from n8nrunner.deadline import Deadline

#: What `dial` returns.
Socket = Union[socket.socket, ssl.SSLSocket]

#: Bytes of a proxy's answer to CONNECT that are read before it is taken for something else.
_HEAD_LIMIT = 16 * 1024


def dial(url: BrokerUrl, deadline: Deadline) -> Socket:
    """Opens a socket to the broker.

    Returns:
        A blocking socket, over TLS if the broker's URL says so.

    Raises:
        Unreachable: nobody answered in time, or TLS failed; the text says which step it was.
        NotABroker: the settings of the proxy cannot work.
    """
    settings = environment_settings(url.auth)
    proxy = requests.utils.select_proxy(url.auth, settings["proxies"])
    if proxy:
        raw = _through_proxy(proxy, url, deadline)
    else:
        raw = _tcp(url.host, url.port, deadline, url.base)
    try:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(raw)
        if not url.is_secure:
            return raw
        return _tls(raw, url, settings["verify"], deadline)
    except BaseException:
        raw.close()
        raise


def _tcp(host: str, port: int, deadline: Deadline, what: str) -> socket.socket:
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"{what}: the host {host!r} has no known address: {_reason(error)}") from None
    reason: Optional[OSError] = None
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        # An address that swallows everything, such as of a broken IPv6, leaves time for the next one.
        share = _time_left(deadline, what) / (len(addresses) - index)
        try:
            connection = socket.socket(family, kind, protocol)
        except OSError as error:
            reason = error
            continue
        try:
            connection.settimeout(share)
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            reason = error
        except BaseException:
            connection.close()
            raise
    raise Unreachable(f"{what} cannot be reached: {_reason(reason)}")


def _through_proxy(proxy: str, url: BrokerUrl, deadline: Deadline) -> socket.socket:
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        port = parts.port or 80
    except ValueError:
        # Neither the URL nor the error's text is shown: a password may be in them.
        raise NotABroker("the proxy of the environment cannot be used: its URL has no valid port") from None
    shown = f"{parts.scheme}://{parts.hostname}:{port}"
    if parts.scheme != "http" or not parts.hostname:
        raise NotABroker(f"the proxy {shown} cannot be used: only http:// proxies can")
    raw = _tcp(parts.hostname, port, deadline, f"the proxy {shown}")
    try:
        target = f"[{url.host}]:{url.port}" if ":" in url.host else f"{url.host}:{url.port}"
        head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
        if parts.username:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            head += f"Proxy-Authorization: Basic {base64.b64encode(user.encode()).decode()}\r\n"
        raw.settimeout(_time_left(deadline, f"the proxy {shown}"))
        raw.sendall(f"{head}\r\n".encode("ascii"))
        answer = b""
        while b"\r\n\r\n" not in answer:
            raw.settimeout(_time_left(deadline, f"the proxy {shown}"))
            # One byte at a time, because what follows the head belongs to the connection behind the proxy.
            received = raw.recv(1)
            if not received:
                raise Unreachable(f"the proxy {shown} closed the connection instead of answering CONNECT")
            if len(answer) >= _HEAD_LIMIT:
                raise Unreachable(f"the proxy {shown} answered CONNECT with something else than HTTP")
            answer += received
        status = answer.split(b"\r\n", 1)[0].split(b" ", 2)
        if len(status) < 2 or status[1] != b"200":
            code = status[1].decode("latin-1") if len(status) > 1 else "nothing"
            raise Unreachable(f"the proxy {shown} answered {code} to CONNECT {target}")
        return raw
    except OSError as error:
        raw.close()
        raise Unreachable(f"the proxy {shown}: {_reason(error)}") from None
    except BaseException:
        raw.close()
        raise


def _tls(raw: socket.socket, url: BrokerUrl, verify: Union[bool, str], deadline: Deadline) -> ssl.SSLSocket:
    bundle = verify if isinstance(verify, str) else requests.utils.DEFAULT_CA_BUNDLE_PATH
    try:
        if os.path.isdir(bundle):
            context = ssl.create_default_context(capath=bundle)
        else:
            context = ssl.create_default_context(cafile=bundle)
    except OSError as error:
        raise Unreachable(
            f"{url.base}: the certificates in {bundle!r} cannot be read: {_reason(error)}"
        ) from None
    raw.settimeout(_time_left(deadline, url.base))
    try:
        return context.wrap_socket(raw, server_hostname=url.host)
    except (OSError, ValueError) as error:
        raise Unreachable(f"{url.base}: the TLS handshake failed: {_reason(error)}") from None


def _time_left(deadline: Deadline, what: str) -> float:
    remaining = deadline.remaining()
    if remaining is None or remaining > 0:
        return 60.0 if remaining is None else remaining
    raise Unreachable(f"{what} did not answer in time")


def _reason(error: Optional[Exception]) -> str:
    if error is None:
        return "it has no address"
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"

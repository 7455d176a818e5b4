"""Open sockets to brokers: name look-up, TCP, a proxy's CONNECT and TLS, all within one deadline.

Runs on the threads `n8nrunner-connect-N`.
"""

from __future__ import annotations

import socket
import ssl
from typing import Union

from n8nrunner.config import BrokerUrl
from n8nrunner.connection.environment import (
    Proxy,
    certificates,
    in_url,
    no_proxy_advice,
    proxy_for,
    reason_of,
    tls_context,
)
from n8nrunner.connection.sockets import keep_alive, note
from n8nrunner.deadline import Deadline
from n8nrunner.protocol.failures import NotABroker, Unreachable

#: A connected socket, with or without TLS.
Socket = Union[socket.socket, ssl.SSLSocket]

#: Bytes that the head of a proxy's answer to CONNECT may have.
_HEAD_LIMIT = 16 * 1024


def dial(url: BrokerUrl, deadline: Deadline, directory: str | None = None) -> Socket:
    """Open a socket to the broker.

    Args:
        url: the broker's addresses.
        deadline: for all steps together.
        directory: the folder that a relative path to certificates starts from; None for the current one.

    Returns:
        A blocking socket, over TLS if the broker's URL says so.

    Raises:
        Unreachable: the broker or the proxy did not answer in time, or TLS failed. The text names the step.
        NotABroker: the settings of the proxy are invalid.
    """
    try:
        proxy = proxy_for(url.auth)
    except ValueError as error:
        raise NotABroker(str(error)) from None
    if proxy is None:
        raw = _tcp(url.host, url.port, deadline, url.base)
    else:
        try:
            raw = _through_proxy(proxy, url, deadline)
        except Unreachable as failure:
            raise Unreachable(f"{failure} ({no_proxy_advice(url.host)})") from None
    try:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(raw)
        if not url.is_secure:
            return raw
        return _tls(raw, url, deadline, directory)
    except BaseException:
        raw.close()
        raise


def dial_proxy(proxy: Proxy, url: BrokerUrl, deadline: Deadline) -> socket.socket:
    """Open a socket to a proxy, for plain HTTP requests to the broker.

    Raises:
        Unreachable: the proxy did not answer in time.
    """
    try:
        return _tcp(proxy.host, proxy.port, deadline, f"the proxy {proxy.shown}")
    except Unreachable as failure:
        raise Unreachable(f"{failure} ({no_proxy_advice(url.host)})") from None


def _tcp(host: str, port: int, deadline: Deadline, peer: str) -> socket.socket:
    """Connect to the first address of a host that accepts. `peer` names the host in errors."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"{peer}: the host {host!r} has no known address: {reason_of(error)}") from None
    reason: OSError | None = None
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        # An address that never answers, such as one behind a broken IPv6 tunnel, leaves time for the next.
        share = time_left(deadline, peer) / (len(addresses) - index)
        try:
            connection = socket.socket(family, kind, protocol)
        except OSError as error:
            reason = error
            continue
        note(connection)
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
    raise Unreachable(f"{peer} cannot be reached: {reason_of(reason)}")


def _through_proxy(proxy: Proxy, url: BrokerUrl, deadline: Deadline) -> socket.socket:
    peer = f"the proxy {proxy.shown}"
    raw = _tcp(proxy.host, proxy.port, deadline, peer)
    try:
        target = f"{in_url(url.host)}:{url.port}"
        head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
        if proxy.authorization is not None:
            head += f"Proxy-Authorization: {proxy.authorization}\r\n"
        raw.settimeout(time_left(deadline, peer))
        raw.sendall(f"{head}\r\n".encode("ascii"))
        answer = b""
        while b"\r\n\r\n" not in answer:
            raw.settimeout(time_left(deadline, peer))
            # One byte at a time, because the bytes behind the head are the broker's.
            received = raw.recv(1)
            if not received:
                raise Unreachable(f"{peer} closed the connection instead of answering CONNECT")
            if len(answer) >= _HEAD_LIMIT:
                raise Unreachable(f"{peer} answered CONNECT with something other than HTTP")
            answer += received
        status = answer.split(b"\r\n", 1)[0].split(b" ", 2)
        if len(status) < 2 or status[1] != b"200":
            code = status[1].decode("latin-1") if len(status) > 1 else "nothing"
            raise Unreachable(f"{peer} answered {code} to CONNECT {target}")
        return raw
    except OSError as error:
        raw.close()
        raise Unreachable(f"{peer}: {reason_of(error)}") from None
    except BaseException:
        raw.close()
        raise


def _tls(raw: socket.socket, url: BrokerUrl, deadline: Deadline, directory: str | None) -> ssl.SSLSocket:
    try:
        context = tls_context(certificates(directory))
    except OSError as error:
        raise Unreachable(f"{url.base}: {error}") from None
    raw.settimeout(time_left(deadline, url.base))
    try:
        # `note` comes before the handshake: a process forked during the handshake has to know the socket.
        secure = context.wrap_socket(raw, server_hostname=url.host, do_handshake_on_connect=False)
        note(secure)
        try:
            secure.do_handshake()
        except BaseException:
            secure.close()
            raise
        return secure
    except (OSError, ValueError) as error:
        raise Unreachable(f"{url.base}: the TLS handshake failed: {reason_of(error)}") from None


def time_left(deadline: Deadline, peer: str, step: str = "answer") -> float:
    """Return the seconds until the deadline. Raises `Unreachable` if it has passed."""
    remaining = deadline.remaining()
    if not remaining:
        raise Unreachable(f"{peer} did not {step} in time")
    return remaining

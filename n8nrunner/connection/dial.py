"""Open sockets to brokers: name look-up, TCP, a proxy's CONNECT and TLS, all within one deadline.

Runs on the threads `n8nrunner-connect-N`.
"""

from __future__ import annotations

import re
import socket
import ssl
from typing import Any, Union

from n8nrunner.config import BrokerUrl
from n8nrunner.connection.environment import (
    Proxy,
    certificates,
    in_url,
    no_proxy_advice,
    problem_of,
    proxy_for,
    reason_of,
    tls_context,
)
from n8nrunner.connection.sockets import keep_alive, remember
from n8nrunner.deadline import Deadline
from n8nrunner.protocol.failures import Problem, Unreachable

#: A connected socket, with or without TLS.
Socket = Union[socket.socket, ssl.SSLSocket]
#: An address as `socket.getaddrinfo` returns it.
Address = tuple[Any, ...]

#: Bytes that the head of an answer may have.
_HEAD_LIMIT = 16 * 1024


def dial(url: BrokerUrl, deadline: Deadline, directory: str | None = None) -> Socket:
    """Open a socket to the broker, over TLS if its URL says so, with one deadline for all steps.

    A relative path to certificates starts from `directory`; None for the current one. The socket is blocking.

    Raises:
        Unreachable: the broker or the proxy did not answer in time, the proxy cannot be used, or TLS failed.
            The text names the step.
    """
    proxy = proxy_for(url.auth, url.address)
    if proxy is None:
        raw = _tcp(url.address or url.host, url.port, deadline, url.base)
    else:
        raw = dial_proxy(proxy, url, deadline, is_tunnel=True)
    return finish(raw, url, deadline, directory)


def finish(raw: socket.socket, url: BrokerUrl, deadline: Deadline, directory: str | None) -> Socket:
    """Set the options of a socket that is connected to the broker, and add TLS if the URL says so.

    Closes the socket if it raises `Unreachable`.
    """
    try:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(raw)
        if not url.is_secure:
            return raw
        return _tls(raw, url, deadline, directory)
    except BaseException:
        raw.close()
        raise


def dial_proxy(proxy: Proxy, url: BrokerUrl, deadline: Deadline, is_tunnel: bool = False) -> socket.socket:
    """Open a socket to a proxy, for plain HTTP requests to the broker, or as a tunnel to the broker.

    Raises:
        Unreachable: the proxy did not answer in time, or refuses the tunnel.
    """
    peer = f"the proxy {proxy.shown}"
    try:
        raw = _tcp(proxy.host, proxy.port, deadline, peer)
        if is_tunnel:
            open_tunnel(raw, proxy, url, deadline, peer)
        return raw
    except Unreachable as failure:
        raise Unreachable(f"{failure} ({no_proxy_advice(url.host)})", failure.problem) from None


def _tcp(host: str, port: int, deadline: Deadline, peer: str) -> socket.socket:
    return connect(resolve(host, port, peer), deadline, peer)


def resolve(host: str, port: int, peer: str) -> list[Address]:
    """Return the addresses of a host, at least one. `peer` names the host in errors."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unreachable(
            f"{peer}: the host {host!r} has no known address: {reason_of(error)}", Problem.UNKNOWN_NAME
        ) from None


def connect(addresses: list[Address], deadline: Deadline, peer: str) -> socket.socket:
    """Connect to the first address that accepts. `peer` names the host in errors."""
    reason: OSError | None = None
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        # An address that never answers, such as one behind a broken IPv6 tunnel, leaves time for the next.
        share = time_left(deadline, peer) / (len(addresses) - index)
        try:
            connection = socket.socket(family, kind, protocol)
        except OSError as error:
            reason = error
            continue
        remember(connection)
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
    raise Unreachable(f"{peer} cannot be reached: {reason_of(reason)}", problem_of(reason))


def open_tunnel(raw: socket.socket, proxy: Proxy, url: BrokerUrl, deadline: Deadline, peer: str) -> None:
    """Let a proxy connect the socket to the broker. Closes the socket if it does not."""
    target = f"{in_url(url.address or url.host)}:{url.port}"
    request = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
    if proxy.authorization is not None:
        request += f"Proxy-Authorization: {proxy.authorization}\r\n"
    try:
        # One byte at a time, because the bytes behind the head are the broker's.
        status, _, _ = exchange(raw, f"{request}\r\n".encode("ascii"), deadline, peer, f"CONNECT {target}", 1)
        if status != 200:
            raise Unreachable(
                f"{peer} answered {status or 'something other than HTTP'} to CONNECT {target}",
                Problem.TUNNEL_REFUSED,
            )
    except BaseException:
        raw.close()
        raise


def exchange(
    raw: Socket, request: bytes, deadline: Deadline, peer: str, what: str, size: int = _HEAD_LIMIT
) -> tuple[int, bytes, bytes]:
    """Send an HTTP request, and return the status of the answer, its head, and the bytes behind the head.

    The status is 0 if the answer is not HTTP. Each `recv` asks for `size` bytes. `peer` and `what` name the
    peer and the request in errors.

    Raises:
        Unreachable: there is no answer in time.
    """
    answer = bytearray()
    try:
        raw.settimeout(time_left(deadline, peer, f"answer {what}"))
        raw.sendall(request)
        while (end := answer.find(b"\r\n\r\n") + 4) < 4:
            if len(answer) > _HEAD_LIMIT:
                return 0, b"", b""
            raw.settimeout(time_left(deadline, peer, f"answer {what}"))
            data = raw.recv(size)
            if not data:
                raise Unreachable(f"{peer} closed the connection instead of answering {what}", Problem.CLOSED)
            answer += data
    except OSError as error:
        raise Unreachable(f"{peer} did not answer {what}: {reason_of(error)}", problem_of(error)) from None
    head = bytes(answer[:end])
    status = re.match(rb"HTTP/[\d.]+ (\d{3})\b", head)
    return int(status[1]) if status else 0, head, bytes(answer[end:])


def _tls(raw: socket.socket, url: BrokerUrl, deadline: Deadline, directory: str | None) -> ssl.SSLSocket:
    try:
        context = tls_context(certificates(directory))
    except OSError as error:
        raise Unreachable(f"{url.base}: {error}", Problem.CERTIFICATE) from None
    raw.settimeout(time_left(deadline, url.base))
    try:
        # `remember` comes before the handshake: a process forked during the handshake has to know the socket.
        secure = context.wrap_socket(raw, server_hostname=url.host, do_handshake_on_connect=False)
        remember(secure)
        try:
            secure.do_handshake()
        except BaseException:
            secure.close()
            raise
        return secure
    except (OSError, ValueError) as error:
        raise Unreachable(
            f"{url.base}: the TLS handshake failed: {reason_of(error)}", problem_of(error)
        ) from None


def time_left(deadline: Deadline, peer: str, step: str = "answer") -> float:
    """Return the seconds until the deadline. Raises `Unreachable` if it has passed."""
    remaining = deadline.remaining()
    if not remaining:
        raise Unreachable(f"{peer} did not {step} in time", Problem.TIMED_OUT)
    return remaining

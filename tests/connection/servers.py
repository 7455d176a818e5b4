"""Peers for the tests of connections: real sockets on loopback, most of which misbehave."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import selectors
import socket
import ssl
import struct
import threading
from types import TracebackType
from typing import Any, Callable, NamedTuple
from urllib.parse import urlsplit

from n8nrunner.connection.transport import Connection, Received
from n8nrunner.deadline import Deadline
from tests.conftest import LIMIT

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MAX_PAYLOAD = 64 * 1024 * 1024


# --- a server with a script ---------------------------------------------------------------------------


class Server:
    """Listen on loopback and run a script for each connection, on a thread of its own.

    Args:
        script: gets the accepted socket, which is closed when it returns.
    """

    def __init__(self, script: Callable[[socket.socket], None], port: int = 0) -> None:
        self.closing = threading.Event()
        #: How many connections came.
        self.accepted = 0
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._thread = threading.Thread(target=self._accept, name="test-server")
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            accepted, _ = self._listener.accept()
            if self.closing.is_set():
                accepted.close()
                return
            self.accepted += 1
            thread = threading.Thread(target=self._serve, args=(accepted,), name="test-server-connection")
            with self._lock:
                self._open[accepted] = thread
            thread.start()

    def _serve(self, accepted: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._script(accepted)
        with self._lock:
            self._open.pop(accepted, None)
        accepted.close()

    def close(self) -> None:
        """End everything, even if scripts are waiting."""
        if self.closing.is_set():
            return
        self.closing.set()
        with socket.socket() as last, contextlib.suppress(OSError):
            last.connect(("127.0.0.1", self.port))  # ends the wait for another one
        self._thread.join(LIMIT)
        assert not self._thread.is_alive(), "the test's own server does not end"
        self._listener.close()
        with self._lock:
            left = dict(self._open)
        for accepted, thread in left.items():
            with contextlib.suppress(OSError):
                accepted.shutdown(socket.SHUT_RDWR)
            thread.join(LIMIT)
            assert not thread.is_alive(), "a script of the test's own server does not end"


class Request(NamedTuple):
    """A received request."""

    line: str
    headers: dict[str, str]
    body: bytes


def read_request(connection: socket.socket) -> Request:
    """Read an HTTP request with its body."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = connection.recv(65536)
        if not data:
            raise ConnectionError("the client went away")
        received += data
    head, body = received.split(b"\r\n\r\n", 1)
    line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, value in (text.split(":", 1) for text in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += connection.recv(65536)
    return Request(line, headers, body)


class HttpServer(Server):
    """Answer every request with the same bytes, and remember the requests."""

    def __init__(self, answer: bytes, hold: bool = False) -> None:
        self.requests: list[Request] = []
        self._answer = answer
        self._hold = hold
        super().__init__(self._respond)

    def _respond(self, connection: socket.socket) -> None:
        self.requests.append(read_request(connection))
        connection.sendall(self._answer)
        if self._hold:
            self.closing.wait(LIMIT)
        else:
            connection.shutdown(socket.SHUT_WR)


def http_answer(status: int, body: bytes = b"", **headers: str) -> bytes:
    """Return an HTTP answer; `Content_Type` becomes `Content-Type`."""
    fields = {"Content-Length": str(len(body)), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Some Reason\r\n{lines}\r\n".encode() + body


#: The answer of n8n's editor and its task broker to an unknown path.
UNKNOWN_PATH = http_answer(404, b"<!DOCTYPE html><pre>Cannot POST /runners/auth</pre>")
OK = http_answer(200, b'{"status":"ok"}')


class Site(Server):
    """A server with an answer for each path, and 404 for all others."""

    def __init__(self, **answers: bytes) -> None:
        self._answers = {f"/{path.replace('_', '/')}": answer for path, answer in answers.items()}
        super().__init__(self._respond)

    def _respond(self, connection: socket.socket) -> None:
        path = read_request(connection).line.split(" ")[1]
        connection.sendall(self._answers.get(path, UNKNOWN_PATH))
        connection.shutdown(socket.SHUT_WR)


# --- WebSocket, driven by the test itself ---------------------------------------------------------------


def frame(
    opcode: int,
    payload: bytes = b"",
    final: bool = True,
    reserved: int = 0,
    mask: bool = False,
    size: int = 0,
) -> bytes:
    """Return a frame as a server sends it, or as no server should.

    Args:
        size: how many bytes the length takes at least: 0, 2 or 8.
    """
    first = (0x80 if final else 0) | reserved << 4 | opcode
    marked = 0x80 if mask else 0
    length = len(payload)
    if length >= 65536 or size == 8:
        head = struct.pack("!BBQ", first, marked | 127, length)
    elif length >= 126 or size == 2:
        head = struct.pack("!BBH", first, marked | 126, length)
    else:
        head = struct.pack("!BB", first, marked | length)
    return head + (b"\0\0\0\0" if mask else b"") + payload


class Sent(NamedTuple):
    """A frame that the runner sent."""

    opcode: int
    final: bool
    payload: bytes


class Peer:
    """The broker's side of one connection, called by the test, which decides when each byte is sent."""

    def __init__(self, raw: socket.socket) -> None:
        self.raw = raw
        raw.settimeout(LIMIT)
        self._buffer = bytearray()

    def send(self, data: bytes) -> None:
        self.raw.sendall(data)

    def send_in_background(self, data: bytes) -> threading.Thread:
        """Send more than the buffers of a socket hold."""
        thread = threading.Thread(target=self.raw.sendall, args=(data,), name="test-sender")
        thread.start()
        return thread

    def next_frame(self) -> Sent:
        """Return the next frame of the runner. Raises `EOFError` at the end of the connection."""
        first, second = self._take(2)
        assert second & 0x80, "a client has to mask its frames"
        length = second & 0x7F
        if length == 126:
            length = int.from_bytes(self._take(2), "big")
        elif length == 127:
            length = int.from_bytes(self._take(8), "big")
        key = self._take(4)
        return Sent(first & 0x0F, bool(first & 0x80), unmasked(self._take(length), key))

    def frames(self) -> list[Sent]:
        """Return all frames until the end of the connection, without one that is cut off."""
        found = []
        with contextlib.suppress(EOFError):
            while True:
                found.append(self.next_frame())
        return found

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            try:
                data = self.raw.recv(1024 * 1024)
            except ConnectionResetError:
                data = b""
            if not data:
                raise EOFError
            self._buffer += data
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def reset(self) -> None:
        """End the connection as a killed process does."""
        self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.raw.close()

    def close(self) -> None:
        self.raw.close()


def unmasked(payload: bytes, key: bytes) -> bytes:
    length = len(payload)
    mask = (key * (length // 4 + 1))[:length]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(length, "big")


def accept_upgrade(raw: Any, tail: bytes = b"") -> Request:
    """Read a request to upgrade and grant it; `tail` follows in the same segment."""
    request = read_request(raw)
    raw.sendall(upgrade_answer(request) + tail)
    return request


def upgrade_answer(request: Request) -> bytes:
    key = request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n"
    ).encode()


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), LIMIT)
        server, _ = listener.accept()
    for end in (client, server):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client, server


@contextlib.contextmanager
def websocket(max_payload: int = MAX_PAYLOAD, tail: bytes = b"") -> Any:
    """Open a WebSocket: the runner's `Connection`, and the `Peer` at its other end."""
    client, server = socket_pair()
    peer = Peer(server)
    connection = Connection(client, max_payload)
    granting = threading.Thread(target=accept_upgrade, args=(server, tail), name="test-upgrade")
    granting.start()
    try:
        connection.open("ws://broker.test/runners/_ws", "runner", "grant", Deadline(LIMIT))
        connection.bind()
        yield connection, peer
    finally:
        granting.join(LIMIT)
        connection.close()
        peer.close()


def wait_for(raw: Any, event: int, deadline: Deadline) -> None:
    """Wait until a socket can be read or written."""
    with selectors.DefaultSelector() as selector:
        selector.register(raw, event)
        assert selector.select(deadline.remaining()), f"nothing came within {LIMIT:g} s"


def read_until(connection: Connection, enough: Callable[[list[Received]], bool]) -> list[Received]:
    """Read until `enough` returns true for what has come."""
    deadline = Deadline(LIMIT)
    received: list[Received] = []
    more = True
    while not enough(received):
        if not more:
            wait_for(connection.raw, selectors.EVENT_READ, deadline)
        items, _, more = connection.read()
        received += items
    return received


def read_count(connection: Connection, count: int) -> list[Received]:
    """Read exactly so many messages and other events."""
    received = read_until(connection, lambda received: len(received) >= count)
    assert len(received) == count
    return received


def read_bytes(connection: Connection, count: int) -> list[Received]:
    """Read so many bytes, and return the messages and other events that they make."""
    deadline = Deadline(LIMIT)
    received: list[Received] = []
    total = 0
    while total < count:
        wait_for(connection.raw, selectors.EVENT_READ, deadline)
        items, came, more = connection.read()
        received += items
        total += came
        while more:
            items, came, more = connection.read()
            received += items
            total += came
    assert total == count
    return received


def flush_all(connection: Connection) -> None:
    """Write until nothing waits."""
    deadline = Deadline(LIMIT)
    while True:
        connection.flush()
        if connection.sender.is_empty:
            return
        wait_for(connection.raw, selectors.EVENT_WRITE, deadline)


def flush_in_background(connection: Connection) -> threading.Thread:
    """Call `flush_all` on a thread, which owns the connection from then on."""

    def flush() -> None:
        connection.bind()
        flush_all(connection)

    thread = threading.Thread(target=flush, name="test-flusher")
    thread.start()
    return thread


# --- pumps: a proxy and a TLS terminator ---------------------------------------------------------------


def pump(one: Any, other: Any) -> None:
    """Pass bytes both ways until one end closes, on one thread, because TLS allows no more."""
    ends = {one: other, other: one}
    waiting = {one: b"", other: b""}  # bytes that wait for an end
    blocked = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
    for end in ends:
        end.setblocking(False)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with selectors.DefaultSelector() as selector:
        for end in ends:
            selector.register(end, selectors.EVENT_READ)
        while True:
            selector.select(LIMIT)
            for end, target in ends.items():
                with contextlib.suppress(*blocked):
                    while waiting[end]:
                        waiting[end] = waiting[end][end.send(waiting[end]) :]
                with contextlib.suppress(*blocked):
                    while len(waiting[target]) < 256 * 1024:
                        data = end.recv(65536)
                        if not data:
                            target.settimeout(LIMIT)
                            target.sendall(waiting[target])
                            return
                        waiting[target] += data
            for end, target in ends.items():
                reading = selectors.EVENT_READ if len(waiting[target]) < 256 * 1024 else 0
                writing = selectors.EVENT_WRITE if waiting[end] else 0
                selector.modify(end, (reading | writing) or selectors.EVENT_WRITE)


class Proxy(Server):
    """An HTTP proxy: CONNECT, and plain requests with a whole URL. Every host is this machine to it.

    Args:
        authorization: the expected `Proxy-Authorization`; None to accept every client.
        behaviour: "serve", "refuse", "hang" or "close".
    """

    def __init__(self, authorization: str | None = None, behaviour: str = "serve") -> None:
        #: Request lines, in the order in which they came.
        self.lines: list[str] = []
        #: The `Proxy-Authorization` of each of them.
        self.authorizations: list[str | None] = []
        self._authorization = authorization
        self._behaviour = behaviour
        super().__init__(self._handle)

    def _handle(self, client: socket.socket) -> None:
        request = read_request(client)
        self.lines.append(request.line)
        self.authorizations.append(request.headers.get("proxy-authorization"))
        if self._behaviour == "hang":
            self.closing.wait(LIMIT)
            return
        if self._behaviour == "close":
            return
        if self._authorization is not None and self.authorizations[-1] != self._authorization:
            client.sendall(http_answer(407, Proxy_Authenticate='Basic realm="test"'))
            return
        if self._behaviour == "refuse":
            client.sendall(http_answer(403))
            return
        method, target, _ = request.line.split(" ")
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        with socket.create_connection(("127.0.0.1", parts.port or 80), LIMIT) as upstream:
            if method == "CONNECT":
                client.sendall(b"HTTP/1.1 200 Connection established\r\nX-Proxy: test\r\n\r\n")
            else:
                head = f"{method} {parts.path or '/'} HTTP/1.1\r\n"
                fields = {**request.headers, "connection": "close"}
                head += "".join(f"{name}: {value}\r\n" for name, value in fields.items())
                upstream.sendall(f"{head}\r\n".encode("latin-1") + request.body)
            pump(client, upstream)


class TlsTerminator(Server):
    """Accept TLS connections and pass their bytes to a port of this machine, as a TLS proxy before n8n.

    Args:
        context: with the certificate.
        target: the port.
    """

    def __init__(self, context: ssl.SSLContext, target: int) -> None:
        self._context = context
        self._target = target
        super().__init__(self._terminate)

    def _terminate(self, raw: socket.socket) -> None:
        raw.settimeout(LIMIT)
        # Its own copy of the descriptor: the server closes the one that it accepted.
        with (
            self._context.wrap_socket(raw.dup(), server_side=True) as client,
            socket.create_connection(("127.0.0.1", self._target), LIMIT) as upstream,
        ):
            pump(client, upstream)

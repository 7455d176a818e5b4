"""Random HTTP answers to everything that the runner asks for while it connects.

Each answer is a good one that has been changed: headers that mean something to a library, bodies that are
compressed or cut off, lines repeated, bytes replaced. Each ends in success or in a failure to connect, and
memory stays within a bound.

    python -m tests.connection.fuzz_http --seconds 60
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import itertools
import random
import socket
import sys
import time
import tracemalloc
import zlib
from collections import Counter
from typing import Callable

from n8nrunner.config import BrokerUrl, parse_broker
from n8nrunner.connection import auth, dial
from n8nrunner.connection.environment import Proxy
from n8nrunner.connection.transport import Connection
from n8nrunner.deadline import Deadline
from n8nrunner.protocol.failures import LinkFailure
from tests.connection.servers import Server, read_request

#: Bytes that one request may allocate, for any answer.
MEMORY_BOUND = 8 * 1024 * 1024

_ZEROS = gzip.compress(bytes(1024 * 1024)) * 30
_BODIES = [
    b"",
    b"hello",
    b'{"data":{"token":"0123"}}',
    b'{"data":{"token":"\\u0000\\ud800"}}',
    b'{"code":403,"message":"Forbidden"}',
    b'{"message":"Too many requests"}',
    b'{"status":"ok"}',
    b"[" * 50_000,
    b"\xff\xfe\0",
    b"9" * 5_000,
    b"x" * 70_000,
    gzip.compress(b"hello"),
    gzip.compress(b"hello")[:-4],
    zlib.compress(b"hello"),
    gzip.compress(_ZEROS),
]
_STATUS = [
    "HTTP/1.1 200 OK", "HTTP/1.1 302 Found", "HTTP/1.1 403 Forbidden", "HTTP/1.1 404 Not Found",
    "HTTP/1.1 429 Too Many Requests", "HTTP/1.1 503 Service Unavailable", "HTTP/1.1 101 Switching Protocols",
    "HTTP/1.1 100 Continue", "HTTP/1.1 204 No Content", "HTTP/1.1 304 Not Modified", "HTTP/1.0 200 OK",
    "HTTP/1.1 407 Proxy Authentication Required", "HTTP/1.1 400 HTTPS", "HTTP/1.1 999", "HTTP/1.1 -1 x",
    "HTTP/1.1 2e2 x", "HTTP/9.9 200 OK", "HTTP/2 200", "ICY 200 OK", "\x15\x03\x01\x00\x02\x02\x16", "",
]  # fmt: skip
_HEADERS: dict[str, list[str]] = {
    "Content-Length": [
        "0",
        "5",
        "9",
        "-1",
        "1e3",
        "5, 5",
        "5, 6",
        "99999999999999999999",
        "",
        "\u0665",
        "0x5",
    ],
    "Content-Encoding": [
        "gzip",
        "deflate",
        "br",
        "zstd",
        "gzip, gzip",
        "identity",
        "gzip, " * 50,
        "\x1b[31m",
    ],
    "Transfer-Encoding": ["chunked", "gzip, chunked", "chunked, chunked", "identity", "Chunked "],
    "Location": ["/", "//", "http://[::1", "http://a\\@b/", "data:,x", "\xff", "http://127.0.0.1:1/", ""],
    "Set-Cookie": [
        "a=b",
        "a=b; Max-Age=x",
        "a=b; Expires=Thu, 99 Foo 99999 99:99:99 GMT",
        "; Domain=[",
        "=" * 99,
    ],
    "Content-Type": [
        "application/json",
        "text/html; charset=x",
        "multipart/x; boundary=",
        "message/rfc822",
        "/",
    ],
    "Connection": ["close", "keep-alive", "Upgrade", "x" * 999],
    "Upgrade": ["websocket", "h2c"],
    "Sec-WebSocket-Accept": ["x", "d3Jvbmc="],
    "Retry-After": ["1", "x", "Thu, 99 Foo"],
    "WWW-Authenticate": ["Basic realm=x", 'Digest realm="', "Negotiate"],
    "Trailer": ["X"],
    "X": ["y" * 20_000, "\r\n folded", "\0", "a\rb", " "],
    "no colon \x1b[2J": [""],
    "": ["no name"],
}
_CHUNKS = [
    b"5\r\nhello\r\n0\r\n\r\n",
    b"zz\r\n",
    b"-5\r\nhello\r\n",
    b"5;" + b"x" * 9000 + b"\r\nhello\r\n",
    b"ffffffffffffffff\r\nhello",
    b"5\r\nhel",
    b"0\r\n" + b"X: y\r\n" * 2000,
    b"1\r\na\r\n" * 9000,
]


def answer(choice: random.Random) -> bytes:
    """Make a random answer."""
    lines = [choice.choice(_STATUS)]
    for name in choice.sample(sorted(_HEADERS), choice.randrange(5)):
        lines.append(f"{name}: {choice.choice(_HEADERS[name])}")
    head = "\r\n".join(lines).encode("utf-8", "surrogateescape")
    body = choice.choice(_CHUNKS if choice.random() < 0.3 else _BODIES)
    data = bytearray(head + b"\r\n\r\n" + body)
    for _ in range(choice.choice([0, 0, 0, 1, 3])):
        _change(data, choice)
    repeated = choice.random() < 0.03
    return bytes(data) * (200 if repeated and len(data) < 5000 else 1)


def _change(data: bytearray, choice: random.Random) -> None:
    at = choice.randrange(max(1, min(len(data), 300)))
    kind = choice.randrange(4)
    if kind == 0:
        data[at : at + 1] = bytes([choice.randrange(256)])
    elif kind == 1:
        del data[at : at + choice.randrange(1, 20)]
    elif kind == 2:
        data[at:at] = data[at : at + choice.randrange(1, 200)]
    else:
        del data[at:]


def run(seconds: float, seed: int, at_most: int = sys.maxsize) -> dict[str, int]:
    """Ask for random answers, and check each outcome.

    Args:
        seconds: how long to go on.
        seed: of the random answers.
        at_most: answers after which to stop.

    Returns:
        How often each outcome was seen: the names of failures, and "good".

    Raises:
        AssertionError: an exception that is not a `LinkFailure` came out, or memory grew beyond its bound.
            The text has the seed and the answer.
    """
    choice = random.Random(seed)
    current = b""

    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(current)
        connection.shutdown(socket.SHUT_WR)

    outcomes: Counter[str] = Counter()
    count = 0
    end = time.monotonic() + seconds
    began_tracing = not tracemalloc.is_tracing()
    if began_tracing:
        tracemalloc.start()
    try:
        with Server(script) as server:
            url = parse_broker(server.url)
            targets = itertools.cycle(_targets(url, server.port))
            while time.monotonic() < end and count < at_most:
                count += 1
                current = answer(choice)
                target = next(targets)
                tracemalloc.reset_peak()
                before, _ = tracemalloc.get_traced_memory()
                try:
                    target()
                    outcome = "good"
                except LinkFailure as failure:
                    outcome = type(failure).__name__
                except Exception as error:
                    raise AssertionError(f"{error!r} from seed {seed}, answer {current[:500]!r}") from error
                grown = tracemalloc.get_traced_memory()[1] - before
                assert grown < MEMORY_BOUND, f"{grown} bytes with seed {seed}, answer {current[:500]!r}"
                outcomes[outcome] += 1
    finally:
        if began_tracing:
            tracemalloc.stop()
    return dict(outcomes)


def _targets(url: BrokerUrl, port: int) -> list[Callable[[], None]]:
    """Return what is asked for: a grant, a probe, the upgrade, and a proxy's CONNECT."""
    proxy = Proxy(f"http://127.0.0.1:{port}", "127.0.0.1", port, None)

    def probe() -> None:
        failure = auth.why_unhealthy(url)
        if failure is not None:
            raise failure

    def upgrade() -> None:
        deadline = Deadline(auth.HTTP_TIMEOUT)
        with contextlib.closing(Connection(dial.dial(url, deadline), 1_000_000)) as connection:
            connection.open(url.socket, "runner", "grant", deadline)

    def connect() -> None:
        dial.dial_proxy(proxy, url, Deadline(auth.HTTP_TIMEOUT), is_tunnel=True).close()

    return [lambda: print(end=auth.fetch_grant(url, "secret")[:0]), probe, upgrade, connect]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Answer requests of a connecting runner at random.")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    for outcome, number in sorted(run(options.seconds, options.seed).items()):
        print(f"{number:8,} {outcome}")


if __name__ == "__main__":
    main()

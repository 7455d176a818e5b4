"""The health check server: whether the process lives, whether n8n knows the runner, and a page of its work.

`/healthz` and `/readyz` answer every caller and show no data. The page `/`, its data `/status` and `/metrics`
answer no request whose Host header has an unknown name: a web page that points its own name at this machine
(DNS rebinding) reads nothing.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import importlib.resources
import json
import re
import socket
import socketserver
import threading
from collections.abc import Collection
from http.server import BaseHTTPRequestHandler
from typing import Any, Callable, NamedTuple
from urllib.parse import parse_qs, urlsplit

from n8nrunner.config import address_of, is_loopback
from n8nrunner.errors import ConfigurationError
from n8nrunner.logs import logger
from n8nrunner.snapshot import Snapshot
from n8nrunner.status import to_json

#: Seconds that one read of a request may take.
_REQUEST_TIMEOUT = 5.0
#: Requests that are answered at the same time, each on a thread. One more ends the oldest of them.
_MOST_REQUESTS = 32
#: Seconds to wait after a connection could not be accepted, such as when no descriptor is left.
_ACCEPT_PAUSE = 0.5
#: Seconds that an ended request gets to free its thread.
_EVICTION_WAIT = 1.0
#: The paths that show data. They can only be read, and only under an allowed Host.
_DATA = ("/", "/status", "/metrics")
_FOREIGN_HOST = (
    b"This name in the Host header is not allowed. Use localhost or an IP address, or add the name to "
    b"health_check_allowed_hosts (N8NRUNNER_HEALTH_CHECK_ALLOWED_HOSTS)"
)
_POLICY = "Content-Security-Policy"
#: For the answers of these paths: no cache keeps them, and no other site shows or uses them.
_PROTECTION = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
#: The rule for everything that the page's own rule does not allow.
_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


class _Answer(NamedTuple):
    status: int
    body: bytes
    kind: str = "text/plain"
    headers: dict[str, str] = {}


class HealthServer:
    """Answers ``/`` with a page, ``/status`` and ``/metrics`` with its data, ``/readyz`` with the readiness.

    Every other path is answered with 200 and ``OK``. A launcher kills a runner whose ``/healthz`` is not
    200. So ``/healthz`` is 200 before the first registration and during an outage, while ``/readyz`` is 503.

    Args:
        host, port: the address to listen on; port 0 for any free one.
        snapshot: returns the runner's current state.
        is_offering: returns `Snapshot.is_offering` of the current state, without the rest of a snapshot,
            which a probe every few seconds does not need.
        allowed_hosts: names in a request's Host header to which paths with data answer, besides those that
            `is_allowed_host` lists.
        on_failure: called on the server's thread with the unexpected error that ended it.

    Raises:
        ConfigurationError: the server cannot listen there.
    """

    def __init__(
        self,
        host: str,
        port: int,
        snapshot: Callable[[], Snapshot],
        is_offering: Callable[[], bool],
        allowed_hosts: Collection[str] = (),
        on_failure: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = _REQUEST_TIMEOUT

            def do_GET(self) -> None:
                path, _, query = self.path.partition("?")
                answer = self._data(path, query) if path in _DATA else _probe(path, is_offering)
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.kind)
                self.send_header("Content-Length", str(len(answer.body)))
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body)

            def _data(self, path: str, query: str) -> _Answer:
                if not is_allowed_host(self.headers.get("Host"), host, allowed_hosts):
                    return _Answer(403, _FOREIGN_HOST)
                if self.command not in ("GET", "HEAD"):
                    return _Answer(405, b"This can only be read", headers={"Allow": "GET, HEAD"})
                if path == "/":
                    return page()
                if path == "/metrics":
                    return _metrics(snapshot(), self.headers.get("Accept"))
                known = parse_qs(query).get("newest_error", [None])[0]
                body = json.dumps(to_json(snapshot(), known)).encode()
                return _Answer(200, body, "application/json", {**_PROTECTION, _POLICY: _NOTHING})

            do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing: probes come every few seconds."""

        try:
            self._server = _Server(host, port, Handler)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigurationError(
                [f"health_check_port: cannot listen on {host}, port {port}: {reason}"]
            ) from None
        self.address: tuple[str, int] = (host, self._server.server_address[1])
        self._on_failure = on_failure
        self.thread = threading.Thread(target=self._serve, name="n8nrunner-health", daemon=True)

    def start(self) -> None:
        """Start to answer requests."""
        self.thread.start()
        host, port = self.address
        url = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
        logger.info("Health check server listening on %s, port %d. Its page is %s", host, port, url)

    def _serve(self) -> None:
        try:
            self._server.serve_forever(0.1)
        except BaseException as error:  # noqa: BLE001 - reported by the runner
            self._on_failure(error)

    def stop(self) -> None:
        """Stop answering requests, as a rule within a tenth of a second."""
        # `shutdown` waits for the end of a loop, so it must not be called before the loop has begun.
        if self.thread.ident is not None:
            self._server.stopping.set()
            self._server.shutdown()
            self.thread.join(1.0)
        self._server.server_close()

    def forked(self) -> None:
        """Close this process's copy of the listening socket, in a child process."""
        self._server.socket.close()


def is_allowed_host(header: str | None, bound: str, allowed: Collection[str]) -> bool:
    """Return whether a request with this Host header may read data.

    A server on a loopback address answers to ``localhost`` and loopback addresses. Any other server answers
    to every IP address: DNS rebinding needs a name. Both answer to the names in `allowed`, without a port.
    `bound` is the host that the server was told to listen on.
    """
    try:
        name = urlsplit(f"//{header or ''}").hostname or ""
    except ValueError:
        return False
    if name in {item.lower() for item in allowed}:
        return True
    return is_loopback(name) or (not is_loopback(bound) and address_of(name) is not None)


class _Server(socketserver.ThreadingTCPServer):
    """A server with a bounded number of threads.

    `http.server.HTTPServer` looks up the host's full name, which can take many seconds.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 100

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.stopping = threading.Event()
        # The requests that are answered now, the oldest first. The condition guards them.
        self._open: dict[socket.socket, None] = {}
        self._ended = threading.Condition()
        super().__init__((host, port), handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:
            # The connection stays in the queue, so the loop would come back at once and use up a core.
            self.stopping.wait(_ACCEPT_PAUSE)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a request on a thread of its own; runs on the server's thread."""
        with self._ended:
            if len(self._open) >= _MOST_REQUESTS:
                self._end_oldest()
            if not self._ended.wait_for(lambda: len(self._open) < _MOST_REQUESTS, _EVICTION_WAIT):
                self.shutdown_request(request)
                return
            self._open[request] = None
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._forget(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def _end_oldest(self) -> None:
        for oldest in self._open:
            with contextlib.suppress(OSError):  # it has ended by itself
                oldest.shutdown(socket.SHUT_RDWR)  # ends its thread's read
                return

    def _forget(self, request: socket.socket) -> None:
        with self._ended:
            del self._open[request]
            self._ended.notify()

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("A health check request ended without its answer", exc_info=True)


def _probe(path: str, is_offering: Callable[[], bool]) -> _Answer:
    """Return the answer of a path that shows no data."""
    if path == "/readyz" and not is_offering():
        return _Answer(503, b"not registered")
    return _Answer(200, b"OK")


def _metrics(snapshot: Snapshot, accept: str | None) -> _Answer:
    """Return the metrics in the format that the scraper accepts."""
    try:
        from n8nrunner.metrics import render  # imported only where metrics are scraped
    except ImportError as error:
        return _Answer(501, str(error).encode())
    body, kind = render(snapshot, accept)
    return _Answer(200, body, kind, {**_PROTECTION, _POLICY: _NOTHING})


@functools.cache
def page() -> _Answer:
    """Return the page, whose own script and style are the only ones that the browser may use."""
    text = importlib.resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    script, style = (_digest(text, tag) for tag in ("script", "style"))
    policy = (
        f"{_NOTHING}; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return _Answer(200, text.encode(), "text/html; charset=utf-8", {**_PROTECTION, _POLICY: policy})


def _digest(text: str, tag: str) -> str:
    """Return the source expression of the one element with this tag."""
    (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

"""A health check server: says that the process lives, and separately whether n8n knows the runner."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any, Callable, Tuple

from n8nrunner import logs
from n8nrunner.errors import ConfigurationError
from n8nrunner.snapshot import Snapshot

logger = logs.get_logger("n8nrunner")

#: Seconds for one request; who sends nothing does not keep a thread.
_REQUEST_TIMEOUT = 5.0


class HealthServer:
    """Answers every path with 200 and ``OK``, and ``/readyz`` with the state of the connections.

    A launcher kills a runner whose ``/healthz`` is not 200, so that has to be 200 before the first
    registration and during an outage; ``/readyz`` answers 503 then.

    Args:
        host, port: where to listen; port 0 for any free one.
        snapshot: the runner's state now.

    Raises:
        ConfigurationError: nothing can listen there.
    """

    def __init__(self, host: str, port: int, snapshot: Callable[[], Snapshot]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = _REQUEST_TIMEOUT

            def do_GET(self) -> None:
                if self.path.split("?", 1)[0] == "/readyz":
                    now = snapshot()
                    status, body = (200 if now.is_registered else 503), json.dumps(_readiness(now))
                    kind = "application/json"
                else:
                    status, body, kind = 200, "OK", "text/plain"
                data = body.encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                """Probes come every few seconds, and none of them is worth a line."""

        # Not `http.server.HTTPServer`, which asks for the host's full name: that may take many seconds.
        class Server(socketserver.ThreadingTCPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            allow_reuse_address = True
            daemon_threads = True
            request_queue_size = 100

            def handle_error(self, request: Any, client_address: Any) -> None:
                logger.debug("A health check went away before its answer", exc_info=True)

        try:
            self._server = Server((host, port), Handler)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigurationError(
                [f"health_check_port: cannot listen on {host}, port {port}: {reason}"]
            ) from None
        self.address: Tuple[str, int] = (host, self._server.server_address[1])
        self.thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="n8nrunner-health", daemon=True
        )

    def start(self) -> None:
        """Starts to answer."""
        self.thread.start()
        logger.info("Health check server listening on %s, port %d", *self.address)

    def stop(self) -> None:
        """Stops to answer; at most a tenth of a second."""
        # A server whose loop has never run would wait for the loop's end for ever.
        if self.thread.ident is not None:
            self._server.shutdown()
            self.thread.join(1.0)
        self._server.server_close()

    def forked(self) -> None:
        """In a child process: closes its copy of the listening socket."""
        self._server.socket.close()


def _readiness(snapshot: Snapshot) -> Any:
    return {
        "state": snapshot.state,
        "registered": snapshot.is_registered,
        "capacity": snapshot.capacity,
        "taken": snapshot.taken,
        "brokers": [{"broker": link.broker, "state": link.state} for link in snapshot.links],
    }

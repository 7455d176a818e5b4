"""What the broker serves: grant tokens, the runners' WebSocket, a health check, and ``POST /tasks``."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import html
import http
import json
import math
import struct
import time
from collections.abc import Awaitable, Sequence
from typing import Any, Callable
from urllib.parse import parse_qs, parse_qsl

from aiohttp import WSMsgType, web

from n8nrunner.broker import javascript
from n8nrunner.broker.constants import BrokerConstants
from n8nrunner.broker.errors import (
    BrokerNotRunning,
    BrokerTaskError,
    BrokerTaskExpired,
    BrokerTaskLost,
    BrokerTaskTimeout,
)
from n8nrunner.broker.limits import FixedWindow, GrantTokens, SlidingWindow
from n8nrunner.broker.switchboard import Switchboard
from n8nrunner.broker.task import BrokerTask

NORMAL_CLOSURE = 1000
#: Bytes that the body of a request for a grant token may have; one with the longest token has far fewer.
_AUTH_BODY = 64 * 1024
#: Codes with which aiohttp refuses what it has read: no WebSocket, no UTF-8, too large.
_REFUSALS = (1002, 1007, 1009)


class Endpoints:
    """All handlers of one run of the broker.

    Args:
        auth_token: the shared secret.
        path: the base path, such as "/runners".
        constants: the limits.
        switchboard: takes the runners.
        grants: the tokens that are valid in this run.
        submit: makes a task of the members of a ``POST /tasks``; called on another thread.
    """

    def __init__(
        self,
        auth_token: str,
        path: str,
        constants: BrokerConstants,
        switchboard: Switchboard,
        grants: GrantTokens,
        submit: Callable[..., BrokerTask],
    ) -> None:
        self._auth_token = auth_token.encode()
        self._auth_path = f"{path}/auth"
        self._upgrade_path = f"{path}/_ws"
        self._constants = constants
        self._switchboard = switchboard
        self._grants = grants
        self._submit = submit
        self._auth_limit = FixedWindow(constants.auth_limit, constants.auth_window)
        self._upgrade_limit = SlidingWindow(constants.upgrade_limit, constants.upgrade_window)
        self._loop = asyncio.get_running_loop()
        self.channels: set[WebSocketChannel] = set()
        #: Set while no runner is connected.
        self.idle = asyncio.Event()
        self.idle.set()
        self.stopping = False

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers one request."""
        if _wants_upgrade(request):
            return await self._upgrade(request)
        path = request.path
        if path in ("/healthz", "/healthz/") and request.method in ("GET", "HEAD"):
            return web.json_response({"status": "ok"})
        if path in (self._auth_path, f"{self._auth_path}/") and request.method == "POST":
            return await self._auth(request)
        if path in ("/tasks", "/tasks/") and request.method == "POST":
            return await self._run_task(request)
        return _html(404, f"Cannot {request.method} {path}")

    # --- grant tokens ---------------------------------------------------------------------------

    async def _auth(self, request: web.BaseRequest) -> web.Response:
        # Unlike n8n's, the rate limit comes before the body: reading and parsing one costs far more.
        allowance = self._auth_limit.ask(request.remote or "", self._loop.time())
        headers = {
            "X-RateLimit-Limit": str(self._auth_limit.limit),
            "X-RateLimit-Remaining": str(allowance.remaining),
            "X-RateLimit-Reset": str(math.ceil(time.time() + allowance.resets_in)),
        }
        if not allowance.allowed:
            headers["Retry-After"] = str(max(1, math.ceil(allowance.resets_in)))
            return web.json_response({"message": "Too many requests"}, status=429, headers=headers)
        body = await self._read(request, min(_AUTH_BODY, self._constants.max_body))
        if body is None:
            return _html(413, "request entity too large")
        try:
            members = _members(request.content_type, body)
        except (ValueError, RecursionError):
            return _html(500, "the body is not JSON")
        token = members.get("token")
        if not isinstance(token, str):
            return web.json_response({"code": 400, "message": "invalid_type"}, status=400, headers=headers)
        if not token:
            return web.json_response({"code": 400, "message": "too_small"}, status=400, headers=headers)
        if not self._is_secret(token):
            return web.json_response({"code": 403, "message": "Forbidden"}, status=403, headers=headers)
        grant = self._grants.issue(self._loop.time())
        return web.json_response({"data": {"token": grant}}, headers=headers)

    def _is_secret(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(errors="surrogatepass"), self._auth_token)

    async def _read(self, request: web.BaseRequest, limit: int) -> bytes | None:
        """Return the body; None if it has more than `limit` bytes."""
        if request.content_length is not None and request.content_length > limit:
            return None
        body = bytearray()
        while not request.content.at_eof():
            body += await request.content.readany()
            if len(body) > limit:
                return None
        return bytes(body)

    # --- runners --------------------------------------------------------------------------------

    async def _upgrade(self, request: web.BaseRequest) -> web.StreamResponse:
        # The order of these checks is n8n's: what comes before the token does not use it up.
        if request.path != self._upgrade_path:
            return BareStatus(404)
        if not self._upgrade_limit.ask(self._loop.time()):
            return BareStatus(429)
        if self.stopping:
            return BareStatus(503)
        ids = [value for key, value in parse_qsl(request.query_string, keep_blank_values=True) if key == "id"]
        if len(ids) != 1 or not ids[0]:
            return BareStatus(400)
        scheme, _, grant = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not grant.strip():
            return BareStatus(401)
        if not self._grants.take(grant.strip(), self._loop.time()):
            return BareStatus(403)
        try:
            if request.method != "GET":
                raise web.HTTPMethodNotAllowed(request.method, ["GET"])
            return await self._serve_runner(request, ids[0])
        except web.HTTPException as error:  # what is wrong with the handshake itself
            refusal = _html(error.status, error.reason)
            refusal.force_close()
            return refusal

    async def _serve_runner(self, request: web.BaseRequest, runner_id: str) -> web.StreamResponse:
        transport = request.transport
        if transport is None:
            raise web.HTTPBadRequest  # the client has gone already, and nothing is sent
        offered = request.headers.get("Sec-WebSocket-Protocol", "").split(",")[0].strip()
        constants = self._constants
        runner_socket = RunnerSocket(
            transport, constants.close_timeout, constants.max_payload, (offered,) if offered else ()
        )
        await runner_socket.prepare(request)
        channel = WebSocketChannel(runner_socket, transport, constants.close_timeout)
        self.channels.add(channel)
        self.idle.clear()
        key = self._switchboard.connect(runner_id, channel)
        channel.on_failure = lambda: self._switchboard.failing(key)
        runner_socket.on_refusal = lambda: self._switchboard.disconnect(key)
        try:
            await self._read_runner(runner_socket, channel, key)
        finally:
            channel.abandon()
            self._switchboard.disconnect(key)
            self.channels.discard(channel)
            if not self.channels:
                self.idle.set()
        return runner_socket

    async def _read_runner(self, runner_socket: RunnerSocket, channel: WebSocketChannel, key: int) -> None:
        while True:
            message = await runner_socket.receive()
            if message.type is WSMsgType.TEXT:
                self._switchboard.receive(key, message.data)
            elif message.type is WSMsgType.PONG:
                self._switchboard.pong(key)
            elif message.type is WSMsgType.PING:
                channel.pong(message.data)
            elif message.type is WSMsgType.BINARY:
                try:
                    text = bytes(message.data).decode()
                except UnicodeDecodeError:
                    self._switchboard.malformed(key, "a binary message is not UTF-8")
                else:
                    self._switchboard.receive(key, text)
            else:
                if message.type is WSMsgType.CLOSE:
                    runner_socket.send_close(message.data or NORMAL_CLOSURE)
                return

    # --- requesters -----------------------------------------------------------------------------

    async def _run_task(self, request: web.BaseRequest) -> web.Response:
        """Runs one task, for programs that are not Python.

        Status:
            200: ``{"result": ...}``. All others come with ``{"error": {"message": ...}}``, and with the
                runner's description and stack, if it sent any.
            400: the body cannot be used. 401: wrong token. 413: the body is too large.
            422: the runner reported an error.
            502: the runner's connection was lost. 503: the broker is shutting down.
            504: no runner took the task in time, or it was not finished in time.

        Whoever closes the connection before the answer cancels the task.
        """
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not self._is_secret(token.strip()):
            return _error(401, "expected the header Authorization: Bearer <the broker's auth token>")
        body = await self._read(request, self._constants.max_body)
        if body is None:
            return _error(413, f"the body is longer than {self._constants.max_body} bytes")
        submitting = self._loop.run_in_executor(None, self._submit_body, body)
        try:
            task = await asyncio.shield(submitting)
            await self._end_of(task)
        except (ValueError, RecursionError) as error:
            return _error(400, str(error))
        except BrokerNotRunning as error:
            return _error(503, str(error))
        except asyncio.CancelledError:
            submitting.add_done_callback(_cancel_task)  # a runner may have it before we know of it
            raise
        failure = task.error()
        if failure is None:
            text = await self._loop.run_in_executor(None, javascript.stringify, {"result": task.result()})
            return web.Response(text=text, content_type="application/json")
        return web.json_response({"error": failure.error}, status=self._status(failure))

    async def _end_of(self, task: BrokerTask) -> None:
        ended = asyncio.Event()

        def tell(_: BrokerTask) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended first
                self._loop.call_soon_threadsafe(ended.set)

        task.add_done_callback(tell)
        await ended.wait()

    def _submit_body(self, body: bytes) -> BrokerTask:
        return self._submit(**_task_arguments(body))

    def _status(self, failure: BrokerTaskError) -> int:
        if isinstance(failure, BrokerTaskExpired):
            return 503 if self.stopping else 504
        if isinstance(failure, BrokerTaskTimeout):
            return 504
        return 502 if isinstance(failure, BrokerTaskLost) else 422


class BareStatus(web.Response):
    """A status line and nothing else, after which the connection ends: how n8n refuses an upgrade."""

    def __init__(self, status: int) -> None:
        super().__init__(status=status)
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> None:
        if request.transport is not None:
            line = f"HTTP/1.1 {self.status} {http.HTTPStatus(self.status).phrase}\r\n\r\n"
            request.transport.write(line.encode("ascii"))
            request.transport.close()

    async def write_eof(self, data: bytes | bytearray | memoryview = b"") -> None:
        pass


class RunnerSocket(web.WebSocketResponse):
    """A WebSocket that closes as n8n's does: after its close frame, it reads on until the peer closes.

    aiohttp's own `close` ends the connection at once if another task reads, and after a refused message. The
    kernel then answers what still comes with a reset, which can overtake the close frame with the reason.

    Args:
        transport: the connection.
        timeout: how long to wait for the peer after a refused message, in seconds.
        max_payload: longest message, in bytes.
        protocols: the subprotocols that may be chosen.
    """

    def __init__(
        self, transport: asyncio.Transport, timeout: float, max_payload: int, protocols: Sequence[str]
    ) -> None:
        super().__init__(
            protocols=protocols,
            autoclose=False,
            autoping=False,  # which would keep the pongs to itself
            compress=False,
            # One byte more, because for aiohttp this is the first length that is too large.
            max_msg_size=max_payload + 1,
        )
        #: Called when a message is refused: for the matching, the connection has ended then.
        self.on_refusal: Callable[[], None] = lambda: None
        self._transport = transport
        self._patience = timeout
        self._close_sent = False

    def send_close(self, code: int) -> None:
        """Send a close frame, unless one has been sent."""
        if not self._close_sent:
            self._close_sent = True
            self._transport.write(b"\x88\x02" + struct.pack("!H", code))

    async def close(self, *, code: int = NORMAL_CLOSURE, message: bytes = b"", drain: bool = True) -> bool:
        """End the connection after a close frame; aiohttp calls this after the last message."""
        self.send_close(code)
        if code in _REFUSALS:
            self.on_refusal()
            # aiohttp drops what comes meanwhile, and cancels this when the peer ends the connection.
            await asyncio.sleep(self._patience)
        self._transport.close()
        return True


class WebSocketChannel:
    """Writes to one runner in order, from a queue. A runner that does not read delays no other."""

    def __init__(
        self, runner_socket: RunnerSocket, transport: asyncio.Transport, close_timeout: float
    ) -> None:
        self.on_failure: Callable[[], None] = lambda: None
        self._socket = runner_socket
        self._transport = transport
        self._close_timeout = close_timeout
        self._queue: asyncio.Queue[Callable[[], Awaitable[object]]] = asyncio.Queue()
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._writer = self._loop.create_task(self._write())

    def send(self, text: str) -> None:
        self._put(lambda: self._socket.send_str(text))

    def ping(self) -> None:
        self._put(self._socket.ping)

    def pong(self, payload: bytes) -> None:
        self._put(lambda: self._socket.pong(payload))

    def close(self, code: int) -> None:
        if self._closing:
            return

        async def send_close() -> None:
            self._socket.send_close(code)

        self._put(send_close)
        self._closing = True
        # The peer may never answer, or may not read what stands before the close frame.
        self._timer = self._loop.call_later(self._close_timeout, self.abort)

    def abort(self) -> None:
        """End the connection at once. What has not been written yet is lost."""
        self._transport.abort()

    def abandon(self) -> None:
        """Stop writing, because the connection has ended."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._writer.cancel()

    def _put(self, write: Callable[[], Awaitable[object]]) -> None:
        if not self._closing:
            self._queue.put_nowait(write)

    async def _write(self) -> None:
        try:
            while True:
                write = await self._queue.get()
                await write()
        except ConnectionError:  # the connection is closing
            if not self._closing:
                self.on_failure()


def _cancel_task(submitting: asyncio.Future[BrokerTask]) -> None:
    if not submitting.cancelled() and submitting.exception() is None:
        submitting.result().cancel("Requester disconnected")


def _wants_upgrade(request: web.BaseRequest) -> bool:
    connection = request.headers.get("Connection", "").lower()
    return "upgrade" in [part.strip() for part in connection.split(",")] and "Upgrade" in request.headers


def _members(content_type: str, body: bytes) -> dict[str, Any]:
    """The members of a body; none if it is of a type that n8n does not read."""
    if content_type == "application/json" and body:
        value = json.loads(body)
        if not isinstance(value, (dict, list)):
            raise ValueError("expected an object")
        return value if isinstance(value, dict) else {}
    if content_type == "application/x-www-form-urlencoded":
        form = parse_qs(body.decode(errors="replace"), keep_blank_values=True)
        return {name: values[0] if len(values) == 1 else values for name, values in form.items()}
    return {}


_TASK_MEMBERS: dict[str, tuple[str, tuple[type, ...]]] = {
    "settings": ("settings", (object,)),
    "items": ("items", (list,)),
    "timeout": ("timeout", (int, float)),
}


def _task_arguments(body: bytes) -> dict[str, Any]:
    try:
        value = javascript.parse(body.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("expected an object with taskType, settings, items and timeout")
    task_type = value.get("taskType")
    if not isinstance(task_type, str) or not task_type:
        raise ValueError("expected a text for taskType")
    unknown = sorted(set(value) - set(_TASK_MEMBERS) - {"taskType"})
    if unknown:
        raise ValueError(f"unknown: {', '.join(unknown)}; known are taskType, settings, items and timeout")
    arguments: dict[str, Any] = {"task_type": task_type, "settings": {}}
    for member, (argument, kinds) in _TASK_MEMBERS.items():
        item = value.get(member)
        if item is None:
            continue
        if not isinstance(item, kinds) or (isinstance(item, bool) and object not in kinds):
            raise ValueError(f"expected {' or '.join(kind.__name__ for kind in kinds)} for {member}")
        arguments[argument] = item
    if arguments.get("timeout", 1) <= 0:
        raise ValueError("expected a timeout above 0 seconds")
    return arguments


def _html(status: int, text: str) -> web.Response:
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Error</title>\n</head>\n'
        f"<body>\n<pre>{html.escape(text)}</pre>\n</body>\n</html>\n"
    )
    return web.Response(status=status, text=page, content_type="text/html")


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status)

"""The broker's HTTP server: log-ins, the runners' WebSocket, a health check, and ``POST /tasks``."""

from __future__ import annotations

import asyncio
import html
import http
import math
import time
from typing import Callable

from aiohttp import WSCloseCode, WSMsgType, web

from n8nrunner.broker import errors, events, javascript
from n8nrunner.broker.access import Access
from n8nrunner.broker.channel import Channel
from n8nrunner.broker.constants import BrokerConstants
from n8nrunner.broker.decoding import log_in_members, task_arguments
from n8nrunner.broker.switchboard import Switchboard
from n8nrunner.broker.task import BrokerTask

#: Longest body of a log-in, in bytes; one with the longest token has far fewer.
_LOG_IN_BODY = 64 * 1024
#: The statuses of failed tasks; 422 for the runner's own errors.
_STATUSES = {errors.BrokerTaskExpired: 504, errors.BrokerTaskTimeout: 504, errors.BrokerTaskLost: 502}


class Endpoints:
    """All handlers of one run of the broker, for its thread. `submit` is called on another thread."""

    def __init__(
        self,
        access: Access,
        path: str,
        constants: BrokerConstants,
        switchboard: Switchboard,
        submit: Callable[..., BrokerTask],
    ) -> None:
        self._access = access
        self._log_in_path = f"{path}/auth"
        self._constants = constants
        self._switchboard = switchboard
        self._submit = submit
        self._loop = asyncio.get_running_loop()
        self.channels: set[Channel] = set()
        #: Set while no runner is connected.
        self.idle = asyncio.Event()
        self.idle.set()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, or serve a runner until its connection ends."""
        if _wants_upgrade(request):
            return await self._upgrade(request)
        path = request.path.removesuffix("/")
        if path == "/healthz" and request.method in ("GET", "HEAD"):
            return web.json_response({"status": "ok"})
        if path == self._log_in_path and request.method == "POST":
            return await self._log_in(request)
        if path == "/tasks" and request.method == "POST":
            return await self._run_task(request)
        return _html(404, f"Cannot {request.method} {request.path}")

    async def _log_in(self, request: web.BaseRequest) -> web.Response:
        # n8n counts a log-in after it has parsed the body, which costs far more.
        allowance = self._access.log_ins.ask(request.remote or "", self._loop.time())
        headers = {
            "X-RateLimit-Limit": str(self._constants.auth_limit),
            "X-RateLimit-Remaining": str(allowance.remaining),
            "X-RateLimit-Reset": str(math.ceil(time.time() + allowance.resets_in)),
        }
        if not allowance.allowed:
            headers["Retry-After"] = str(max(1, math.ceil(allowance.resets_in)))
            return web.json_response({"message": "Too many requests"}, status=429, headers=headers)
        body = await _read(request, min(_LOG_IN_BODY, self._constants.max_body))
        if body is None:
            return _html(413, "request entity too large")
        try:
            members = log_in_members(request.content_type, body)
        except (ValueError, RecursionError):
            return _html(500, "the body is not JSON")
        status, answer = self._access.log_in(members, self._loop.time())
        return web.json_response(answer, status=status, headers=headers)

    async def _upgrade(self, request: web.BaseRequest) -> web.StreamResponse:
        authorization = request.headers.get("Authorization", "")
        answer = self._access.upgrade(request.path, request.query_string, authorization, self._loop.time())
        if isinstance(answer, int):
            return BareStatus(answer)
        try:
            if request.method != "GET":
                raise web.HTTPMethodNotAllowed(request.method, ["GET"])
            return await self._serve_runner(request, answer)
        except web.HTTPException as error:  # a defect of the handshake itself
            refusal = _html(error.status, error.reason)
            refusal.force_close()
            return refusal

    async def _serve_runner(self, request: web.BaseRequest, runner_id: str) -> web.StreamResponse:
        transport = request.transport
        if transport is None:
            raise web.HTTPBadRequest  # the client has gone already, and nothing is sent
        offered = request.headers.get("Sec-WebSocket-Protocol", "").split(",")[0].strip()
        protocols = [offered] if offered else []
        constants = self._constants
        channel = Channel(transport, constants.close_timeout, constants.max_payload, protocols)
        await channel.prepare(request)
        self.channels.add(channel)
        self.idle.clear()
        key = self._switchboard.connect(runner_id, channel)
        channel.on_failure = lambda: self._switchboard.step(events.ConnectionFailing(key))
        channel.on_refusal = lambda: self._switchboard.disconnect(key)
        try:
            await self._read_runner(channel, key)
        finally:
            channel.ended()
            self._switchboard.disconnect(key)
            self.channels.discard(channel)
            if not self.channels:
                self.idle.set()
        return channel

    async def _read_runner(self, channel: Channel, key: int) -> None:
        while True:
            message = await channel.receive()
            if message.type is WSMsgType.TEXT:
                self._switchboard.receive(key, message.data)
            elif message.type is WSMsgType.PONG:
                self._switchboard.step(events.PongReceived(key))
            elif message.type is WSMsgType.PING:
                channel.put(WSMsgType.PONG, message.data)
            elif message.type is WSMsgType.BINARY:
                try:
                    text = bytes(message.data).decode()
                except UnicodeDecodeError:
                    self._switchboard.step(events.Malformed(key, "a binary message is not UTF-8"))
                else:
                    self._switchboard.receive(key, text)
            else:
                if message.type is WSMsgType.CLOSE:
                    channel.put_close(message.data or WSCloseCode.OK)
                return

    async def _run_task(self, request: web.BaseRequest) -> web.Response:
        """Run one task, for programs that are not in Python.

        A client that closes the connection before the answer cancels the task.

        Status:
            200: ``{"result": ...}``. All others have ``{"error": {"message": ...}}``, with the runner's
                description and stack if it sent any.
            400: the body cannot be used. 401: wrong token. 413: the body is too large.
            422: the runner reported an error.
            502: the runner's connection was lost, or the broker was stopped during the task.
            503: the broker is shutting down.
            504: no runner took the task in time, or it did not finish in time.
        """
        if not self._access.may_submit(request.headers.get("Authorization", "")):
            return _error(401, "expected the header Authorization: Bearer <the broker's auth token>")
        body = await _read(request, self._constants.max_body)
        if body is None:
            return _error(413, f"the body is longer than {self._constants.max_body} bytes")
        submitting = self._loop.run_in_executor(None, lambda: self._submit(**task_arguments(body)))
        try:
            task = await asyncio.shield(submitting)
            result = await asyncio.wrap_future(task._future)
        except errors.BrokerTaskError as failure:
            return web.json_response({"error": failure.error}, status=self._status(failure))
        except (ValueError, RecursionError) as error:
            return _error(400, str(error))
        except errors.BrokerNotRunning as error:
            return _error(503, str(error))
        except asyncio.CancelledError:
            submitting.add_done_callback(_cancel_task)  # a runner may have it before this thread knows
            raise
        text = await self._loop.run_in_executor(None, javascript.stringify, {"result": result})
        return web.Response(text=text, content_type="application/json")

    def _status(self, failure: errors.BrokerTaskError) -> int:
        if isinstance(failure, errors.BrokerTaskExpired) and self._access.stopping:
            return 503
        return _STATUSES.get(type(failure), 422)


class BareStatus(web.Response):
    """A status line and nothing else, after which the connection ends: n8n refuses an upgrade so."""

    def __init__(self, status: int) -> None:
        super().__init__(status=status)
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write the status line and close the connection."""
        if request.transport is not None:
            line = f"HTTP/1.1 {self.status} {http.HTTPStatus(self.status).phrase}\r\n\r\n"
            request.transport.write(line.encode("ascii"))
            request.transport.close()

    async def write_eof(self, data: bytes | bytearray | memoryview = b"") -> None:
        """Write nothing."""


async def _read(request: web.BaseRequest, limit: int) -> bytes | None:
    """Return the body, or None if it has more than `limit` bytes."""
    if request.content_length is not None and request.content_length > limit:
        return None
    body = bytearray()
    while not request.content.at_eof():
        body += await request.content.readany()
        if len(body) > limit:
            return None
    return bytes(body)


def _cancel_task(submitting: asyncio.Future[BrokerTask]) -> None:
    if not submitting.cancelled() and submitting.exception() is None:
        submitting.result().cancel("Requester disconnected")


def _wants_upgrade(request: web.BaseRequest) -> bool:
    connection = request.headers.get("Connection", "").lower()
    return "upgrade" in [part.strip() for part in connection.split(",")] and "Upgrade" in request.headers


def _html(status: int, text: str) -> web.Response:
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Error</title>\n</head>\n'
        f"<body>\n<pre>{html.escape(text)}</pre>\n</body>\n</html>\n"
    )
    return web.Response(status=status, text=page, content_type="text/html")


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status)

"""A TCP proxy that breaks connections in the ways in which networks break them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import deque
from types import TracebackType
from typing import Any, NamedTuple

#: Bytes of one direction that the proxy keeps before it stops reading. Linux's own buffers take some MB more.
KEPT = 256 * 1024
#: The same while it is silent: a silent network takes what it is sent.
KEPT_IN_SILENCE = 64 * 1024 * 1024
#: Seconds between two pieces of a trickle.
TRICKLE_INTERVAL = 0.01
#: Seconds that something on the proxy's thread may take.
LIMIT = 10.0

CUT = "cut"
RESET = "reset"
PARTIAL = "partial"
HALF_CLOSE = "half close"
DELAY = "delay"
SILENCE = "silence"
BLOCK = "block"
TRICKLE = "trickle"
REFUSE = "refuse"
MUTE = "mute"

#: The faults. Those with a duration end by themselves.
KINDS = {
    CUT: "both ends are closed",
    RESET: "both ends are reset",
    PARTIAL: "half of the next piece passes, then both ends are reset",
    HALF_CLOSE: "one direction ends, the other one goes on for a while, then both ends are closed",
    DELAY: "everything takes `amount` milliseconds longer",
    SILENCE: "bytes are taken, and passed on only when the fault is over",
    BLOCK: "nothing is read any more until the fault is over",
    TRICKLE: "`amount` bytes pass every 10 ms",
    REFUSE: "both ends are reset, and no new connection is accepted",
    MUTE: "both ends are reset; new connections are accepted and hear nothing until the fault is over",
}

TO_BROKER, TO_RUNNER = 0, 1


class Fault(NamedTuple):
    """One fault of a proxy.

    Args:
        kind: one of `KINDS`.
        seconds: how long it lasts.
        amount: bytes or milliseconds, see `KINDS`.
        direction: for what ends or breaks one direction, `TO_BROKER` or `TO_RUNNER`.
    """

    kind: str
    seconds: float = 0.0
    amount: int = 0
    direction: int = TO_RUNNER


class FaultProxy:
    """Passes connections on to a port of this machine, on a thread of its own.

    Args:
        target: the port.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._listener: socket.socket | None = None
        self._steps: set[asyncio.Task[Any]] = set()
        self._connections: set[_Passage] = set()
        self._fault = Fault("")
        self._until = 0.0
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy")
        self._thread.start()
        self._call(self._listen())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def inject(self, fault: Fault) -> None:
        """Begin a fault; one that is under way ends."""
        self._call(self._begin(fault))

    def heal(self) -> None:
        """End the fault that is under way."""
        self._call(self._begin(Fault("")))

    def close(self) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT)
        self._loop.close()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT)

    # --- on the thread --------------------------------------------------------------------------

    async def _listen(self) -> None:
        if self._listener is not None:
            return
        # The port is free for a moment while connections are refused: another socket may have taken it.
        for remaining in range(50, -1, -1):
            try:
                listener = socket.create_server(("127.0.0.1", self.port), backlog=100)
                break
            except OSError:
                if not remaining:
                    raise
                await asyncio.sleep(0.1)
        listener.setblocking(False)
        self._listener = listener
        self.port = listener.getsockname()[1]
        # asyncio's own server loses a connection that it accepts while it is closed.
        self._loop.add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            accepted, _ = listener.accept()
            self.begin_step(
                self._loop.connect_accepted_socket(lambda: _Passage(self, self._target), accepted)
            )

    async def _begin(self, fault: Fault) -> None:
        self._fault = fault
        self._until = self._loop.time() + fault.seconds
        if fault.kind == REFUSE:
            self._stop_listening()
            self._loop.call_later(fault.seconds, self._listen_again, fault)
        else:
            await self._listen()
        for connection in list(self._connections):
            connection.suffer(fault)

    def _listen_again(self, fault: Fault) -> None:
        if self._fault is fault:
            self.begin_step(self._listen())

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def _close(self) -> None:
        self._fault = Fault("")
        self._stop_listening()
        while self._steps or self._connections:
            for connection in list(self._connections):
                connection.reset()
            await asyncio.sleep(0)

    # --- for connections ------------------------------------------------------------------------

    def current(self) -> Fault:
        """The fault that is under way."""
        return self._fault if self._loop.time() < self._until else Fault("")

    @property
    def until(self) -> float:
        return self._until

    def begin_step(self, step: Any) -> None:
        """Run a coroutine on the proxy's thread, which is waited for when the proxy is closed."""
        task = self._loop.create_task(step)
        self._steps.add(task)
        task.add_done_callback(self._steps.discard)

    def opened(self, connection: _Passage) -> None:
        self._connections.add(connection)

    def closed(self, connection: _Passage) -> None:
        self._connections.discard(connection)


class _Passage(asyncio.Protocol):
    """One connection: the runner's end is this protocol, the broker's end is an `_End`."""

    def __init__(self, proxy: FaultProxy, target: int) -> None:
        self.proxy = proxy
        self.loop = asyncio.get_running_loop()
        self._target = target
        self._ways: tuple[_Way, _Way] = (_Way(self), _Way(self))
        self._ends: list[asyncio.Transport] = []
        self._open = 0
        self._partial: int | None = None
        self._is_connecting = False

    # the runner's end

    def connection_made(self, transport: Any) -> None:
        self._add_end(transport)
        self.proxy.opened(self)
        if self.proxy.current().kind == MUTE:
            transport.pause_reading()
            self.loop.call_later(max(0.0, self.proxy.until - self.loop.time()), self.reset)
            return
        self._ways[TO_BROKER].source = transport
        self._ways[TO_RUNNER].target = transport
        self._is_connecting = True
        self.proxy.begin_step(self._connect())

    async def _connect(self) -> None:
        try:
            await self.loop.create_connection(lambda: _End(self), "127.0.0.1", self._target)
        except OSError:  # the broker is down
            self._is_connecting = False
            self.reset()
            self._forget_if_over()

    def data_received(self, data: bytes) -> None:
        self._ways[TO_BROKER].receive(data)

    def eof_received(self) -> bool:
        self._ways[TO_BROKER].receive(None)
        return True

    def pause_writing(self) -> None:
        self._ways[TO_RUNNER].pause()

    def resume_writing(self) -> None:
        self._ways[TO_RUNNER].resume()

    def connection_lost(self, error: Exception | None) -> None:
        self.end_lost(error)

    # the broker's end

    def broker_connected(self, transport: asyncio.Transport) -> None:
        self._is_connecting = False
        self._add_end(transport)
        self._ways[TO_RUNNER].source = transport
        self._ways[TO_BROKER].target = transport
        if self._ends[0].is_closing():
            self.reset()
            return
        for way in self._ways:
            way.suffer(self.proxy.current())
            way.pass_on()

    def broker_sent(self, data: bytes | None) -> None:
        self._ways[TO_RUNNER].receive(data)

    def broker_full(self, full: bool) -> None:
        way = self._ways[TO_BROKER]
        way.pause() if full else way.resume()

    def end_lost(self, error: Exception | None) -> None:
        self._open -= 1
        if error is not None:
            self.reset()
        else:
            self.close()
        self._forget_if_over()

    def _forget_if_over(self) -> None:
        if self._open == 0 and not self._is_connecting:
            for way in self._ways:
                way.forget()
            self.proxy.closed(self)

    # faults

    def suffer(self, fault: Fault) -> None:
        """Begin a fault. For faults with a duration, `_Way.pass_on` does the rest."""
        self._partial = None
        for way in self._ways:
            way.suffer(fault)
        if fault.kind == CUT:
            self.close()
        elif fault.kind in (RESET, REFUSE, MUTE):
            self.reset()
        elif fault.kind == PARTIAL:
            self._partial = fault.direction
            self.loop.call_later(2.0, self._partial_too_late)
        elif fault.kind == HALF_CLOSE:
            self._ways[fault.direction].end()
            self.loop.call_later(fault.seconds, self.close)

    def _partial_too_late(self) -> None:
        if self._partial is not None:
            self.reset()

    def breaks(self, way: _Way) -> bool:
        """Return whether the next piece of this direction is to break the connection."""
        return self._partial is not None and self._ways[self._partial] is way

    def way_ended(self) -> None:
        if all(way.has_ended for way in self._ways):
            self.close()

    def close(self) -> None:
        for end in self._ends:
            end.close()

    def reset(self) -> None:
        self._partial = None
        for end in self._ends:
            raw = end.get_extra_info("socket")
            if raw is not None:
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.abort()

    def _add_end(self, transport: asyncio.Transport) -> None:
        self._ends.append(transport)
        self._open += 1


class _End(asyncio.Protocol):
    """The broker's end of a connection."""

    def __init__(self, passage: _Passage) -> None:
        self._passage = passage

    def connection_made(self, transport: Any) -> None:
        self._passage.broker_connected(transport)

    def data_received(self, data: bytes) -> None:
        self._passage.broker_sent(data)

    def eof_received(self) -> bool:
        self._passage.broker_sent(None)
        return True

    def pause_writing(self) -> None:
        self._passage.broker_full(True)

    def resume_writing(self) -> None:
        self._passage.broker_full(False)

    def connection_lost(self, error: Exception | None) -> None:
        self._passage.end_lost(error)


class _Way:
    """One direction of a connection: what has come, when it may go on, and how much of it at once."""

    def __init__(self, passage: _Passage) -> None:
        self.source: asyncio.Transport | None = None
        self.target: asyncio.Transport | None = None
        self._passage = passage
        # (when it may go on, bytes; None for the end)
        self._kept: deque[tuple[float, bytes | None]] = deque()
        self._size = 0
        self._full = False
        #: Whether the target has been told that no more comes.
        self.has_ended = False
        self._timer: asyncio.TimerHandle | None = None

    def receive(self, data: bytes | None) -> None:
        loop, fault = self._passage.loop, self._passage.proxy.current()
        due = loop.time() + (fault.amount / 1000 if fault.kind == DELAY else 0.0)
        if self._kept:
            due = max(due, self._kept[-1][0])
        self._kept.append((due, data))
        self._size += len(data or b"")
        self.pass_on()

    def suffer(self, fault: Fault) -> None:
        """Look at the fault at once, even if this direction waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.pass_on()

    def pause(self) -> None:
        self._full = True

    def resume(self) -> None:
        self._full = False
        self.pass_on()

    def end(self) -> None:
        """End this direction: what comes from now on is dropped."""
        if self.target is not None and not self.has_ended and not self.target.is_closing():
            self.has_ended = True
            self.target.write_eof()
            self._passage.way_ended()

    def forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._kept.clear()

    def pass_on(self) -> None:
        """Write what may go on now, and arrange for the rest."""
        passage = self._passage
        fault, now = passage.proxy.current(), passage.loop.time()
        is_held = fault.kind in (SILENCE, BLOCK)
        while self._kept and not (is_held or self._full or self._timer or self.target is None):
            due, data = self._kept[0]
            if due > now:
                self._again(due - now)
            elif data is None:
                self._kept.popleft()
                self.end()
            elif passage.breaks(self):
                self._write(data[: len(data) // 2])
                passage.loop.call_soon(passage.reset)
                return
            elif fault.kind == TRICKLE and len(data) > fault.amount:
                self._write(data[: fault.amount])
                self._kept[0] = (due, data[fault.amount :])
                self._size -= fault.amount
                self._again(TRICKLE_INTERVAL)
            else:
                self._kept.popleft()
                self._size -= len(data)
                self._write(data)
        if is_held and not self._timer:
            self._again(passage.proxy.until - now)
        self._read_or_not(fault)

    def _write(self, data: bytes) -> None:
        assert self.target is not None
        if not self.has_ended and not self.target.is_closing():
            self.target.write(data)

    def _again(self, seconds: float) -> None:
        self._timer = self._passage.loop.call_later(max(0.0, seconds), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.pass_on()

    def _read_or_not(self, fault: Fault) -> None:
        if self.source is None or self.source.is_closing():
            return
        limit = {SILENCE: KEPT_IN_SILENCE, BLOCK: -1}.get(fault.kind, KEPT)
        if self._size > limit:
            self.source.pause_reading()
        else:
            self.source.resume_reading()

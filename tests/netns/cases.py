"""Runners and brokers at the two ends of a cable that can be pulled, with the real limits of n8nrunner.

The broker is in a network namespace of its own, behind a pair of veth devices. Each case returns seconds.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable

from n8nrunner import Runner, Task
from n8nrunner.config import parse_broker

TOKEN = "secret-of-the-tests"
LARGE = 50_000_000
#: Megabits a second: a large answer takes 10 s, so that it can be cut in the middle.
RATE = 40
#: Seconds that a case may take before it has failed.
LIMIT = 240.0

_numbers = itertools.count()


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def why_not() -> str | None:
    """Why namespaces cannot be used here; None if they can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    try:
        with Cable():
            return None
    except (OSError, subprocess.CalledProcessError) as error:
        output = getattr(error, "stderr", b"") or b""
        return f"network namespaces cannot be made here: {output.decode().strip() or error}"


class Cable:
    """Two devices, one of them in a namespace of its own.

    Args:
        rate: megabits a second in each direction.
        delay: milliseconds in each direction; 0 for a pair of veth devices.
    """

    def __init__(self, rate: int = RATE, delay: int = 0) -> None:
        number = os.getpid() * 1024 + next(_numbers) % 1024
        self.name = f"nr{number}"
        # A /30 of the range for benchmarks of networks, 198.18.0.0/15.
        base = number % 32768 * 4
        self._near, self.far = (
            f"198.{18 + base // 65536}.{base // 256 % 256}.{base % 256 + n}" for n in (1, 2)
        )
        self._rate = rate
        self._delay = delay
        self._line: subprocess.Popen[str] | None = None
        self._inside = ("ip", "netns", "exec", self.name)

    def __enter__(self) -> Cable:
        near, far = f"{self.name}a", f"{self.name}b"
        try:
            run("ip", "netns", "add", self.name)
            if self._delay:
                self._begin_line(near, far)
                run("ip", "link", "set", far, "netns", self.name)
            else:
                run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", self.name)
            for where, device, address in (((), near, self._near), (self._inside, far, self.far)):
                run(*where, "ip", "addr", "add", f"{address}/30", "dev", device)
                run(*where, "ip", "link", "set", device, "up")
                if not self._delay:
                    shape = ("tbf", "rate", f"{self._rate}mbit", "burst", "100kb", "latency", "100ms")
                    run(*where, "tc", "qdisc", "add", "dev", device, "root", *shape)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _begin_line(self, near: str, far: str) -> None:
        numbers = (str(self._rate), str(self._delay))
        self._line = subprocess.Popen(
            [sys.executable, "-m", "tests.netns.line", near, far, *numbers], stdout=subprocess.PIPE, text=True
        )
        assert self._line.stdout is not None
        if not self._line.stdout.readline():
            raise OSError("no TUN devices")

    def __exit__(self, *exc_info: object) -> None:
        if self._line is not None:
            assert self._line.stdout is not None
            self._line.kill()
            self._line.wait()
            self._line.stdout.close()
        else:
            with contextlib.suppress(subprocess.CalledProcessError):
                run("ip", "link", "del", f"{self.name}a")
        with contextlib.suppress(subprocess.CalledProcessError):
            run("ip", "netns", "del", self.name)

    def pull(self) -> None:
        """From here on nothing arrives, in either direction, and no end is told."""
        run(*self._inside, "ip", "link", "set", f"{self.name}b", "down")


class Peer:
    """The process of `peer.py` in the namespace of a cable."""

    def __init__(self, cable: Cable) -> None:
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", cable.name, sys.executable, "-m", "tests.netns.peer", cable.far, TOKEN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._thread = threading.Thread(target=self._read, name="test-peer-reader", daemon=True)
        self._thread.start()
        self.url = self.wait_for("url").split()[1]

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)

    def wait_for(self, word: str) -> str:
        """The next line that starts with that word."""
        while True:
            line = self._lines.get(timeout=LIMIT)
            if line.startswith(word):
                return line

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        """Stop the process as SIGSTOP does: its kernel goes on, up to full buffers."""
        self._process.send_signal(signal.SIGSTOP)


class Proxy:
    """Passes bytes on to a broker, until it takes them and passes none."""

    def __init__(self, url: str) -> None:
        parsed = parse_broker(url)
        self._target = (parsed.host, parsed.port)
        self._silent = threading.Event()
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._begin(self._accept)

    def _begin(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, name="test-proxy")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self._ended.is_set():
                client.close()
                return
            if self._silent.is_set():
                self._sockets.append(client)
                continue
            upstream = socket.create_connection(self._target)
            self._sockets += [client, upstream]
            self._begin(self._pass, client, upstream)
            self._begin(self._pass, upstream, client)

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = one.recv(65536)
                if not self._silent.is_set():
                    if not data:
                        other.shutdown(socket.SHUT_WR)
                        return
                    other.sendall(data)
                elif not data:
                    return

    def silence(self) -> None:
        self._silent.set()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        socket.create_connection(self._listener.getsockname()).close()
        self._threads[0].join()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in [*self._sockets, self._listener]:
            one.close()


class End:
    """A runner that is "idle", "busy" with all its slots, or has a "large" answer on its way."""

    def __init__(self, url: str) -> None:
        self._cancelled: list[threading.Event] = []
        self._running = threading.Semaphore(0)
        self._ended = threading.Event()
        self.runner = Runner(url, auth_token=TOKEN, capacity=2)

        @self.runner.task("wait")
        def wait(task: Task) -> None:
            told = threading.Event()
            self._cancelled.append(told)
            self._running.release()
            task.wait_for_cancel(LIMIT)
            if not self._ended.is_set():
                told.set()

        self.runner.task("large")(lambda task: "x" * LARGE)
        self.runner.task("echo")(lambda task: "here")

    def __enter__(self) -> End:
        self.runner.start(wait=30)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        self.runner.stop(0)

    def enter(self, situation: str, peer: Peer) -> None:
        for task_type in {"idle": (), "busy": ("wait", "wait"), "large": ("wait", "large")}[situation]:
            peer.tell(f"task {task_type}")
            if task_type == "wait":
                assert self._running.acquire(timeout=LIMIT)
        if situation == "large":
            link = self.runner._engine.links[0]  # type: ignore[union-attr]
            connection = link.connection
            assert connection is not None
            until(lambda: connection.sender.is_congested and connection.sender.bytes_written > 5_000_000)

    def is_told(self) -> bool:
        """Whether the link is lost and every task knows it."""
        return not self.runner.is_registered and all(told.is_set() for told in self._cancelled)

    @property
    def registrations(self) -> int:
        return self.runner.snapshot().links[0].registrations


def until(condition: Callable[[], bool], limit: float = LIMIT) -> float:
    """Waits for a condition, and returns for how long."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit, f"not within {limit:g} s"
        time.sleep(0.01)
    return time.monotonic() - began


@contextlib.contextmanager
def ends(rate: int = RATE, delay: int = 0) -> Iterator[tuple[Cable, Peer, End]]:
    with Cable(rate, delay) as cable, Peer(cable) as peer, End(peer.url) as end:
        yield cable, peer, end


# --- the cases --------------------------------------------------------------------------------------


def cable_pulled(situation: str, phase: float = 0.0) -> float:
    """Until the link is lost and tasks are told. The cable is pulled `phase` seconds after the situation."""
    with ends() as (cable, peer, end):
        end.enter(situation, peer)
        time.sleep(phase)
        cable.pull()
        return until(end.is_told)


def silent_proxy(situation: str, phase: float = 0.0) -> float:
    with Cable() as cable, Peer(cable) as peer, Proxy(peer.url) as proxy, End(proxy.url) as end:
        end.enter(situation, peer)
        time.sleep(phase)
        proxy.silence()
        return until(end.is_told)


def stopped_broker(situation: str, phase: float = 0.0) -> float:
    with ends() as (_, peer, end):
        end.enter(situation, peer)
        time.sleep(phase)
        peer.stop()
        return until(end.is_told)


def busy_broker(situation: str, phase: float = 0.0, seconds: float = 25.0) -> float:
    """Wait until it has answered again. Raises if the link was lost."""
    with ends() as (_, peer, end):
        end.enter(situation, peer)
        time.sleep(phase)
        began = time.monotonic()
        peer.tell(f"busy {seconds}")
        if situation == "large":
            assert peer.wait_for("done large").split()[-1] == str(LARGE)
        peer.tell("task echo")
        peer.wait_for("done echo")
        answered_after = time.monotonic() - began
        assert answered_after >= seconds
        time.sleep(10)  # what was late may have an effect afterwards
        assert end.runner.is_registered
        assert end.registrations == 1, "the connection was lost"
        return answered_after


def slow_line(situation: str = "large", phase: float = 0.0) -> float:
    """Until an answer of 50 MB has arrived over 5 Mbit/s with 200 ms of delay in each direction."""
    with ends(rate=5, delay=200) as (_, peer, end):
        began = time.monotonic()
        peer.tell("task large")
        assert peer.wait_for("done large").split()[-1] == str(LARGE)
        assert end.registrations == 1, "the connection was lost"
        return time.monotonic() - began


CASES: dict[str, tuple[Callable[[str, float], float], tuple[str, ...], float]] = {
    "cable pulled": (cable_pulled, ("idle", "busy", "large"), 20.0),
    "silent proxy": (silent_proxy, ("idle", "busy", "large"), 45.0),
    "stopped broker": (stopped_broker, ("idle", "busy", "large"), 45.0),
    "busy for 25 s": (busy_broker, ("idle", "large"), 60.0),
    "5 Mbit/s, 200 ms": (slow_line, ("large",), 180.0),
}

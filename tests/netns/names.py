"""A runner whose broker is a name, with the system's resolver and a name server of its own.

    unshare --map-root-user --net --mount python -m tests.netns.names FOLDER

Brokers listen on several loopback addresses of the new namespaces. It prints how long each change took.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Callable

from n8nrunner import Runner, Task
from n8nrunner.broker import Broker
from n8nrunner.connection.environment import in_url
from n8nrunner.protocol.names import INTERVAL, MISSES
from tests.conftest import wait_until
from tests.netns.name_server import NameServer

TOKEN = "secret-of-the-tests"
PORT = 5679
ONE, TWO, THREE = "127.0.0.1", "127.0.0.2", "127.0.0.3"
#: Seconds for a look-up and a connection on a busy machine, beyond the interval.
MARGIN = 5.0
COMMAND = ("unshare", "--map-root-user", "--net", "--mount", sys.executable, "-m", "tests.netns.names")


@contextmanager
def taking_at_most(seconds: float, what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < seconds, f"{what} took {took:.1f} s"
    print(f"{what}: {took:.1f} s", flush=True)


class Names:
    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.server = NameServer()
        stack.callback(self.server.close)
        self.brokers: dict[str, Broker] = {}
        self.runner = Runner(f"dns+http://worker.test:{PORT}", auth_token=TOKEN, capacity=4)
        self.runner.task("echo")(self.echo)
        stack.callback(self.runner.stop, 0)

    @staticmethod
    def echo(task: Task) -> object:
        return task.settings

    def start_brokers(self, *addresses: str) -> None:
        for address in addresses:
            self.brokers[address] = Broker(TOKEN, address, PORT)
            self.brokers[address].start()
            self._stack.callback(self.brokers[address].kill)

    def serves(self, *addresses: str) -> Callable[[], bool]:
        """Return whether exactly the links of these addresses are registered."""
        expected = {f"http://{in_url(address)}:{PORT}" for address in addresses}
        return lambda: (
            {link.broker for link in self.runner.snapshot().links if link.state == "registered"} == expected
        )

    def check(self, *addresses: str) -> None:
        """Let each of these brokers give a task."""
        for address in addresses:
            assert self.brokers[address].run_task("echo", address) == address

    def wait_for_queries(self, count: int) -> None:
        end = self.server.queries[1] + count
        wait_until(lambda: self.server.queries[1] >= end, count * INTERVAL + 60)


def main() -> None:
    resolver = Path(sys.argv[1]) / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n", encoding="utf-8")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["mount", "--bind", str(resolver), "/etc/resolv.conf"], check=True)
    with ExitStack() as stack:
        follow(Names(stack))
    print("done")


def follow(names: Names) -> None:
    server, runner = names.server, names.runner
    names.start_brokers(ONE)
    server.addresses = [ONE]
    runner.start()
    names.check(ONE)

    names.start_brokers(TWO, THREE)
    server.addresses = [ONE, TWO, TWO, THREE]
    with taking_at_most(INTERVAL + MARGIN, "two new addresses until both are registered"):
        wait_until(names.serves(ONE, TWO, THREE), INTERVAL + MARGIN)
    names.check(ONE, TWO, THREE)

    for mode in ("fail", "silent"):
        server.mode = mode
        time.sleep(2 * INTERVAL)
        assert any("look-up" in str(link.last_error) for link in runner.snapshot().links), mode
        names.check(ONE, TWO, THREE)
    server.mode = "answer"
    server.is_open.clear()  # slow: the resolver gives up before the answer
    time.sleep(INTERVAL)
    names.check(ONE, TWO, THREE)
    server.is_open.set()

    server.addresses = [ONE]
    names.wait_for_queries(MISSES + 1)
    names.check(ONE, TWO, THREE)  # they are alive, although they have no name any more
    names.brokers[TWO].stop()
    names.brokers[THREE].stop()
    with taking_at_most(MARGIN, "two stopped workers until their links are gone"):
        wait_until(lambda: len(runner.snapshot().links) == 1, MARGIN)
    names.check(ONE)

    server.addresses = []  # NXDOMAIN
    names.wait_for_queries(MISSES + 1)
    names.check(ONE)
    names.brokers[ONE].kill()
    wait_until(lambda: [link.last_error for link in runner.snapshot().links if link.origin] == [], MARGIN)
    assert "has no known address" in str(runner.snapshot().links[0].last_error)
    names.brokers[ONE].start()
    server.addresses = [ONE]
    with taking_at_most(INTERVAL + MARGIN, "an address that is back until it is registered"):
        wait_until(names.serves(ONE), INTERVAL + MARGIN)
    names.check(ONE)

    server.addresses = ["::1"]
    names.start_brokers("::1")
    with taking_at_most(INTERVAL + MARGIN, "an IPv6 address until it is registered"):
        wait_until(names.serves(ONE, "::1"), INTERVAL + MARGIN)
    names.check(ONE, "::1")
    counts = runner.snapshot().counts
    assert counts.lost == counts.failed == 0, counts
    assert counts.accepted == counts.done, counts


if __name__ == "__main__":
    main()

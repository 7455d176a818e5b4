"""Queue mode with workers that scale: the runner finds them by one name, and follows its addresses."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .conftest import skip_or_fail
from .install import Installation
from .processes import poll
from .test_queue_mode import CALLS, finished, running_n8ns, running_runner

pytestmark = pytest.mark.n8n

FIRST, SECOND = "127.0.0.2", "127.0.0.3"
UNSHARE = ("unshare", "--map-root-user", "--mount")
#: Seconds until a change of the addresses has had its effect: three look-ups, and time for a busy machine.
CHANGE_LIMIT = 40.0


def write_hosts(path: Path, *addresses: str) -> None:
    """Write a file of hosts in place, because another file system is mounted over the system's own file."""
    lines = ["127.0.0.1 localhost", *(f"{address} worker.test" for address in addresses)]
    with path.open("r+" if path.exists() else "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
        file.truncate()


def test_one_runner_serves_workers_that_come_and_go_under_one_name(
    place: Installation, tmp_path: Path
) -> None:
    try:
        subprocess.run([*UNSHARE, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        skip_or_fail("a file of hosts of its own needs namespaces of mounts")
    hosts = tmp_path / "hosts"
    write_hosts(hosts, FIRST)
    mount = ("sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts))
    with running_n8ns(place, tmp_path, "external", 2, (FIRST, SECOND)) as instances:
        main, first, second = instances
        name = f"dns+http://worker.test:{first.broker_port}"
        brokers = [main.broker_url, name]
        with running_runner(instances, tmp_path, brokers, (*UNSHARE, *mount)) as queue:
            first.wait_for_output('Registered runner "functions"')
            assert 'Registered runner "functions"' not in second.log

            write_hosts(hosts, FIRST, SECOND)
            second.wait_for_output('Registered runner "functions"')
            begun = [worker.output_length for worker in queue.workers]
            assert queue.call(CALLS) <= {200, None}
            shares = finished(queue.workers, begun, CALLS)
            assert min(shares) >= CALLS // 8, f"one worker did next to nothing: {shares}"

            # As a pod does that terminates: it leaves the name, works on, and then stops.
            write_hosts(hosts, FIRST)
            poll(
                lambda: "no longer has the address" in queue.runner.log or None, "it is missed", CHANGE_LIMIT
            )
            begun = [worker.output_length for worker in queue.workers]
            assert queue.call(CALLS) <= {200, None}
            shares = finished(queue.workers, begun, CALLS)
            assert min(shares) >= CALLS // 8, f"a worker without its name did next to nothing: {shares}"
            second.stop(under_load=True)
            gone = f"The link to {second.broker_url} has ended"
            poll(lambda: gone in queue.runner.log or None, "its link ends", CHANGE_LIMIT)
            begun = [first.output_length]
            assert queue.call(CALLS) <= {200, None}
            finished([first], begun, CALLS)
            queue.runner.stop()

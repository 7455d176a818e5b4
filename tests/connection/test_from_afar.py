"""Whole runners that reach their broker as from another machine: by name, through proxies, over TLS."""

from __future__ import annotations

import logging
import os
import re
from typing import Any, Callable

import pytest

from n8nrunner import BrokerConnectionError, Runner, Task
from n8nrunner.broker import Broker
from tests.conftest import LIMIT, TOKEN, wait_until
from tests.connection.conftest import Authority
from tests.connection.servers import Proxy, TlsTerminator

NewRunner = Callable[..., Runner]

#: Above the size of a fragment, and of everything that a TLS record or a socket's buffer holds.
LARGE = "x" * 3_000_000


def serve_and_check(runner: Runner, broker: Broker) -> None:
    """Tasks of all sizes, several at once, and a call to n8n."""

    @runner.task("echo")
    def echo(task: Task) -> Any:
        task.log("got it")
        return task.settings

    @runner.task("file")
    def file(task: Task) -> Any:
        return len(task.read_file(0, "data"))

    with runner:
        assert broker.run_task("echo", {"n": 1}, timeout=10) == {"n": 1}
        assert broker.run_task("echo", {"text": LARGE}, timeout=10) == {"text": LARGE}
        tasks = [broker.submit("echo", {"n": number}, timeout=10) for number in range(100)]
        assert [task.result(10) for task in tasks] == [{"n": number} for number in range(100)]
        assert broker.run_task("file", {}, files={(0, "data"): b"z" * 500_000}, timeout=10) == 500_000
        counts = runner.snapshot().counts
        assert (counts.done, counts.failed, counts.lost, counts.undelivered) == (103, 0, 0, 0)
    assert broker.wait_for(lambda counts: counts.connections == 0).lost == 0


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("password", [False, True])
def test_a_runner_serves_through_a_proxy(
    password: bool, broker: Broker, new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy("Basic dXNlcjpwYXNz" if password else None) as proxy:
        user = "user:pass@" if password else ""
        monkeypatch.setenv("HTTP_PROXY", f"http://{user}127.0.0.1:{proxy.port}")
        url = f"http://n8n.test:{broker.port}"
        serve_and_check(new_runner(url), broker)
        assert proxy.lines == [
            f"POST {url}/runners/auth HTTP/1.1",
            f"CONNECT n8n.test:{broker.port} HTTP/1.1",
        ]


@pytest.mark.usefixtures("names")
def test_a_runner_serves_over_tls(
    broker: Broker, new_runner: NewRunner, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.bundle))
    with TlsTerminator(authority.server("n8n.test"), broker.port) as front:
        serve_and_check(new_runner(f"wss://n8n.test:{front.port}"), broker)
        assert front.accepted == 2


@pytest.mark.usefixtures("names")
def test_a_relative_bundle_is_found_after_a_change_of_folder(
    broker: Broker, new_runner: NewRunner, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", authority.bundle.name)
    monkeypatch.chdir(authority.bundle.parent)
    with TlsTerminator(authority.server("n8n.test"), broker.port) as front:
        runner = new_runner(f"https://n8n.test:{front.port}")
        monkeypatch.chdir("/")
        runner.start(wait=LIMIT)
        assert runner.snapshot().is_registered


@pytest.mark.usefixtures("names")
def test_a_runner_serves_over_tls_through_a_proxy(
    broker: Broker, new_runner: NewRunner, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CURL_CA_BUNDLE", str(authority.bundle))
    with TlsTerminator(authority.server("n8n.test"), broker.port) as front, Proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        serve_and_check(new_runner(f"https://n8n.test:{front.port}"), broker)
        assert [line.rsplit(" ", 1)[0] for line in proxy.lines] == [f"CONNECT n8n.test:{front.port}"] * 2


@pytest.mark.usefixtures("names")
def test_a_broker_on_this_machine_is_reached_without_the_proxy(
    broker: Broker, new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        serve_and_check(new_runner(broker.url), broker)
        assert proxy.accepted == 0


# --- what cannot work is said -----------------------------------------------------------------------------


def failing(new_runner: NewRunner, url: str) -> str:
    runner = new_runner(url)
    runner.task("any")(lambda task: None)
    runner.start(wait=0)
    wait_until(lambda: runner.snapshot().links[0].last_error)
    with pytest.raises(BrokerConnectionError) as caught:
        runner.start(wait=0.01)
    runner.stop(0)
    return str(caught.value)


@pytest.mark.usefixtures("names")
def test_a_certificate_of_an_unknown_authority_is_refused(
    broker: Broker, new_runner: NewRunner, authority: Authority
) -> None:
    with TlsTerminator(authority.server("n8n.test"), broker.port) as front:
        text = failing(new_runner, f"https://n8n.test:{front.port}")
    assert f"https://n8n.test:{front.port}: the TLS handshake failed" in text
    assert "certificate verify failed" in text
    assert broker.counts.connected == 0


@pytest.mark.usefixtures("names")
def test_a_certificate_for_another_host_is_refused(
    broker: Broker, new_runner: NewRunner, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.bundle))
    with TlsTerminator(authority.server("n8n.test"), broker.port) as front:
        text = failing(new_runner, f"https://other.test:{front.port}")
    assert "other.test" in text
    assert "certificate" in text.lower()


@pytest.mark.usefixtures("names")
def test_an_error_names_a_host_without_an_address(new_runner: NewRunner) -> None:
    text = failing(new_runner, "http://nowhere.invalid:5679")
    assert "http://nowhere.invalid:5679: the host 'nowhere.invalid' has no known address" in text
    assert "Name or service not known" in text


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("behaviour", ["refuse", "close"])
def test_an_error_names_a_proxy_that_refuses(
    behaviour: str, new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(behaviour=behaviour) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:proxy-password@127.0.0.1:{proxy.port}")
        text = failing(new_runner, "https://n8n.test:5679")
    assert f"the proxy http://127.0.0.1:{proxy.port} " in text
    assert "CONNECT" in text
    assert "proxy-password" not in text


@pytest.mark.usefixtures("names")
def test_a_proxy_that_dies_is_an_outage(
    broker: Broker, new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = new_runner(f"http://n8n.test:{broker.port}")
    runner.task("echo")(lambda task: task.settings)
    with Proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        runner.start()
    wait_until(lambda: not runner.is_registered)
    with Proxy() as proxy:
        # Each attempt reads the environment again.
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        assert runner.wait_registered(10.0)
        assert broker.run_task("echo", 7, timeout=10) == 7
        runner.stop()
    assert runner.snapshot().links[0].registrations == 2


def test_the_secret_and_the_grant_reach_no_log(
    broker: Broker, new_runner: NewRunner, caplog: pytest.LogCaptureFixture
) -> None:
    grants: list[str] = []
    with caplog.at_level(logging.DEBUG):
        runner = new_runner()
        runner.task("echo")(lambda task: task.settings)
        with runner:
            broker.run_task("echo", 1, timeout=10)
    text = caplog.text
    assert TOKEN not in text
    grants += re.findall(r"\b[0-9a-f]{64}\b", text)
    assert grants == []
    assert "Registered with the broker" in text


def test_a_runner_serves_in_a_process_with_more_files_than_select_can_take(
    broker: Broker, new_runner: NewRunner
) -> None:
    """`select` fails above a thousand descriptors, which a web server has soon."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 1500:
        if hard != resource.RLIM_INFINITY and hard < 1500:
            pytest.skip("this process may not open so many files")
        resource.setrlimit(resource.RLIMIT_NOFILE, (1500, hard))
    opened: list[int] = []
    try:
        while not opened or opened[-1] < 1100:
            opened.append(os.open(os.devnull, os.O_RDONLY))
        runner = new_runner(_unused_url())
        runner.task("any")(lambda task: None)
        runner.start(wait=0)
        wait_until(lambda: runner.snapshot().links[0].failures >= 2)
        runner.stop()
        assert runner.error is None
        runner = new_runner()
        runner.task("echo")(lambda task: task.settings)
        with runner:
            assert broker.run_task("echo", 3, timeout=10) == 3
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _unused_url() -> str:
    return "http://127.0.0.1:9"  # "discard": no process serves it, and no test may listen there

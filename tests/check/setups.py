"""Broken set-ups: what answers in place of n8n, the arguments of the check, and the causes to be named."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Callable, NamedTuple

import pytest

from n8nrunner.broker import Broker, BrokerConstants
from n8nrunner.check import walk
from n8nrunner.check.causes import Cause
from n8nrunner.config import parse_broker
from n8nrunner.connection import attempt, auth
from n8nrunner.connection.auth import fetch_grant
from tests.conftest import LIMIT
from tests.connection.conftest import Authority
from tests.connection.servers import (
    OK,
    HttpServer,
    Proxy,
    Server,
    Site,
    TlsTerminator,
    http_answer,
    pump,
    read_request,
    upgrade_answer,
)

TOKEN = "secret-of-the-check"


class World(NamedTuple):
    """The circumstances that a set-up may change."""

    patch: pytest.MonkeyPatch
    folder: Path
    authority: Authority


class SetUp(NamedTuple):
    name: str
    #: Builds it; yields the arguments of the command.
    build: Callable[[World], AbstractContextManager[list[str]]]
    #: The causes in the order in which the check has to name them; it may name more behind them.
    causes: tuple[Cause, ...]
    #: A public report of the same set-up.
    report: str = ""


def editor(version: str) -> Site:
    """Return n8n's editor: its health, and the beginning of its page, in which the version stands."""
    release = base64.b64encode(json.dumps({"dsn": "", "release": f"n8n@{version}"}).encode()).decode()
    page = f'<head><meta name="n8n:config:sentry" content="{release}"></head>{"x" * 100_000}'
    answers = {"healthz": OK, "healthz_readiness": OK, "": http_answer(200, page.encode())}
    return Site(**answers)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def broker(**settings: object) -> Broker:
    return Broker(TOKEN, **settings)  # type: ignore[arg-type]


@contextlib.contextmanager
def not_running(world: World) -> Iterator[list[str]]:
    yield ["--broker", f"http://127.0.0.1:{closed_port()}", "--n8n", f"http://127.0.0.1:{closed_port()}"]


@contextlib.contextmanager
def refused_token(world: World) -> Iterator[list[str]]:
    with Broker("another-secret") as running:
        yield ["--broker", running.url]


@contextlib.contextmanager
def editor_port(world: World) -> Iterator[list[str]]:
    with editor("2.40.7") as site:
        yield ["--broker", site.url]


@contextlib.contextmanager
def https_for_http(world: World) -> Iterator[list[str]]:
    with broker() as running:
        yield ["--broker", running.url.replace("http:", "https:")]


@contextlib.contextmanager
def line_break(world: World) -> Iterator[list[str]]:
    (world.folder / "leads_of_check.py").write_text(
        f"from n8nrunner import Runner\nrunner = Runner('http://127.0.0.1:5679', auth_token='{TOKEN}\\n')\n"
    )
    world.patch.chdir(world.folder)
    world.patch.syspath_prepend(str(world.folder))
    yield ["leads_of_check"]


@contextlib.contextmanager
def proxy_of_the_environment(world: World) -> Iterator[list[str]]:
    with broker() as running, Proxy(behaviour="refuse") as proxy:
        world.patch.setenv("http_proxy", proxy.url)
        yield ["--broker", f"http://n8n.test:{running.port}"]


@contextlib.contextmanager
def broker_on_loopback(world: World) -> Iterator[list[str]]:
    """The name is that of another machine: the test's name server leads it here."""
    with editor("2.40.7") as site:
        yield ["--broker", f"http://n8n.test:{closed_port()}", "--n8n", f"http://n8n.test:{site.port}"]


@contextlib.contextmanager
def base_path(world: World) -> Iterator[list[str]]:
    with broker(path="/tasks") as running:
        yield ["--broker", f"http://127.0.0.1:{running.port}"]


@contextlib.contextmanager
def rate_limit(world: World) -> Iterator[list[str]]:
    with broker(constants=BrokerConstants(auth_limit=1, auth_window=60)) as running:
        fetch_grant(parse_broker(running.url), TOKEN)
        yield ["--broker", running.url]


@contextlib.contextmanager
def too_old(world: World) -> Iterator[list[str]]:
    with editor("1.60.1") as site:
        yield ["--broker", f"http://127.0.0.1:{closed_port()}", "--n8n", site.url]


@contextlib.contextmanager
def too_old_and_registers(world: World) -> Iterator[list[str]]:
    with broker() as running, editor("1.90.2") as site:
        yield ["--broker", running.url, "--n8n", site.url]


@contextlib.contextmanager
def n8n_1(world: World) -> Iterator[list[str]]:
    with editor("1.123.81") as site:
        yield ["--broker", f"http://127.0.0.1:{closed_port()}", "--n8n", site.url]


@contextlib.contextmanager
def queue_worker(world: World) -> Iterator[list[str]]:
    """The main process registers the check, and n8n's answer for the workflow that a worker executed."""
    failed = http_answer(500, b'{"errorMessage":"Task request timed out after 60 seconds"}')
    with broker() as running, HttpServer(failed) as n8n:
        yield ["--broker", running.url, "--webhook", f"{n8n.url}/webhook/leads"]


# --- from public reports ---------------------------------------------------------------------------------


@contextlib.contextmanager
def no_websockets(world: World) -> Iterator[list[str]]:
    """A reverse proxy in its default settings, which drops the headers of an upgrade."""
    with broker() as running, ReverseProxy(running.port) as proxy:
        yield ["--broker", proxy.url]


@contextlib.contextmanager
def load_balancer(world: World) -> Iterator[list[str]]:
    with broker() as one, broker() as other, Balancer(one.port, other.port) as balancer:
        yield ["--broker", balancer.url]


@contextlib.contextmanager
def no_host_gateway(world: World) -> Iterator[list[str]]:
    yield ["--broker", "http://host.docker.internal:5679"]


@contextlib.contextmanager
def another_container(world: World) -> Iterator[list[str]]:
    world.patch.setattr(walk, "is_in_container", lambda: True)
    with not_running(world) as arguments:
        yield arguments


@contextlib.contextmanager
def published_port(world: World) -> Iterator[list[str]]:
    """Docker's proxy accepts, and closes when the container's port refuses."""
    with Server(lambda connection: None) as forwarding, editor("2.40.7") as site:
        yield ["--broker", forwarding.url, "--n8n", site.url]


@contextlib.contextmanager
def firewall(world: World) -> Iterator[list[str]]:
    """A port whose queue is full: the kernel drops further connections, as a firewall does."""
    world.patch.setattr(attempt, "CONNECT_TIMEOUT", 0.3)
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0)).getsockname()[1]
        with contextlib.suppress(OSError):
            while True:
                stack.enter_context(socket.create_connection(("127.0.0.1", port), 0.1))
        yield ["--broker", f"http://127.0.0.1:{port}"]


@contextlib.contextmanager
def without_scheme(world: World) -> Iterator[list[str]]:
    yield ["--broker", "localhost:5679"]


@contextlib.contextmanager
def private_certificate(world: World) -> Iterator[list[str]]:
    with broker() as running, TlsTerminator(world.authority.server("n8n.test"), running.port) as proxy:
        yield ["--broker", f"https://n8n.test:{proxy.port}"]


@contextlib.contextmanager
def redirect(world: World) -> Iterator[list[str]]:
    with HttpServer(http_answer(301, Location="https://n8n.test/")) as proxy:
        yield ["--broker", proxy.url]


@contextlib.contextmanager
def http_for_https(world: World) -> Iterator[list[str]]:
    with broker() as running, TlsTerminator(world.authority.server("n8n.test"), running.port) as proxy:
        yield ["--broker", f"http://127.0.0.1:{proxy.port}"]


@contextlib.contextmanager
def name_of_a_container(world: World) -> Iterator[list[str]]:
    yield ["--broker", "http://n8n-main:5679"]


@contextlib.contextmanager
def launchers_port(world: World) -> Iterator[list[str]]:
    with HttpServer(http_answer(200, b"OK")) as launcher:
        yield ["--broker", launcher.url]


@contextlib.contextmanager
def old_n8n_keeps(world: World, secret: str) -> Iterator[list[str]]:
    """An n8n that takes its secret as it is in a file or in Docker's env_file."""

    def script(connection: socket.socket) -> None:
        request = read_request(connection)
        token = json.loads(request.body)["token"] if request.body else None
        granted = http_answer(200, b'{"data":{"token":"%s"}}' % (b"a" * 64))
        refused = http_answer(403, b'{"code":403,"message":"Forbidden"}')
        connection.sendall(OK if token is None else granted if token == secret else refused)

    with Server(script) as server:
        yield ["--broker", server.url]


@contextlib.contextmanager
def no_token_here(world: World) -> Iterator[list[str]]:
    world.patch.delenv("N8N_RUNNERS_AUTH_TOKEN")
    with broker() as running:
        yield ["--broker", running.url]


@contextlib.contextmanager
def only_a_grant(world: World) -> Iterator[list[str]]:
    world.patch.delenv("N8N_RUNNERS_AUTH_TOKEN")
    world.patch.setenv("N8N_RUNNERS_GRANT_TOKEN", TOKEN)
    with broker() as running:
        yield ["--broker", running.url]


@contextlib.contextmanager
def wrong_setting(world: World) -> Iterator[list[str]]:
    world.patch.setenv("N8N_RUNNERS_MAX_CONCURRENCY", "many")
    yield []


@contextlib.contextmanager
def unusable_proxy(world: World) -> Iterator[list[str]]:
    world.patch.setenv("http_proxy", "socks5://proxy.test:1080")
    yield ["--broker", "http://n8n.test:5679"]


@contextlib.contextmanager
def starting(world: World) -> Iterator[list[str]]:
    with HttpServer(http_answer(503)) as proxy:
        yield ["--broker", proxy.url]


@contextlib.contextmanager
def hanging(world: World) -> Iterator[list[str]]:
    world.patch.setattr(auth, "HTTP_TIMEOUT", 0.2)
    with Server(lambda connection: hold(server)) as server, editor("2.40.7") as site:
        yield ["--broker", server.url, "--n8n", site.url]


def hold(server: Server) -> None:
    server.closing.wait(LIMIT)


@contextlib.contextmanager
def websocket_that(world: World, behaviour: str) -> Iterator[list[str]]:
    """The log-in and the upgrade pass, and nothing comes afterwards."""
    world.patch.setattr(walk, "REGISTRATION_TIMEOUT", 0.2)

    def script(connection: socket.socket) -> None:
        request = read_request(connection)
        if "upgrade" not in request.headers:
            connection.sendall(http_answer(200, b'{"data":{"token":"%s"}}' % (b"a" * 64)))
            return
        connection.sendall(upgrade_answer(request))
        if behaviour == "is silent":
            hold(server)

    with Server(script) as server:
        yield ["--broker", server.url]


@contextlib.contextmanager
def cloud(world: World) -> Iterator[list[str]]:
    yield ["--broker", "https://me.app.n8n.cloud"]


@contextlib.contextmanager
def webhook_that_answers(world: World, answer: str) -> Iterator[list[str]]:
    status, _, body = answer.partition(" ")
    with broker() as running, HttpServer(http_answer(int(status), body.encode())) as n8n:
        yield ["--broker", running.url, "--webhook", f"{n8n.url}/webhook/leads"]


class ReverseProxy(Server):
    """Passes each request on as HTTP, without the headers that belong to one connection."""

    def __init__(self, target: int) -> None:
        self._target = target
        super().__init__(self._pass_on)

    def _pass_on(self, client: socket.socket) -> None:
        request = read_request(client)
        kept = {k: v for k, v in request.headers.items() if k not in ("upgrade", "connection")}
        fields = "".join(f"{name}: {value}\r\n" for name, value in {**kept, "connection": "close"}.items())
        with socket.create_connection(("127.0.0.1", self._target)) as upstream:
            upstream.sendall(f"{request.line}\r\n{fields}\r\n".encode() + request.body)
            while data := upstream.recv(65536):
                client.sendall(data)


class Balancer(Server):
    """Gives each connection with a request to the next broker; probes do not count."""

    def __init__(self, *targets: int) -> None:
        self._targets = list(targets)
        super().__init__(self._balance)

    def _balance(self, client: socket.socket) -> None:
        first = client.recv(16, socket.MSG_PEEK)
        if not first:
            return
        target = self._targets[0]
        if first.startswith(b"POST"):
            self._targets.reverse()
        with socket.create_connection(("127.0.0.1", target)) as upstream:
            pump(client, upstream)


def having(
    build: Callable[[World, str], AbstractContextManager[list[str]]], argument: str
) -> Callable[[World], AbstractContextManager[list[str]]]:
    """Return a set-up with an argument of its own."""
    return lambda world: build(world, argument)


ISSUES = "https://github.com/n8n-io/n8n/issues"

#: The set-ups that everybody meets.
COMMON = (
    SetUp("n8n not running", not_running, (Cause.NOT_RUNNING,)),
    SetUp("n8n without the token", refused_token, (Cause.NO_TOKEN_IN_N8N, Cause.ANOTHER_TOKEN)),
    SetUp("n8n with another token", refused_token, (Cause.NO_TOKEN_IN_N8N, Cause.ANOTHER_TOKEN)),
    SetUp("port 5678 for 5679", editor_port, (Cause.EDITOR_PORT,)),
    SetUp("https for http", https_for_http, (Cause.HTTPS_FOR_HTTP,)),
    SetUp("a token with a line break at its end", line_break, (Cause.TOKEN_ENDS_WITH_LINE_BREAK,)),
    SetUp("a proxy in between", proxy_of_the_environment, (Cause.PROXY_OF_ENVIRONMENT,)),
    SetUp("a broker on loopback only", broker_on_loopback, (Cause.BROKER_ON_LOOPBACK,), f"{ISSUES}/29742"),
    SetUp("a wrong base path", base_path, (Cause.BASE_PATH,)),
    SetUp("the rate limit", rate_limit, (Cause.RATE_LIMIT,)),
    SetUp("an n8n too old", too_old, (Cause.N8N_TOO_OLD,)),
    SetUp("the address of a queue worker missing", queue_worker, (Cause.QUEUE_WORKER,), f"{ISSUES}/26629"),
)

#: Set-ups from public reports.
REPORTED = (
    SetUp(
        "a reverse proxy without WebSockets",
        no_websockets,
        (Cause.PROXY_WITHOUT_WEBSOCKETS,),
        f"{ISSUES}/12688",
    ),
    SetUp(
        "a grant that is not known",
        load_balancer,
        (Cause.SEVERAL_N8N, Cause.GRANT_TOO_SHORT),
        f"{ISSUES}/28638",
    ),
    SetUp(
        "external mode without a token, so n8n ends at its start",
        not_running,
        (Cause.NOT_RUNNING,),
        "https://github.com/n8n-io/n8n-hosting/issues/86",
    ),
    SetUp(
        "a workflow whose runner does not run",
        queue_worker,
        (Cause.QUEUE_WORKER, Cause.NO_RUNNER_RUNS),
        f"{ISSUES}/23831",
    ),
    SetUp(
        "no name for the host of a container",
        no_host_gateway,
        (Cause.NO_HOST_GATEWAY,),
        "https://github.com/coleam00/ai-agents-masterclass/issues/43",
    ),
    SetUp(
        "127.0.0.1 in a container",
        another_container,
        (Cause.ANOTHER_CONTAINER, Cause.NOT_RUNNING),
        "https://github.com/n8n-io/n8n-docs/pull/4689",
    ),
    SetUp(
        "a published port of a broker on loopback",
        published_port,
        (Cause.PORT_FORWARDING,),
        "https://github.com/n8n-io/n8n-docs/pull/2716",
    ),
    SetUp(
        "a firewall that drops connections",
        firewall,
        (Cause.FIREWALL, Cause.MACHINE_OFF),
        "https://github.com/futurminds/n8n-self-hosting/issues/9",
    ),
    SetUp(
        "an address without http://",
        without_scheme,
        (Cause.URL_WITHOUT_SCHEME,),
        "https://inforeole.fr/?p=10074",
    ),
)

#: More set-ups.
OTHERS = (
    SetUp("an n8n too old that registers the runner", too_old_and_registers, (Cause.N8N_TOO_OLD,)),
    SetUp("n8n 1 without runners", n8n_1, (Cause.N8N_1_WITHOUT_RUNNERS,)),
    SetUp("a private certificate", private_certificate, (Cause.PRIVATE_CERTIFICATE,)),
    SetUp("a redirect to https", redirect, (Cause.REDIRECT,)),
    SetUp("http for https", http_for_https, (Cause.HTTP_FOR_HTTPS,)),
    SetUp("the name of a container elsewhere", name_of_a_container, (Cause.NAME_OF_ANOTHER_NETWORK,)),
    SetUp("the port of n8n's launcher", launchers_port, (Cause.OTHER_SERVER,)),
    SetUp(
        "a line break in n8n's token",
        having(old_n8n_keeps, f"{TOKEN}\n"),
        (Cause.N8N_TOKEN_ENDS_WITH_LINE_BREAK,),
    ),
    SetUp("quotes in n8n's token", having(old_n8n_keeps, f'"{TOKEN}"'), (Cause.N8N_TOKEN_IN_QUOTES,)),
    SetUp("no token here", no_token_here, (Cause.NO_TOKEN_HERE,)),
    SetUp("only a grant token here", only_a_grant, (Cause.ONLY_A_GRANT,)),
    SetUp("a wrong setting", wrong_setting, (Cause.WRONG_SETTINGS,)),
    SetUp("a SOCKS proxy", unusable_proxy, (Cause.UNUSABLE_PROXY,)),
    SetUp("an n8n that starts, behind a proxy", starting, (Cause.STARTING,)),
    SetUp("an n8n that hangs", hanging, (Cause.N8N_BUSY,)),
    SetUp("a WebSocket that ends", having(websocket_that, "ends"), (Cause.CUT_OFF,)),
    SetUp("a WebSocket on which nothing comes", having(websocket_that, "is silent"), (Cause.CUT_OFF,)),
    SetUp("n8n Cloud", cloud, (Cause.CLOUD,)),
    SetUp("a workflow that is not active", having(webhook_that_answers, "404"), (Cause.NOT_ACTIVE,)),
    SetUp(
        "a workflow that fails",
        having(webhook_that_answers, '500 {"message":"Error in workflow"}'),
        (Cause.WORKFLOW_ERROR, Cause.QUEUE_WORKER, Cause.NO_RUNNER_RUNS),
    ),
    SetUp("a webhook with credentials", having(webhook_that_answers, "403"), (Cause.WEBHOOK_CREDENTIALS,)),
)

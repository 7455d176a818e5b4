"""The samples for Docker Compose and systemd, and the guides for self-hosting and several brokers.

The tests start no container. They run the application, its node and the health checks without one.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from ruamel.yaml import YAML

from n8nrunner import RunnerConfig, cli
from n8nrunner.broker import Broker
from n8nrunner.config import BrokerUrl, urls_of
from tests.conftest import LIMIT, TOKEN, VARIABLES, wait_until
from tests.pages import blocks, read
from tests.processes import Program, python

ROOT = Path(__file__).parent.parent
COMPOSE = ROOT / "samples" / "compose"
UNIT = ROOT / "samples" / "systemd" / "leads.service"
PAGE, BROKERS = "docs/guide-self-hosting.md", "docs/brokers.md"
GUIDE = read(BROKERS) + read(PAGE)
SHELL = [*blocks(PAGE, "sh"), *blocks(BROKERS, "sh")]
YAMLS = [*blocks(PAGE, "yaml"), *blocks(BROKERS, "yaml")]
PROGRAM = Path(sys.executable).with_name("n8nrunner")
SECONDS = re.compile(r"(\d+)s")
SECRETS = {"N8N_RUNNERS_AUTH_TOKEN": TOKEN, "N8N_ENCRYPTION_KEY": "key", "POSTGRES_PASSWORD": "password"}
#: n8n's image in the samples: a release without CVE-2026-119408. The tests run against the newest on npm that
#: installs (`tests.n8n.install.N8N_VERSION`), which is older.
SAMPLES_VERSION = "2.43.3"
#: Variables of n8n itself that the guide names.
N8NS_OWN = {
    "N8N_RUNNERS_ENABLED",
    "N8N_RUNNERS_MODE",
    "N8N_RUNNERS_BROKER_LISTEN_ADDRESS",
    "N8N_RUNNERS_PATH",
}
#: Every setting of a runner that comes from the environment.
KNOWN = {variable + tail for variable in VARIABLES.values() for tail in ("", "_FILE")}
#: The number in the guide, and the same with a wrong check digit.
IBAN, WRONG_IBAN = "DE89 3704 0044 0532 0130 00", "DE88 3704 0044 0532 0130 00"

on_posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and shells of POSIX")


class ComposeFile:
    """One file of Docker Compose, with its services by their purpose."""

    def __init__(self, name: str) -> None:
        self.path = COMPOSE / name
        self.text = self.path.read_text(encoding="utf-8")
        self.content: dict[str, Any] = YAML(typ="safe", pure=True).load(self.text)
        self.services: dict[str, dict[str, Any]] = self.content["services"]
        self.n8n = self._of_image("n8nio/n8n:")
        self.javascript_runners = self._of_image("n8nio/runners:")
        self.application = self.services["application"]
        self.brokers = {f"http://{name}:5679" for name in self.n8n}

    def _of_image(self, image: str) -> dict[str, dict[str, Any]]:
        return {
            name: service
            for name, service in self.services.items()
            if service.get("image", "").startswith(image)
        }

    def environment(self, service: dict[str, Any]) -> dict[str, str]:
        """Return the variables of a container of the service, with its files of secrets read."""
        found: dict[str, str] = {}
        for name, value in service["environment"].items():
            text = str(value)
            if name.endswith("_FILE"):
                folder, secret = text.rsplit("/", 1)
                assert folder == "/run/secrets"
                assert secret in service["secrets"]
                name, text = name[: -len("_FILE")], f"${{{self.content['secrets'][secret]['environment']}}}"
            found[name] = re.sub(r"\$\{(\w+)[^}]*\}", lambda variable: SECRETS[variable[1]], text)
        return found

    def needs(self, service: dict[str, Any]) -> dict[str, str]:
        """Return the services that it depends on, each with the condition."""
        found = service.get("depends_on", {})
        if isinstance(found, list):
            return dict.fromkeys(found, "service_started")
        return {name: value["condition"] for name, value in found.items()}

    def writers_of(self, service: dict[str, Any]) -> set[str]:
        """Return the services that write nodes for an n8n."""
        needs = self.needs(service)
        return {name for name in needs if needs[name] == "service_completed_successfully"}


FILES = [ComposeFile("compose.yaml"), ComposeFile("compose.queue.yaml")]
QUEUE = FILES[1]
each_file = pytest.mark.parametrize("compose", FILES, ids=lambda compose: compose.path.name)


def seconds(text: str) -> int:
    found = SECONDS.fullmatch(text)
    assert found, f"expected seconds, got {text!r}"
    return int(found[1])


# --- Docker Compose ---------------------------------------------------------------------------------


def wrong_files(*paths: Path) -> set[str]:
    """Return the files that do not follow the schema of Compose. One process checks all: it starts slowly."""
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        "-o",
        "json",
    ]
    checked = subprocess.run([*command, *map(str, paths)], capture_output=True, text=True)
    assert checked.returncode in (0, 1), checked.stderr
    return {error["filename"] for error in json.loads(checked.stdout)["errors"]}


def test_the_samples_follow_the_schema_of_compose(tmp_path: Path) -> None:
    broken = [tmp_path / compose.path.name for compose in FILES]
    for path, compose in zip(broken, FILES):
        path.write_text(compose.text.replace("    depends_on:", "    depend_on:"))
    assert wrong_files(*(compose.path for compose in FILES), *broken) == set(map(str, broken))


def test_the_samples_have_one_n8n_and_three() -> None:
    assert [len(compose.n8n) for compose in FILES] == [1, 3]


@each_file
def test_every_n8n_waits_for_runners(compose: ComposeFile) -> None:
    for service in compose.n8n.values():
        environment = compose.environment(service)
        assert environment["N8N_RUNNERS_MODE"] == "external"
        assert environment["N8N_RUNNERS_BROKER_LISTEN_ADDRESS"] == "0.0.0.0"
        assert "N8N_RUNNERS_BROKER_PORT" not in environment


@each_file
def test_all_services_have_the_same_token(compose: ComposeFile) -> None:
    services = [*compose.n8n.values(), *compose.javascript_runners.values(), compose.application]
    assert {compose.environment(service)["N8N_RUNNERS_AUTH_TOKEN"] for service in services} == {TOKEN}


@each_file
def test_only_javascript_runners_have_secrets_in_their_environment(compose: ComposeFile) -> None:
    """The image of n8n's runners reads no files of secrets."""
    for name, service in compose.services.items():
        variables = {f"${{{secret}:?fill in .env}}" for secret in SECRETS}
        shown = [value for value in service.get("environment", {}).values() if value in variables]
        assert len(shown) == (name in compose.javascript_runners)


@each_file
def test_no_service_has_a_capability_or_can_gain_one(compose: ComposeFile) -> None:
    for service in compose.services.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "cap_add" not in service
        assert "privileged" not in service
    # The images of these two start as root otherwise, to change the owner of their data.
    for name in set(compose.services) & {"postgres", "redis"}:
        assert compose.services[name]["user"] == name


@each_file
def test_every_n8n_has_one_javascript_runner(compose: ComposeFile) -> None:
    addresses = [
        service["environment"]["N8N_RUNNERS_TASK_BROKER_URI"]
        for service in compose.javascript_runners.values()
    ]
    assert sorted(addresses) == sorted(compose.brokers)
    assert all(service["command"] == ["javascript"] for service in compose.javascript_runners.values())


@each_file
def test_the_application_knows_every_broker(compose: ComposeFile) -> None:
    assert set(RunnerConfig.from_env(compose.environment(compose.application)).broker) == compose.brokers


@each_file
def test_the_settings_of_the_application_are_known(compose: ComposeFile) -> None:
    given = {name for name in compose.application["environment"] if name.startswith(("N8N_", "N8NRUNNER_"))}
    assert given <= KNOWN


def test_every_variable_is_in_the_example() -> None:
    lines = (COMPOSE / ".env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    used: list[tuple[str, str]] = []
    for compose in FILES:
        found = re.findall(r"\$\{(\w+):([?-][^}]+)\}", compose.text)
        assert len(found) == compose.text.count("$"), "each variable has a default or is required"
        secrets = [secret["environment"] for secret in compose.content["secrets"].values()]
        used += found + [(name, "?a secret") for name in secrets]
    assert {name for name, _ in used} == set(example)
    # A secret is required and has no default; the version is the only one with a default, and it is one.
    assert {name for name, value in used if value.startswith("-")} == {"N8N_VERSION"}
    assert {value for _, value in used if value.startswith("-")} == {f"-{example['N8N_VERSION']}"}
    assert example["N8N_VERSION"] == SAMPLES_VERSION
    assert {name for name, value in example.items() if value} == {"N8N_VERSION"}
    assert ".env" in (COMPOSE / ".gitignore").read_text().splitlines()


@each_file
def test_n8n_and_its_runners_have_the_same_version(compose: ComposeFile) -> None:
    services = {**compose.n8n, **compose.javascript_runners}
    assert {service["image"].split(":", 1)[1] for service in services.values()} == {
        f"${{N8N_VERSION:-{SAMPLES_VERSION}}}"
    }


@each_file
def test_only_the_editor_is_published(compose: ComposeFile) -> None:
    published = {name: service["ports"] for name, service in compose.services.items() if "ports" in service}
    assert published == {"n8n": ["127.0.0.1:5678:5678"]}
    assert not any("network_mode" in service for service in compose.n8n.values())


@each_file
def test_dependencies_have_the_condition_they_need(compose: ComposeFile) -> None:
    for name, service in compose.services.items():
        for other, condition in compose.needs(service).items():
            assert other in compose.services, f"{name} depends on {other}"
            if condition == "service_healthy":
                assert "healthcheck" in compose.services[other]
            if condition == "service_completed_successfully":
                assert "restart" not in compose.services[other], "it has to end"
    restarted = {name for name, service in compose.services.items() if service.get("restart")}
    writers = [compose.writers_of(service) for service in compose.n8n.values()]
    assert restarted == set(compose.services).difference(*writers)
    # On the way down the application ends before any n8n whose tasks it runs.
    assert set(compose.needs(compose.application)) == set(compose.n8n)


@each_file
def test_all_declared_volumes_networks_and_secrets_are_used(compose: ComposeFile) -> None:
    for kind in ("volumes", "networks", "secrets"):
        named = {
            entry.split(":")[0] for service in compose.services.values() for entry in service.get(kind, [])
        }
        assert named == set(compose.content.get(kind, {}))


@each_file
def test_services_have_time_to_stop(compose: ComposeFile) -> None:
    grace = RunnerConfig.from_env(compose.environment(compose.application)).graceful_shutdown_timeout
    assert seconds(compose.application["stop_grace_period"]) > grace
    for service in compose.n8n.values():
        assert "N8N_GRACEFUL_SHUTDOWN_TIMEOUT" not in service["environment"]
        assert seconds(service["stop_grace_period"]) > 30


@each_file
def test_secrets_are_in_no_command(compose: ComposeFile) -> None:
    for service in compose.services.values():
        assert "$" not in str(service.get("command", "")) + str(service.get("healthcheck", ""))


@each_file
def test_every_n8n_gets_the_nodes_before_it_starts(compose: ComposeFile) -> None:
    for service in compose.n8n.values():
        (writer,) = (compose.services[name] for name in compose.writers_of(service))
        (mount,) = writer["volumes"]
        assert mount in service["volumes"], "the same volume, in the same place"
        assert writer["command"][:3] == ["n8nrunner", "node", "--out"]
        assert writer["command"][3:] == [f"{mount.split(':')[1]}/nodes/node_modules"]
        assert writer["network_mode"] == "none"


def test_workers_have_the_settings_of_the_main_n8n() -> None:
    main = QUEUE.n8n["n8n"]
    workers = [service for name, service in QUEUE.n8n.items() if name != "n8n"]
    assert "command" not in main
    for worker in workers:
        assert worker["command"] == ["worker"]
        assert worker["environment"] == main["environment"], "the same key, queue and database"
        # The main n8n waits for the database, and creates the tables.
        assert set(QUEUE.needs(worker)) - QUEUE.writers_of(worker) == {"n8n"}
        assert QUEUE.needs(worker)["n8n"] == "service_healthy"
    environment = QUEUE.environment(main)
    assert environment["EXECUTIONS_MODE"] == "queue"
    assert environment["OFFLOAD_MANUAL_EXECUTIONS_TO_WORKERS"] == "true"
    assert environment["QUEUE_HEALTH_CHECK_ACTIVE"] == "true"
    for service in ("postgres", "redis"):
        assert service in (environment["DB_POSTGRESDB_HOST"], environment["QUEUE_BULL_REDIS_HOST"])
        assert QUEUE.needs(main)[service] == "service_healthy"
        assert set(QUEUE.services[service]["networks"]) <= set(main["networks"])
    database = QUEUE.environment(QUEUE.services["postgres"])
    for name, variable in (("DATABASE", "DB"), ("USER", "USER"), ("PASSWORD", "PASSWORD")):
        assert environment[f"DB_POSTGRESDB_{name}"] == database[f"POSTGRES_{variable}"]
    folders = [each for service in QUEUE.n8n.values() for each in service["volumes"] if ".n8n" in each]
    assert len(set(folders)) == 3, "a folder for each n8n"


def test_runners_do_not_reach_the_database() -> None:
    behind = {network for name in ("postgres", "redis") for network in QUEUE.services[name]["networks"]}
    for runner in (*QUEUE.javascript_runners.values(), QUEUE.application):
        assert runner["networks"]
        assert not behind & set(runner["networks"])
        assert all(set(runner["networks"]) & set(service["networks"]) for service in QUEUE.n8n.values())


def dockerfile() -> dict[str, list[str]]:
    """Return the instructions of the Dockerfile, each with its arguments."""
    found: dict[str, list[str]] = {}
    for line in (COMPOSE / "Dockerfile").read_text().splitlines():
        if line and not line.startswith("#"):
            instruction, argument = line.split(" ", 1)
            found.setdefault(instruction, []).append(argument)
    return found


def test_the_image_has_the_application_and_the_user_of_n8n() -> None:
    instructions = dockerfile()
    copied = {source for argument in instructions["COPY"] for source in argument.split()[:-1]}
    assert copied == {"requirements.txt", "application.py"}
    ignored = (COMPOSE / ".dockerignore").read_text().splitlines()
    assert ignored == ["*", *(f"!{name}" for name in ("requirements.txt", "application.py"))]
    requirements = [
        line for line in (COMPOSE / "requirements.txt").read_text().splitlines() if line[0] != "#"
    ]
    assert requirements == ["n8nrunner[node]"]
    assert "\nnode =\n" in (ROOT / "setup.cfg").read_text()
    (user,) = instructions["USER"]
    assert f"--uid 1000 --create-home {user}" in instructions["RUN"][0], "the user of n8n's image"
    for compose in FILES:
        assert compose.application["build"] == compose.services["nodes"]["build"] == "."
        assert "command" not in compose.application
        (mount,) = compose.services["nodes"]["volumes"]
        folder = mount.split(":")[1]
        assert f"install --directory --owner={user} {folder}" in instructions["RUN"][0]


# --- what runs in the containers --------------------------------------------------------------------


def command_of(arguments: list[str]) -> list[str]:
    """Return arguments for this Python that do the same as the program n8nrunner."""
    assert arguments[0] == "n8nrunner"
    return ["-m", *arguments]


@contextlib.contextmanager
def embedded_brokers(number: int) -> Iterator[list[Broker]]:
    with contextlib.ExitStack() as stack:
        brokers = [stack.enter_context(Broker(auth_token=TOKEN)) for _ in range(number)]
        for broker in brokers:
            stack.callback(broker.kill)
        yield brokers


def call(broker: Broker, runner: str, function: str, *arguments: dict[str, Any]) -> list[Any]:
    """Return the JSON of the items that a function returns for the arguments of each item."""
    calls = [{"item": item, "arguments": each} for item, each in enumerate(arguments)]
    settings = {"version": 1, "function": function, "calls": calls}
    result = broker.run_task(f"n8nrunner.{runner}", settings, timeout=LIMIT)
    assert result["errors"] == []
    return [item["json"] for item in result["items"]]


def is_healthy(compose: ComposeFile, port: str) -> bool:
    """Return whether the health check of the application's service succeeds."""
    kind, program, *arguments = compose.application["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "python")
    arguments = [argument.replace("5681", port) for argument in arguments]
    checked = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert checked.returncode in (0, 1)
    assert checked.stderr == ""
    return checked.returncode == 0


@on_posix
@each_file
def test_the_application_answers_calls_of_every_broker(compose: ComposeFile) -> None:
    environment = compose.environment(compose.application)
    (command,) = (YAML(typ="safe", pure=True).load(text) for text in dockerfile()["CMD"])
    with embedded_brokers(len(compose.brokers)) as brokers:
        addresses = ",".join(broker.url for broker in brokers)
        environment.update(
            N8N_RUNNERS_TASK_BROKER_URI=addresses,
            N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT="0",
            PYTHONDONTWRITEBYTECODE="1",
        )
        with python(*command_of(command), env=environment, cwd=COMPOSE) as program:
            found = re.search(r"port (\d+)", program.wait_for("Health check server listening"))
            assert found
            for _ in brokers:
                program.wait_for("Registered")
            for broker in brokers:
                ibans = ({"iban": IBAN}, {"iban": WRONG_IBAN})
                assert [each["valid"] for each in call(broker, "billing", "check_iban", *ibans)] == [
                    True,
                    False,
                ]
                day = {"invoiced": "2026-04-30", "days": 30}
                days = (day, {**day, "holidays": ["2026-06-01"]})
                assert call(broker, "billing", "due_date", *days) == [
                    {"due": "2026-06-01"},
                    {"due": "2026-06-02"},
                ]
                names = [{"name": name} for name in ("Ada Lovelace", "Alan Turing", "Lovelace, Ada")]
                assert [
                    each["duplicateOf"] for each in call(broker, "billing", "find_duplicates", *names)
                ] == [
                    None,
                    None,
                    "Ada Lovelace",
                ]
            assert is_healthy(compose, found[1])
            for broker in brokers:
                broker.kill()
            wait_until(lambda: not is_healthy(compose, found[1]))
            program.signal(signal.SIGTERM)
            assert program.wait() == 0


@each_file
def test_the_nodes_are_written_without_the_application(compose: ComposeFile, tmp_path: Path) -> None:
    command = compose.services["nodes"]["command"]
    command = [each.replace("/home/node", str(tmp_path)) for each in command]
    with python(*command_of(command), cwd=tmp_path) as program:
        assert program.wait() == 0
    assert (tmp_path / ".n8n/nodes/node_modules/n8n-nodes-n8nrunner/package.json").is_file()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
@each_file
def test_the_health_check_of_n8n_asks_whether_it_is_ready(
    compose: ComposeFile, status: int, code: int
) -> None:
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    checks = [service["healthcheck"]["test"] for service in compose.n8n.values()]
    assert all(check == checks[0] for check in checks)
    kind, program, *arguments = checks[0]
    assert (kind, program) == ("CMD", "node")
    if shutil.which(program) is None:
        pytest.skip("Node.js is not on this machine")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            address = f"127.0.0.1:{server.server_address[1]}"
            arguments = [argument.replace("localhost:5678", address) for argument in arguments]
            checked = subprocess.run([program, *arguments], capture_output=True, text=True)
        finally:
            server.shutdown()
            thread.join()
    assert checked.returncode == code, checked.stderr
    assert asked == ["/healthz/readiness"]


# --- systemd ----------------------------------------------------------------------------------------


def unit() -> dict[str, list[str]]:
    """Return the settings of the unit, of all sections; a setting may have several values."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            name, value = line.split("=", 1)
            found.setdefault(name, []).append(value)
    return found


def complaints_of_systemd(text: str, folder: Path) -> list[str]:
    """Return the complaints of `systemd-analyze verify` about a unit whose program exists."""
    (start,) = unit()["ExecStart"]
    path = folder / UNIT.name
    path.write_text(text.replace(start.split()[0], str(PROGRAM)))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True
    )
    return [line for line in (checked.stdout + checked.stderr).splitlines() if UNIT.name in line]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not on this machine")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    text = UNIT.read_text()
    assert complaints_of_systemd(text, tmp_path) == []
    assert complaints_of_systemd(text.replace("ProtectHome", "ProtectHouse"), tmp_path) != []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not on this machine")
def test_systemd_rates_the_unit_as_hardened() -> None:
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNIT)],
        capture_output=True,
        text=True,
    )
    if "unrecognized option" in rated.stderr:
        pytest.skip("this systemd is older than 250 and rates loaded units only")
    found = re.search(r"Overall exposure level for leads.service: ([0-9.]+)", rated.stdout)
    assert found, rated.stderr
    assert float(found[1]) <= 1.3


def test_a_wrong_token_or_wrong_settings_do_not_start_the_unit_again() -> None:
    settings = unit()
    assert settings["Restart"] == ["on-failure"]
    (codes,) = settings["RestartPreventExitStatus"]
    assert {int(code) for code in codes.split()} == {cli.EXIT_USAGE, cli.EXIT_REFUSED}


def test_the_unit_has_time_to_stop() -> None:
    (timeout,) = unit()["TimeoutStopSec"]
    assert int(timeout) > RunnerConfig(auth_token="x").graceful_shutdown_timeout
    assert unit()["KillSignal"] == ["SIGTERM"]


def start_unit(broker: Broker, folder: Path, token: str) -> Program:
    """Start the program of the unit, with a token and the address of this broker."""
    settings = unit()
    assert settings["LoadCredential"] == ["token:/etc/leads/token"]
    (folder / "token").write_text(f"{token}\n")
    (folder / "leads.py").write_text(code())
    values = [value.replace("%d", str(folder)) for value in settings["Environment"]]
    environment = dict(value.split("=", 1) for value in values)
    assert environment["N8N_RUNNERS_TASK_BROKER_URI"] == RunnerConfig(auth_token="x").broker[0]
    environment["N8N_RUNNERS_TASK_BROKER_URI"] = broker.url
    (start,) = settings["ExecStart"]
    program, *arguments = start.split()
    assert program == f"{settings['WorkingDirectory'][0]}/.venv/bin/n8nrunner"
    return Program([str(PROGRAM), *arguments], environment, folder)


@on_posix
def test_the_service_runs_until_it_is_stopped(broker: Broker, tmp_path: Path) -> None:
    with start_unit(broker, tmp_path, TOKEN) as program:
        program.wait_for("Registered")
        assert call(broker, "leads", "score_lead", {"email": "ada@example.com"}) == [{"score": 10}]
        program.signal(signal.SIGTERM)
        assert program.wait() == 0


@on_posix
def test_the_service_is_not_started_again_with_a_wrong_token(broker: Broker, tmp_path: Path) -> None:
    with start_unit(broker, tmp_path, "wrong") as program:
        assert str(program.wait()) in unit()["RestartPreventExitStatus"][0].split()


# --- the guide --------------------------------------------------------------------------------------


def code() -> str:
    """Return the Python code of the guide."""
    (block,) = blocks(PAGE, "python")
    return block.text


def test_the_yaml_of_the_guide_is_in_the_samples() -> None:
    for block in YAMLS:
        if block.heading != "Workers that scale":
            assert any(block.text in compose.text for compose in FILES), block.text


def test_the_names_of_workers_that_scale_belong_to_their_services(tmp_path: Path) -> None:
    texts = [block.text for block in YAMLS if block.heading == "Workers that scale"]
    compose, service = (YAML(typ="safe", pure=True).load(text) for text in texts)
    (tmp_path / "compose.yaml").write_text(texts[0])
    assert wrong_files(tmp_path / "compose.yaml") == set()

    def name_in(uri: str) -> BrokerUrl:
        config = RunnerConfig.from_env({"N8N_RUNNERS_TASK_BROKER_URI": uri, **SECRETS})
        main, name = urls_of(config)
        assert (main.is_name, name.is_name) == (False, True)
        return name

    services = compose["services"]
    name = name_in(services["application"]["environment"]["N8N_RUNNERS_TASK_BROKER_URI"])
    assert services[name.host]["command"] == ["worker"]
    assert services[name.host]["image"] == f"n8nio/n8n:{SAMPLES_VERSION}"
    found = re.search(r"`N8N_RUNNERS_TASK_BROKER_URI=(http://n8n:5679,dns\+[^`]*)`", GUIDE)
    assert found
    name = name_in(found[1])
    assert name.host == service["metadata"]["name"]
    assert [port["port"] for port in service["spec"]["ports"]] == [name.port]
    assert service["spec"]["clusterIP"] == "None"


def test_the_runner_of_the_guide_has_all_its_brokers() -> None:
    (block,) = blocks(BROKERS, "python")
    names: dict[str, Any] = {}
    exec(block.text, names)
    brokers = names["runner"].config.broker
    assert [urlsplit(broker).hostname for broker in brokers] == ["main", "worker-1", "worker-2"]


def test_the_settings_of_the_guide_are_known() -> None:
    for name in re.findall(r"\b(?:N8N_RUNNERS|N8NRUNNER)_[A-Z_]+\b", GUIDE):
        assert name in KNOWN | N8NS_OWN


@pytest.mark.parametrize(
    ("message", "file"),
    [
        ("cannot be reached", "connection/auth.py"),
        ("refused the token", "connection/auth.py"),
        ("does not come from n8n's task broker", "connection/auth.py"),
        ("this is the port of n8n's editor", "connection/auth.py"),
        ("is there, but not below the path", "connection/auth.py"),
        ("VERIFY_X509_STRICT", "connection/environment.py"),
        ("the settings cannot work", "cli.py"),
        ('No runner "billing" took the call', "functions/node/static/dist/runtime.js"),
        (
            "has changed since this node's arguments were filled in",
            "functions/node/static/dist/nodes/PythonFunction/PythonFunction.node.js",
        ),
        ("Task execution timed out after", "protocol/tasks.py"),
        ("cut short, and n8n was told so", "cli.py"),
    ],
)
def test_messages_of_the_table_are_in_the_source(message: str, file: str) -> None:
    table = GUIDE[GUIDE.index("## When something is wrong") :]
    assert message in table
    source = (ROOT / "n8nrunner" / file).read_text(encoding="utf-8")
    assert message.replace('"billing"', '"${runner}"') in source


_FILE = "|".join(compose.path.name for compose in FILES)
_SERVICE = "|".join(FILES[0].services)
#: Commands with services of the samples, and with options that their subcommand has.
COMPOSE_COMMAND = re.compile(
    rf"docker compose( -f ({_FILE}))? "
    rf"((up( -d| --build| --no-deps| --no-recreate| --wait| --scale ({_SERVICE})=\d)*"
    rf"|build|restart|logs -f|ps --all)( ({_SERVICE}))*|run --rm ({_SERVICE}) .+)"
)


@pytest.mark.parametrize("command", re.findall(r"`(docker [^`]+)`", GUIDE))
def test_commands_of_the_table_name_services_of_the_samples(command: str) -> None:
    assert COMPOSE_COMMAND.fullmatch(command)


#: Writes its name and its arguments into a file.
STAND_IN = """\
#!/bin/sh
echo "${0##*/} $*" >> "$CALLS"
"""
#: Runs a command as if the folder $ROOT were the root of the file system.
SUDO = """\
#!/bin/sh
if [ "$1 $2 $3" = "-H -u n8n" ]; then shift 3; export HOME="$ROOT/home/n8n"; fi
for argument; do
    shift
    case $argument in /*) argument=$ROOT$argument ;; esac
    set -- "$@" "$argument"
done
exec "$@"
"""
#: Makes an environment with this machine's n8nrunner.
PYTHON = f"""\
{STAND_IN}
mkdir -p "$3/bin"
ln -s "${{0%/*}}/pip" "$3/bin/pip"
ln -s "{PROGRAM}" "$3/bin/n8nrunner"
"""


def run_section(heading: str, folder: Path) -> list[str]:
    """Run the commands of a section of the guide in a folder, with the folder "root" as their file system.

    Returns:
        The calls of programs that change more than files, and of `docker`.
    """
    programs = folder / "programs"
    programs.mkdir()
    recorded = dict.fromkeys(["docker", "openssl", "useradd", "systemctl", "journalctl", "pip"], STAND_IN)
    for name, text in {**recorded, "sudo": SUDO, "python3": PYTHON}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    for name in ("chmod", "cp", "install", "ln", "mkdir"):
        (programs / name).symlink_to(str(shutil.which(name)))
    root = folder / "root"
    (root / "etc/systemd/system").mkdir(parents=True)
    shutil.copy(COMPOSE / ".env.example", folder)
    shutil.copy(UNIT, folder)
    (folder / "leads.py").write_text(code())
    variables = {"PATH": programs, "ROOT": root, "CALLS": folder / "calls", "PYTHONPATH": ROOT}
    script = "".join(block.text for block in SHELL if block.heading == heading)
    ran = subprocess.run(
        ["/bin/sh", "-eu", "-c", script.replace("cd /", f"cd {root}/")],
        cwd=folder,
        env={name: str(value) for name, value in variables.items()},
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return (folder / "calls").read_text().replace(str(root), "").splitlines()


@on_posix
@pytest.mark.parametrize("heading", sorted({block.heading for block in SHELL} - {"With systemd"}))
def test_commands_of_a_section_name_services_of_the_samples(heading: str, tmp_path: Path) -> None:
    for command in run_section(heading, tmp_path):
        expected = ("openssl rand -hex 32", f"journalctl -f -u {UNIT.stem}")
        assert command in expected or COMPOSE_COMMAND.fullmatch(command)
    if heading == "With Docker Compose":
        assert IBAN in GUIDE
        assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600


@on_posix
def test_commands_for_systemd_put_files_where_the_unit_looks_for_them(tmp_path: Path) -> None:
    settings = unit()
    (home,) = settings["WorkingDirectory"]
    (user,) = settings["User"]
    (credential,) = settings["LoadCredential"]
    assert run_section("With systemd", tmp_path) == [
        "openssl rand -hex 32",
        f"useradd --system --user-group --home-dir {home} --shell /usr/sbin/nologin {user}",
        f"python3 -m venv {home}/.venv",
        "pip install n8nrunner[node]",
        "systemctl daemon-reload",
        f"systemctl enable --now {UNIT.stem}",
        "systemctl restart n8n",
    ]
    root = tmp_path / "root"
    token = credential.split(":")[1]
    modes = {token: 0o600, f"{home}/leads.py": 0o644, f"/etc/systemd/system/{UNIT.name}": 0o644}
    assert {path: Path(f"{root}{path}").stat().st_mode & 0o777 for path in modes} == modes
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    assert (root / "home/n8n/.n8n/nodes/node_modules/n8n-nodes-n8nrunner/package.json").is_file()

"""The command, started as users start it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import watchfiles

from n8nrunner import __version__, cli
from n8nrunner.broker import Broker, BrokerTaskError
from tests.conftest import LIMIT, TOKEN, wait_until
from tests.pages import ROOT
from tests.processes import Program, python

JOBS = """
import threading
from n8nrunner import Runner

runner = Runner(capacity=2)

@runner.task("echo")
def echo(task):
    return task.settings

@runner.task("wait")
def wait(task):
    print("waiting", flush=True)
    task.wait_for_cancel(60)

@runner.task("stubborn")
def stubborn(task):
    print("waiting", flush=True)
    threading.Event().wait(60)

if __name__ != "__main__":
    runner.start()  # does nothing while the command imports this module
"""


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    (tmp_path / "jobs.py").write_text(JOBS)
    (tmp_path / "two.py").write_text(
        "from jobs import runner\nfrom n8nrunner import Runner\nother = Runner()\n"
    )
    (tmp_path / "none.py").write_text("value = 5\n")
    return tmp_path


def environment(broker: Broker, **more: str) -> dict[str, str]:
    return {"N8N_RUNNERS_TASK_BROKER_URI": broker.url, "N8N_RUNNERS_AUTH_TOKEN": TOKEN, **more}


def run_jobs(jobs: Path, target: str, env: dict[str, str]) -> Program:
    return python("-m", "n8nrunner", "run", target, env=env, cwd=jobs)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
class TestRun:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_run_serves_tasks_and_finishes_them_at_a_signal(
        self, broker: Broker, jobs: Path, number: int
    ) -> None:
        with run_jobs(jobs, "jobs", environment(broker)) as program:
            program.wait_for("Registered")
            assert broker.run_task("echo", {"x": 1}, timeout=LIMIT) == {"x": 1}
            program.signal(number)
            assert program.wait() == 0
            assert "Traceback" not in program.output
            assert "has stopped. The stop took" in program.output.splitlines()[-1]

    def test_unfinished_tasks_are_exit_code_5(self, broker: Broker, jobs: Path) -> None:
        env = environment(broker, N8N_RUNNERS_GRACEFUL_SHUTDOWN_TIMEOUT="0.2")
        with run_jobs(jobs, "jobs:runner", env) as program:
            broker.submit("wait", {})
            program.wait_for("waiting")
            program.signal(signal.SIGTERM)
            assert program.wait() == 5
            assert "n8nrunner: 1 task was cut short, and n8n was told so" in program.output
            assert "Traceback" not in program.output

    def test_a_second_signal_ends_at_once(self, broker: Broker, jobs: Path) -> None:
        with run_jobs(jobs, "jobs", environment(broker)) as program:
            broker.submit("stubborn", {})
            program.wait_for("waiting")
            program.signal(signal.SIGINT)
            program.wait_for("Stopping after SIGINT: waiting at most 10 s for 1 running task: stubborn")
            program.signal(signal.SIGINT)
            assert program.wait() == 128 + signal.SIGINT
            assert "Traceback" not in program.output

    def test_a_refused_token_is_exit_code_3(self, broker: Broker, jobs: Path) -> None:
        with run_jobs(jobs, "jobs", environment(broker, N8N_RUNNERS_AUTH_TOKEN="wrong-one")) as program:
            assert program.wait() == 3
            assert "refused the token" in program.output
            assert "wrong-one" not in program.output

    def test_a_spent_grant_is_exit_code_4(self, broker: Broker, jobs: Path) -> None:
        from n8nrunner.config import parse_broker
        from n8nrunner.connection.auth import fetch_grant

        env = environment(broker, N8N_RUNNERS_GRANT_TOKEN=fetch_grant(parse_broker(broker.url), TOKEN))
        del env["N8N_RUNNERS_AUTH_TOKEN"]
        with run_jobs(jobs, "jobs", env) as program:
            program.wait_for("Registered")
            broker.kill()
            assert program.wait() == 4

    def test_all_mistakes_at_once_are_exit_code_2(self, broker: Broker, jobs: Path) -> None:
        env = {"N8N_RUNNERS_TASK_BROKER_URI": "ftp://x", "N8N_RUNNERS_TASK_TIMEOUT": "soon"}
        with run_jobs(jobs, "jobs", env) as program:
            assert program.wait() == 2
            for name in ("broker", "auth_token", "N8N_RUNNERS_TASK_TIMEOUT"):
                assert name in program.output
            assert "Traceback" not in program.output

    def test_idle_shutdown_is_exit_code_0(self, broker: Broker, jobs: Path) -> None:
        env = environment(broker, N8N_RUNNERS_AUTO_SHUTDOWN_TIMEOUT="0.2")
        with run_jobs(jobs, "jobs", env) as program:
            assert program.wait() == 0

    def test_the_health_check_server_tells_its_port(self, broker: Broker, jobs: Path) -> None:
        import requests

        env = environment(
            broker, N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED="TRUE", N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT="0"
        )
        with run_jobs(jobs, "jobs", env) as program:
            line = program.wait_for("Health check server listening on 127.0.0.1, port ")
            url = line.rsplit(" ", 1)[1].strip().rstrip("/")
            assert requests.get(f"{url}/healthz", timeout=LIMIT).text == "OK"
            wait_until(lambda: requests.get(f"{url}/readyz", timeout=LIMIT).status_code == 200)
            program.signal(signal.SIGTERM)
            assert program.wait() == 0


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nothing_here", "no module 'nothing_here'"),
        ("none", "there is no Runner in 'none'"),
        ("two", "'two' has several runners: runner, other; say which: two:NAME"),
        ("none:value", "expected a Runner, got int"),
        ("jobs:missing", "there is no 'missing' in 'jobs'; its runners are: runner"),
    ],
)
def test_a_target_that_is_not_a_runner_is_exit_code_2(
    jobs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], target: str, says: str
) -> None:
    monkeypatch.chdir(jobs)
    monkeypatch.syspath_prepend(str(jobs))
    monkeypatch.setenv("N8N_RUNNERS_AUTH_TOKEN", TOKEN)
    for name in ("jobs", "two", "none"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert cli.main(["run", target]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "node"])
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import a_module_that_is_not_there\n", "ModuleNotFoundError: No module named"),
        ("def fail():\n    raise ValueError('of the user')\nfail()\n", "ValueError: of the user"),
        ("def f(:\n", "SyntaxError"),
    ],
)
def test_a_module_that_raises_shows_its_own_frames(jobs: Path, command: str, code: str, said: str) -> None:
    (jobs / "raises.py").write_text(code)
    more = ["--install"] if command == "node" else []
    with python("-m", "n8nrunner", command, "raises", *more, cwd=jobs) as program:
        assert program.wait() == 1
    assert said in program.output
    assert "raises.py" in program.output
    assert "importlib" not in program.output
    assert "cli.py" not in program.output


LOGGING = {
    "basicConfig": "logging.basicConfig(format='MINE %(message)s', level=logging.INFO)",
    "dictConfig": """logging.config.dictConfig({"version": 1,
        "formatters": {"mine": {"format": "MINE %(message)s"}},
        "handlers": {"mine": {"class": "logging.StreamHandler", "formatter": "mine"}},
        "root": {"level": "INFO", "handlers": ["mine"]}})""",
}


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("configuration", LOGGING)
def test_the_module_s_logging_configuration_stays(broker: Broker, jobs: Path, configuration: str) -> None:
    """`dictConfig` disables the loggers that exist, which are those of n8nrunner."""
    code = "import logging, logging.config\nimport n8nrunner.runner\n" + LOGGING[configuration] + "\n"
    (jobs / "configured.py").write_text(code + JOBS)
    with run_jobs(jobs, "configured", environment(broker)) as program:
        assert program.wait_for("Registered").startswith("MINE Registered")
        program.signal(signal.SIGTERM)
        assert program.wait() == 0
    assert "INFO " not in program.output


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_run_in_a_script_says_that_it_has_registered(broker: Broker, jobs: Path) -> None:
    """The script has not configured logging."""
    (jobs / "script.py").write_text(JOBS + "\nrunner.run()\n")
    with python(str(jobs / "script.py"), env=environment(broker), cwd=jobs) as program:
        assert f"(process {program.process.pid} on " in program.wait_for("Registered with the broker")
        program.signal(signal.SIGTERM)
        assert program.wait() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_the_verbose_option_shows_more(broker: Broker, jobs: Path) -> None:
    code = (
        "import logging\n"
        "logging.getLogger('n8nrunner').debug('not yet')\n" + JOBS + "\n@runner.task('say')\ndef say(task):\n"
        "    logging.getLogger('n8nrunner.tasks').debug('of n8nrunner')\n"
        "    logging.getLogger('another').info('of another')\n"
    )
    (jobs / "verbose.py").write_text(code)
    for option, shown in (("-v", (True, False)), ("-vv", (True, True))):
        with python(
            "-m", "n8nrunner", "run", option, "verbose", env=environment(broker), cwd=jobs
        ) as program:
            broker.run_task("say", {}, timeout=LIMIT)
            program.signal(signal.SIGTERM)
            assert program.wait() == 0
        assert ("of n8nrunner" in program.output, "of another" in program.output) == shown
        assert re.search(r"say \(task \S+\) finished after \d", program.output)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_the_log_can_be_json_of_one_level(broker: Broker, jobs: Path) -> None:
    options = ("--log-format", "json", "--log-level", "warning")
    code = JOBS + "\n@runner.task('fail')\ndef fail(task): raise ValueError\n"
    (jobs / "json_jobs.py").write_text(code)
    with python(
        "-m", "n8nrunner", "run", *options, "json_jobs", env=environment(broker), cwd=jobs
    ) as program:
        with pytest.raises(BrokerTaskError):
            broker.run_task("fail", {}, timeout=LIMIT)
        program.signal(signal.SIGTERM)
        assert program.wait() == 0
    (shown,) = [json.loads(line) for line in program.output.splitlines()]
    assert (shown["level"], shown["logger"]) == ("ERROR", "n8nrunner.tasks")
    assert shown["message"].endswith("(fail) failed: ValueError")
    assert shown["exception"].endswith("ValueError")


def test_the_log_is_json_to_its_end(broker: Broker, jobs: Path) -> None:
    variables = environment(broker, N8N_RUNNERS_AUTH_TOKEN="another token")
    with python("-m", "n8nrunner", "run", "--log-format", "json", "jobs", env=variables, cwd=jobs) as program:
        assert program.wait() == 3
    *_, last = (json.loads(line) for line in program.output.splitlines())
    assert last["message"].startswith("The command ends: ")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_the_option_for_the_format_says_that_the_module_has_configured_logging(
    broker: Broker, jobs: Path
) -> None:
    (jobs / "configured.py").write_text("import logging\n" + LOGGING["basicConfig"] + "\n" + JOBS)
    command = ("-m", "n8nrunner", "run", "--log-format", "json", "configured")
    with python(*command, env=environment(broker), cwd=jobs) as program:
        assert "JsonFormatter" in program.wait_for("--log-format has no effect")
        program.wait_for("Registered")
        program.signal(signal.SIGTERM)
        assert program.wait() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_the_option_for_calls_sets_the_runner_and_not_the_environment(broker: Broker, jobs: Path) -> None:
    """Other runners and child processes would get the variable too."""
    code = """
import os
from n8nrunner import Runner
runner = Runner(log_calls=False)
runner.on("finished", lambda call: print("the module's hook", flush=True))
runner.task("variable")(lambda task: os.environ.get("N8NRUNNER_LOG_CALLS"))
"""
    (jobs / "silent.py").write_text(code)
    with python(
        "-m", "n8nrunner", "run", "--log-calls", "silent", env=environment(broker), cwd=jobs
    ) as program:
        assert broker.run_task("variable", {}, timeout=LIMIT) is None
        program.wait_for("variable: done after")
        program.wait_for("the module's hook")
        program.signal(signal.SIGTERM)
        assert program.wait() == 0


def test_two_options_for_the_level_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "-v", "--log-level", "info", "jobs"]) == 2
    assert "expected -v or --log-level, got both" in capsys.readouterr().err


def test_wrong_arguments_are_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["fly"], ["demo", "--tasks", "many"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert ended.value.code == 2
    assert cli.main(["demo", "--tasks", "0"]) == 2
    assert "1 or more" in capsys.readouterr().err


def test_help_shows_examples_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    shown = capsys.readouterr().out
    assert "n8nrunner run jobs" in shown
    assert "128 + signal" in shown


def test_the_page_about_the_commands_is_current() -> None:
    script = ROOT / "docs" / "make_commands.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
class TestBroker:
    def test_the_broker_serves_a_runner_and_stops(self, jobs: Path) -> None:
        import requests

        with python("-m", "n8nrunner", "broker", "--port", "0") as program:
            url = program.wait_for("listens at").split("listens at ")[1].split(". Start")[0]
            token = program.wait_for("N8N_RUNNERS_AUTH_TOKEN=").strip().split("=", 1)[1]
            program.wait_for("Ctrl-C")
            env = {"N8N_RUNNERS_TASK_BROKER_URI": url, "N8N_RUNNERS_AUTH_TOKEN": token}
            with run_jobs(jobs, "jobs", env) as runner:
                runner.wait_for("Registered")
                answer = requests.post(
                    f"{url}/tasks",
                    json={"taskType": "echo", "settings": {"a": 1}, "timeout": LIMIT},
                    headers={"Authorization": f"Bearer {token}"},
                    timeout=LIMIT,
                )
                assert answer.json() == {"result": {"a": 1}}
                runner.signal(signal.SIGTERM)
                assert runner.wait() == 0
            program.signal(signal.SIGINT)
            assert program.wait() == 0
            assert "Traceback" not in program.output

    def test_the_token_of_the_broker_is_not_shown_if_it_was_given(self) -> None:
        with python(
            "-m", "n8nrunner", "broker", "--port", "0", env={"N8N_RUNNERS_AUTH_TOKEN": TOKEN}
        ) as program:
            program.wait_for("Ctrl-C")
            program.signal(signal.SIGTERM)
            assert program.wait() == 0
            assert TOKEN not in program.output

    def test_an_empty_token_in_quotes_is_replaced_by_a_new_one(self) -> None:
        with python(
            "-m", "n8nrunner", "broker", "--port", "0", env={"N8N_RUNNERS_AUTH_TOKEN": '""'}
        ) as program:
            assert re.search("=[0-9a-f]{32}$", program.wait_for("N8N_RUNNERS_AUTH_TOKEN=").strip())
            program.wait_for("Ctrl-C")
            program.signal(signal.SIGTERM)
            assert program.wait() == 0

    def test_a_port_in_use_is_exit_code_2(self, broker: Broker) -> None:
        with python("-m", "n8nrunner", "broker", "--port", str(broker.port)) as program:
            assert program.wait() == 2
            assert "cannot listen" in program.output
            assert "Traceback" not in program.output


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
class TestDemo:
    def test_the_demonstration_accounts_for_every_task(self) -> None:
        with python("-m", "n8nrunner", "demo", "--tasks", "300") as program:
            assert program.wait() == 0
            rows = {
                line.split("│")[1].strip(): line.split("│")[2].strip()
                for line in program.lines
                if "│" in line
            }
            assert rows["tasks sent"] == "313"
            assert rows["answered"] == "303"
            assert rows["without any account"] == "0"
            assert "\x1b" not in program.output, "control codes in a pipe"

    @pytest.mark.parametrize(
        "moment", ["n8nrunner demo", "registered with", "progress", "a cancelled task", "killed", "is back"]
    )
    def test_the_demonstration_ends_cleanly_at_any_moment(self, moment: str) -> None:
        with python("-m", "n8nrunner", "demo") as program:
            program.wait_for(moment)
            program.signal(signal.SIGINT)
            assert program.wait() == 128 + signal.SIGINT
            assert "Traceback" not in program.output
            with pytest.raises(ProcessLookupError):
                os.killpg(program.process.pid, 0)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("./jobs.py", "Did you mean 'jobs'?"),
        ("pkg/jobs.py", "Did you mean 'pkg.jobs'?"),
        (r"pkg\jobs.py", "Did you mean 'pkg.jobs'?"),
        ("pkg/jobs.py:runner", "Did you mean 'pkg.jobs:runner'?"),
        ("my jobs.py", "expected a module"),
        ("", "expected a module"),
        (".jobs", "expected a module"),
        ("jobs.py", "Did you mean 'jobs'?"),
    ],
)
def test_a_target_that_is_not_a_module_is_named(jobs: Path, target: str, said: str) -> None:
    with python("-m", "n8nrunner", "run", target, env={"N8N_RUNNERS_AUTH_TOKEN": "x"}, cwd=jobs) as program:
        assert program.wait() == 2
        assert said in program.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "99999"], "port must be from 0 to 65535"),
        (["--port", "-1"], "port must be from 0 to 65535"),
        (["--port", "0", "--path", "/foo/"], "n8nrunner: path must not end in a slash"),
    ],
)
def test_a_broker_with_wrong_settings_is_exit_code_2(arguments: list[str], said: str) -> None:
    with python("-m", "n8nrunner", "broker", *arguments) as program:
        assert program.wait() == 2
        assert said in program.output


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_broker_with_a_path_says_where_tasks_go() -> None:
    with python("-m", "n8nrunner", "broker", "--port", "0", "--path", "/custom") as program:
        line = program.wait_for("POST")
        assert "/custom" not in line
        assert "/tasks" in line


LEADS = """
from n8nrunner import Runner

runner = Runner()

@runner.function
def score(email: str) -> int:
    "Score one lead."
    return len(email)
"""
LEADS_NODE = Path("n8n-nodes-leads", "dist", "nodes", "Leads", "Leads.node.js")


class TestNode:
    """`n8nrunner node`"""

    def run(self, tmp_path: Path, *arguments: str, module: str = LEADS, **variables: str) -> tuple[int, str]:
        (tmp_path / "leads.py").write_text(module)
        env = {"N8N_USER_FOLDER": str(tmp_path / "n8n"), **variables}
        with python("-m", "n8nrunner", "node", *arguments, cwd=tmp_path, env=env) as program:
            return program.wait(), program.output

    def test_the_out_option_writes_the_node_into_its_folder(self, tmp_path: Path) -> None:
        assert self.run(tmp_path, "leads", "--out", "build")[0] == 0
        assert "taskType: 'n8nrunner.leads'" in (tmp_path / "build" / LEADS_NODE).read_text()

    def test_the_install_option_writes_the_node_where_n8n_finds_it(self, tmp_path: Path) -> None:
        code, output = self.run(tmp_path, "leads:runner", "--install")
        assert code == 0
        assert "n8n loads the node when it starts" in output
        assert (tmp_path / "n8n" / ".n8n" / "custom" / LEADS_NODE).is_file()

    def test_installing_says_what_changed(self, tmp_path: Path) -> None:
        install = ("leads", "--install")
        folder = tmp_path / "n8n" / ".n8n" / "custom" / "n8n-nodes-leads"
        assert f"Wrote {folder}." in self.run(tmp_path, *install)[1]
        assert f"{folder} is current. Nothing was written." in self.run(tmp_path, *install)[1]
        more = LEADS + "\n@runner.function\ndef rate(email: str) -> int: ...\n"
        assert f"Wrote {folder} (new: rate)." in self.run(tmp_path, *install, module=more)[1]
        (folder / "package.json").write_text('{"n8nrunner": "an older one"}')
        assert f"Wrote {folder}." in self.run(tmp_path, *install, module=more)[1]
        reworded = LEADS.replace("Score one lead", "Rate one lead")
        _, output = self.run(tmp_path, *install, module=reworded)
        assert f"Wrote {folder} (changed: score; removed: rate)." in output

    def test_installing_says_whether_n8n_has_a_folder(self, tmp_path: Path) -> None:
        missing = f"No n8n has been started with the folder {tmp_path / 'n8n' / '.n8n'} yet"
        assert missing in self.run(tmp_path, "leads", "--install")[1]
        (tmp_path / "n8n" / ".n8n" / "config").touch()
        assert "No n8n" not in self.run(tmp_path, "leads", "--install")[1]

    def test_installing_heeds_n8n_s_list_of_folders(self, tmp_path: Path) -> None:
        folder = tmp_path / "nodes"
        _, output = self.run(tmp_path, "leads", "--install", N8N_CUSTOM_EXTENSIONS=f"/nowhere;{folder}")
        assert (folder / LEADS_NODE).is_file()
        assert "if n8n is started with the same N8N_CUSTOM_EXTENSIONS" in output

    def test_without_a_module_the_package_for_all_runners_is_installed(self, tmp_path: Path) -> None:
        folder = tmp_path / "n8n" / ".n8n" / "nodes" / "node_modules" / "n8n-nodes-n8nrunner"
        code, output = self.run(tmp_path, "--install")
        assert code == 0
        assert f"Wrote {folder}, version {__version__}." in output
        assert f"No n8n has been started with the folder {tmp_path / 'n8n' / '.n8n'} yet" in output
        assert "n8n loads the node when it starts" in output
        assert (
            f"{folder} is current (version {__version__}). Nothing was written."
            in self.run(tmp_path, "--install")[1]
        )

    def test_without_a_module_the_out_option_writes_the_package_for_all_runners(self, tmp_path: Path) -> None:
        assert self.run(tmp_path, "--out", "build")[0] == 0
        assert (tmp_path / "build" / "n8n-nodes-n8nrunner" / "package.json").is_file()

    def test_installing_over_another_version_says_which(self, tmp_path: Path) -> None:
        nodes = tmp_path / "n8n" / ".n8n" / "nodes"
        package = nodes / "node_modules" / "n8n-nodes-n8nrunner" / "package.json"
        package.parent.mkdir(parents=True)
        package.write_text('{"version": "99.0.0"}')
        (nodes / "package.json").write_text('{"dependencies": {"n8n-nodes-n8nrunner": "99.0.0"}}')
        output = self.run(tmp_path, "--install")[1]
        assert f"version {__version__} (before: 99.0.0)." in output
        assert "n8n's own list of packages has version 99.0.0 of it" in output

    @pytest.mark.skipif(sys.platform == "win32", reason="locales of POSIX")
    def test_a_path_is_printed_under_any_locale(self, tmp_path: Path) -> None:
        locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}
        code, output = self.run(tmp_path, "leads", "--out", "Gr\u00fc\u00dfe", **locale)
        assert code == 0, output
        assert "Wrote Gr" in output

    def test_the_docs_link_is_the_author_s(self, tmp_path: Path) -> None:
        page = "https://wiki.example/leads"
        assert self.run(tmp_path, "leads", "--out", "build", "--docs", page)[0] == 0
        codex = json.loads((tmp_path / "build" / LEADS_NODE).with_suffix(".json").read_text())
        assert codex["resources"] == {"primaryDocumentation": [{"url": page}]}
        code, output = self.run(tmp_path, "leads", "--out", "build", "--docs", "wiki/leads")
        assert (code, "docs_url: expected an address" in output) == (2, True)

    @pytest.mark.parametrize(
        ("arguments", "module", "said"),
        [
            (["leads"], LEADS, "one of the arguments --out --install is required"),
            (["--install", "--watch"], LEADS, "--watch is for the node of a module: name the module"),
            (["--out", "x", "--docs", "y"], LEADS, "--docs is for the node of a module"),
            (["leads", "--out", "x", "--install"], LEADS, "--install: not allowed with argument --out"),
            (["nothing", "--install"], LEADS, "no module 'nothing'"),
            (["leads", "--install"], LEADS.replace("email: str", "email: bytes"), "parameter 'email': bytes"),
            (["leads", "--install"], LEADS.replace("@runner.function", ""), "has no function"),
            (
                ["leads", "--install"],
                LEADS.replace("Runner()", "Runner(name='My Leads')"),
                "its own name",
            ),
        ],
    )
    def test_a_node_that_cannot_be_written_is_exit_code_2(
        self, tmp_path: Path, arguments: list[str], module: str, said: str
    ) -> None:
        code, output = self.run(tmp_path, *arguments, module=module)
        assert code == 2
        assert said in output
        assert "Traceback" not in output

    def test_a_folder_that_cannot_be_written_is_exit_code_1(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        code, output = self.run(tmp_path, "leads", "--out", "file")
        assert code == 1
        assert "Traceback" not in output

    def test_watch_passes_its_options_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        commands: list[list[str]] = []
        monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
        monkeypatch.setattr(watchfiles, "watch", lambda *folders, **options: [])
        arguments = ["leads", "--install", "--docs", "https://docs.test", "-v", "-v"]
        assert cli.main(["node", "--watch", *arguments]) == 0
        assert commands == [[sys.executable, "-m", "n8nrunner", "node", *arguments]]

    @pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
    def test_watch_writes_the_node_again_when_the_module_changes(self, tmp_path: Path) -> None:
        (tmp_path / "leads.py").write_text(LEADS)
        arguments = ["leads", "--out", "build", "--watch"]
        with python("-m", "n8nrunner", "node", *arguments, cwd=tmp_path) as program:
            program.wait_for("Wrote")
            program.wait_for("Watching")
            (tmp_path / "leads.py").write_text(LEADS.replace("def score", "def rate"))
            program.wait_for("Wrote")
            assert "operation: ['rate']" in (tmp_path / "build" / LEADS_NODE).read_text()
            (tmp_path / "leads.py").write_text("import nothing_of_this_name")
            program.wait_for("nothing_of_this_name")
            program.signal(signal.SIGINT)
            assert program.wait() == 0
        assert "KeyboardInterrupt" not in program.output

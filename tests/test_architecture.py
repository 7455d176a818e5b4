"""The rules of docs/architecture.md, checked on the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import n8nrunner
from n8nrunner.protocol.failures import LinkFailure

PACKAGE = Path(n8nrunner.__file__).parent

#: From the ground up; imports go down, or sideways within one layer's folder.
LAYERS: dict[str, int] = {
    "_version": 0,
    "_pyinstaller": 0,
    "errors": 0,
    "deadline": 0,
    "formatters": 0,
    "logs": 0,
    "task_types": 0,
    "units": 0,
    "protocol": 1,
    "config": 2,
    "task": 2,
    "snapshot": 2,
    "overview": 2,
    "hooks": 2,
    "call_log": 3,
    "connection": 3,
    "execution": 3,
    "functions": 3,
    "health": 3,
    "metrics": 3,
    "status": 3,
    "broker": 3,
    "card": 3,
    "process": 3,
    "reimports": 3,
    "lifecycle": 3,
    "registry": 3,
    "record": 3,
    "exit_hook": 4,
    "callbacks": 4,
    "check": 4,
    "notebook": 4,
    "engine": 4,
    "runner": 5,
    "cli": 6,
    "demo": 6,
    "otel": 6,
    "reloading": 6,
    "pytest_plugin": 6,
    "target": 6,
    "testing": 6,
}

#: The modules that may import a neighbour of their own layer.
SIDEWAYS = {
    ("deadline", "errors"),
    ("logs", "formatters"),
    ("snapshot", "overview"),
    ("overview", "snapshot"),
    ("hooks", "snapshot"),
    ("hooks", "task"),
    ("task", "hooks"),  # a type
    ("connection", "execution"),
    ("connection", "record"),
    ("execution", "process"),
    ("functions", "execution"),
    ("record", "execution"),
    ("health", "metrics"),
    ("health", "status"),
    ("registry", "execution"),
    ("registry", "functions"),
    ("engine", "callbacks"),
    ("engine", "exit_hook"),
    ("cli", "demo"),
    ("cli", "target"),
    ("cli", "reloading"),
    ("reloading", "target"),
    ("cli", "testing"),
    ("pytest_plugin", "testing"),
    ("testing", "target"),
}

#: The modules of the broker that are as pure as protocol/: they decide, the others do I/O.
PURE_BROKER = {
    f"broker/{name}"
    for name in (
        "access", "actions", "behaviour", "constants", "counts", "decoding", "events", "javascript",
        "matching", "records", "task_data", "timers", "wording",
    )
}  # fmt: skip

#: The modules of the command `check` that name causes and render them.
PURE_CHECK = {"check/causes", "check/facts", "check/report"}

#: A pure module may not do I/O, start a thread, read a clock or draw a random number.
IMPURE = {
    "asyncio", "backoff", "logging", "multiprocessing", "os", "random", "requests", "secrets", "select",
    "selectors", "socket", "ssl", "subprocess", "threading", "time", "uuid", "websocket",
}  # fmt: skip


def _modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).with_suffix("").as_posix(), path


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            if node.module == "n8nrunner":
                found.update(f"n8nrunner.{alias.name}" for alias in node.names)
    return found


def _part(module: str) -> str:
    return module.split("/")[0]


@pytest.mark.parametrize(("module", "path"), [m for m in _modules() if m[0] not in ("__init__", "__main__")])
def test_imports_go_down(module: str, path: Path) -> None:
    part = _part(module)
    wrong: list[str] = []
    for name in _imports(path):
        words = name.split(".")
        if words[0] != "n8nrunner" or len(words) == 1:
            continue
        other = words[1]
        if other == part or other not in LAYERS:
            continue  # the same folder; or a public name of the package
        if LAYERS[other] >= LAYERS[part] and (part, other) not in SIDEWAYS:
            wrong.append(name)
    assert not wrong, f"{module} imports {wrong}, which is not below it"


def test_every_module_has_its_layer() -> None:
    parts = {_part(module) for module, _ in _modules()} - {"__init__", "__main__"}
    assert parts == set(LAYERS)


PURE = [m for m in _modules() if m[0].startswith("protocol/") or m[0] in PURE_BROKER | PURE_CHECK]


@pytest.mark.parametrize(("module", "path"), PURE)
def test_the_protocol_is_pure(module: str, path: Path) -> None:
    assert not {name.split(".")[0] for name in _imports(path)} & IMPURE


#: Modules that do the I/O of links and of the embedded broker. They perform actions and post events.
IO = [m for m in _modules() if m[0].startswith(("connection/", "broker/")) and m not in PURE]

MOMENT = "computes or compares a moment"
STATUS = "chooses a failure by a status"
COUNT = "counts outcomes"

#: The exceptions. The loop waits until the first deadline, so it compares moments, but does not choose them.
#: HTTP clients turn a status into a class of failure; `Retry` decides what follows.
MAY_DECIDE = {
    ("connection/loop", MOMENT),
    ("connection/auth", STATUS),
    ("connection/dial", STATUS),
    ("connection/websocket_app", STATUS),
}


#: Attributes that say how a task, or a call of a function, has ended.
OUTCOMES = {"accepted", "done", "failed", "lost", "rejected", "retried"}


def _names(node: ast.AST) -> set[str]:
    """Return the names and attributes in an expression."""
    return {
        found.attr if isinstance(found, ast.Attribute) else found.id
        for found in ast.walk(node)
        if isinstance(found, (ast.Attribute, ast.Name))
    }


def _decisions(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the kind of each decision that belongs to a state machine."""
    failures = {kind.__name__ for kind in LinkFailure.__subclasses__()}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Compare, ast.BinOp)):
            operands = [node.left, *(node.comparators if isinstance(node, ast.Compare) else [node.right])]
            if any(isinstance(operand, ast.Name) and operand.id == "now" for operand in operands):
                yield node.lineno, MOMENT
        if isinstance(node, ast.Compare):
            if any(isinstance(part, ast.Attribute) and part.attr == "state" for part in ast.walk(node)):
                yield node.lineno, "asks for a state"
            if _names(node) & failures:
                yield node.lineno, "chooses by the kind of a failure"
        if isinstance(node, ast.If) and any("status" in name for name in _names(node.test)):
            for raised in (part for line in node.body for part in ast.walk(line)):
                if isinstance(raised, (ast.Raise, ast.Return)) and _names(raised) & failures:
                    yield raised.lineno, STATUS
        if (
            isinstance(node, (ast.BinOp, ast.AugAssign))
            and isinstance(node.op, ast.Add)
            and any(isinstance(part, ast.Attribute) and part.attr in OUTCOMES for part in ast.walk(node))
        ):
            yield node.lineno, COUNT
        if isinstance(node, ast.Call) and _names(node.func) == {"isinstance"} and _names(node) & failures:
            yield node.lineno, "chooses by the kind of a failure"
        if isinstance(node, (ast.Attribute, ast.Name)) and _names(node) & {"SessionState", "LinkState"}:
            yield node.lineno, "uses the states of a machine"


@pytest.mark.parametrize(("module", "path"), IO)
def test_io_decides_nothing(module: str, path: Path) -> None:
    found = set(_decisions(path.read_text(encoding="utf-8")))
    allowed = {kind for name, kind in MAY_DECIDE if name == module}
    wrong = sorted(decision for decision in found if decision[1] not in allowed)
    assert not wrong, f"{module} decides something, which belongs to a pure machine: {wrong}"
    assert allowed <= {kind for _, kind in found}, "an exception that is not needed any more"


@pytest.mark.parametrize(
    "source",
    [
        "if now >= self._next_at: self._attempt()",
        "self._close_limit = now + CLOSE_WAIT",
        "if self._session.state is state.DISCONNECTED: self._wait()",
        "shown = _SHOWN[SessionState.OFFERING]",
        "if isinstance(reason, ConnectionLost): return Decision(None)",
        "if type(reason) is AuthRefused: self._give_up()",
        "if answer.status == 403: raise AuthRefused(text)",
        "if status >= 500:\n    if is_json: return Unreachable(text)",
        "self.done += tally.done",
        "failures = failures + answer.failed",
    ],
)
def test_the_rule_for_io_finds_a_decision(source: str) -> None:
    assert list(_decisions(source))


#: Names that begin with an underscore and are documented, and one that only an annotation uses.
DOCUMENTED = {
    "_field_defaults", "_fields", "_repr_mimebundle_", "argparse._SubParsersAction", "os._exit",
    "sys._current_frames", "sys._getframe",
}  # fmt: skip


def _internals(source: str) -> Iterator[str]:
    """Yield private names of Python and its libraries that a module uses, and texts of their errors."""
    tree = ast.parse(source)
    modules = {
        alias.asname or alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr):
            root = ast.unparse(node.value)
            if root.split(".")[0] in modules:
                yield f"{root}.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("n8nrunner"):
            yield from (alias.name for alias in node.names if re.match("_[^_]", alias.name))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "str(error).startswith":
            yield ast.literal_eval(node.args[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and re.match("_[^_]", str(name.value)):
                yield str(name.value)


def test_the_page_names_the_internals_of_python_that_the_source_uses() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.split("## Internals of libraries")[1].split("\n## ")[0]
    used = {name for _, path in _modules() for name in _internals(path.read_text(encoding="utf-8"))}
    assert sorted(name for name in used - DOCUMENTED if name not in section) == []
    assert used >= DOCUMENTED


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import threading\nthreading._shutdown()", "threading._shutdown"),
        ("getattr(executor, '_max_workers', None)", "_max_workers"),
        ("from json.decoder import _decode", "_decode"),
        ("str(error).startswith('cannot schedule')", "cannot schedule"),
    ],
)
def test_an_internal_is_found(source: str, name: str) -> None:
    assert list(_internals(source)) == [name]


#: Functions of `logging` that make a record or an unguarded logger.
UNGUARDED = {
    "LoggerAdapter", "critical", "debug", "error", "exception", "getLogger", "info", "log", "warning",
}  # fmt: skip


@pytest.mark.parametrize(("module", "path"), [m for m in _modules() if m[0] != "logs"])
def test_only_the_guarded_logger_logs(module: str, path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "logging"
        ):
            assert node.attr not in UNGUARDED, f"{module}, line {node.lineno}: use n8nrunner.logs"
        elif isinstance(node, ast.ImportFrom):
            assert node.module != "logging", f"{module}, line {node.lineno}: use n8nrunner.logs"


#: Modules that a program loads only when it needs them: the dependencies, those of all extras, and slow ones.
LATE = {
    "IPython", "aiohttp", "backoff", "distributed", "docstring_parser", "http.server", "ipywidgets",
    "opentelemetry", "prometheus_client", "pytest", "requests", "rich", "ssl", "watchfiles", "websocket",
}  # fmt: skip


@pytest.mark.parametrize(
    "code",
    ["import n8nrunner", "from n8nrunner import Runner; Runner(auth_token='x', log_calls=True).snapshot()"],
)
def test_a_runner_that_is_not_started_imports_no_dependency(code: str) -> None:
    code = f"import sys; {code}; print(sorted(set(sys.modules) & {LATE}))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_runner_without_functions_does_not_import_their_package() -> None:
    code = (
        "import sys; import n8nrunner.connection.loop; from n8nrunner.engine import Engine; "
        "from n8nrunner.registry import Registry; registry = Registry('sales'); registry.connect(print); "
        "registry.add_task('type', print, None); "
        "print(sorted(name for name in sys.modules if name.startswith('n8nrunner.functions')))"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.splitlines()[-1] == "[]"


def test_the_public_names_are_the_documented_ones() -> None:
    for name in n8nrunner.__all__:
        assert getattr(n8nrunner, name) is not None
    assert set(n8nrunner._MODULES) < set(n8nrunner.__all__)
    assert n8nrunner.__all__ == sorted(n8nrunner.__all__)
    namespace: dict[str, object] = {}
    exec("from n8nrunner import *", namespace)
    assert set(n8nrunner.__all__) - {"__version__"} <= set(namespace)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        n8nrunner.nothing  # noqa: B018

"""A runner in a notebook, with stand-ins for the kernel and for ipywidgets."""

from __future__ import annotations

import contextvars
import gc
import queue
import sys
import threading
import types
import weakref
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from n8nrunner import Runner, notebook, testing
from n8nrunner.broker import Broker
from tests.conftest import LIMIT, wait_until
from tests.example_snapshots import link, snapshot

NewRunner = Callable[..., Runner]
WIDGET = "application/vnd.jupyter.widget-view+json"


class Events:
    """IPython's events."""

    def __init__(self) -> None:
        self.registered: dict[str, Callable[[], None]] = {}

    def register(self, name: str, function: Callable[[], None]) -> None:
        self.registered[name] = function


class Widget:
    """A widget of ipywidgets."""

    def __init__(self, children: Any = (), **options: Any) -> None:
        self.children = children
        self.layout = options.get("layout")
        self.value = ""
        self.clicked: Any = None
        self.is_closed = False

    def on_click(self, function: Any) -> None:
        self.clicked = function

    def close(self) -> None:
        self.is_closed = True

    def add_class(self, name: str) -> None:
        assert name == "n8nrunner-card"

    def _repr_mimebundle_(self) -> dict[str, Any]:
        shown.append(self)
        return {WIDGET: {"model_id": str(len(shown))}}


shown: list[Widget] = []


def text_of(box: Widget) -> str:
    return "".join(child.value for child in box.children)


def is_refreshing() -> bool:
    return any(thread.name == "n8nrunner-card" for thread in threading.enumerate())


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A kernel of Jupyter."""
    shell = types.SimpleNamespace(kernel=object(), events=Events())
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: shell  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.setattr(notebook, "_live", None)
    return shell


@pytest.fixture
def widgets(shell: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Widget]]:
    """The package ipywidgets. Return the cards that a notebook shows."""
    module = types.ModuleType("ipywidgets")
    for name in ("HTML", "Button", "VBox", "Layout"):
        setattr(module, name, Widget)
    monkeypatch.setitem(sys.modules, "ipywidgets", module)
    monkeypatch.setattr(notebook, "PERIOD", 0.01)
    shown.clear()
    yield shown
    monkeypatch.setattr(notebook, "PATIENCE", 0.0)  # ends the thread


def test_outside_of_a_notebook_start_prints_nothing(
    new_runner: NewRunner, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = new_runner(name="quiet")
    runner.task("any")(lambda task: None)
    terminal = types.ModuleType("IPython")
    terminal.get_ipython = lambda: types.SimpleNamespace()  # type: ignore[attr-defined]
    for module in (None, terminal):
        monkeypatch.setitem(sys.modules, "IPython", module)
        runner.start()
    assert capsys.readouterr().out == ""


def test_in_a_notebook_start_prints_one_line(
    new_runner: NewRunner, broker: Broker, capsys: pytest.CaptureFixture[str], shell: Any
) -> None:
    runner = new_runner(name="prices")

    @runner.function
    def quote_fruit(fruit: str) -> str:
        return fruit

    runner.start()
    assert capsys.readouterr().out == (
        f'Connected to n8n at {broker.url}. In n8n, add the node "Python Function", and choose the runner '
        "prices and its function Quote Fruit.\n"
    )


def test_in_a_notebook_a_runner_that_is_tested_prints_nothing(
    capsys: pytest.CaptureFixture[str], shell: Any
) -> None:
    runner = Runner(name="prices")
    runner.function(name="quote")(lambda: 1)
    with testing.serve(runner) as n8n:
        n8n.call("quote")
    assert capsys.readouterr().out == ""


class BrokenOutput:
    def write(self, text: str) -> int:
        raise BrokenPipeError("the kernel's connection is closed")


def raising_shell() -> None:
    raise ValueError("IPython fails")


@pytest.mark.parametrize("fault", ["half imported", "failing", "without an output"])
def test_a_start_that_a_notebook_cannot_show_does_not_raise(
    new_runner: NewRunner, shell: Any, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    runner = new_runner(name="prices")
    runner.task("any")(lambda task: None)
    if fault == "half imported":
        monkeypatch.delattr(sys.modules["IPython"], "get_ipython")
    elif fault == "failing":
        monkeypatch.setattr(sys.modules["IPython"], "get_ipython", raising_shell)
    else:
        monkeypatch.setattr(sys, "stdout", BrokenOutput())
    runner.start()
    assert runner.is_registered


def test_functions_and_hooks_run_in_the_context_of_the_cell_that_called_start_last(
    new_runner: NewRunner, broker: Broker, shell: Any
) -> None:
    """Below this cell, ipykernel shows what they print."""
    cell = contextvars.ContextVar[str]("cell")
    seen: queue.SimpleQueue[str] = queue.SimpleQueue()
    runner = new_runner(name="prices")
    runner.on("registered", lambda event: seen.put(cell.get()))
    runner.task("cell")(lambda task: cell.get())
    cell.set("first")
    runner.start()
    assert seen.get(timeout=LIMIT) == "first"
    cell.set("second")
    runner.start()
    broker.stop()
    broker.start()
    assert seen.get(timeout=LIMIT) == "second"
    assert broker.run_task("cell", {}, timeout=LIMIT) == "second"


@pytest.mark.parametrize(
    ("functions", "changes", "says"),
    [
        (["quote", "train"], {}, "choose the runner tests and a function, such as Quote."),
        (
            [],
            {},
            "Connected to n8n at http://n8n:5679. The runner takes tasks of the type quote, train, resize.",
        ),
        ([], {"functions": ()}, "The runner has no function yet: run a cell with @runner.function."),
        (
            ["quote"],
            {"links": (link(), link("waiting", "http://other:5679"))},
            "Connected to n8n at http://n8n:5679. Connecting to n8n at http://other:5679. In n8n, add",
        ),
        (["quote"], {"links": (link("waiting"),)}, "Connecting to n8n at http://n8n:5679. In n8n, add"),
    ],
)
def test_the_line_of_start_names_the_next_step(functions: list[str], changes: Any, says: str) -> None:
    line = notebook.next_step(snapshot(**changes), functions)
    assert says in line
    assert "\n" not in line


def test_a_terminal_shows_a_runner_as_text(new_runner: NewRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert set(new_runner()._repr_mimebundle_()) == {"text/plain"}


def test_without_ipywidgets_a_notebook_shows_html_that_does_not_change(
    new_runner: NewRunner, shell: Any
) -> None:
    bundle = new_runner(name="prices")._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    assert 'pip install "n8nrunner[notebook]"' in bundle["text/html"]
    assert "Not started" in bundle["text/html"]


def test_a_card_is_refreshed_until_the_runner_stops_and_again_after_its_next_start(
    new_runner: NewRunner, broker: Broker, widgets: list[Widget]
) -> None:
    runner = new_runner(name="prices")
    runner.task("double")(lambda task: 2 * task.settings["n"])
    assert WIDGET in runner._repr_mimebundle_()
    (box,) = widgets
    assert "Not started" in text_of(box)
    assert not is_refreshing()
    runner.start()
    wait_until(lambda: "Ready" in text_of(box))
    assert broker.run_task("double", {"n": 2}, timeout=LIMIT) == 4
    wait_until(lambda: "· 1 call ·" in text_of(box))
    wait_until(lambda: "a second" in text_of(box))
    runner.stop()
    wait_until(lambda: not is_refreshing())
    assert "Stopped" in text_of(box)
    assert "n8nrunner-heart" not in text_of(box)  # the browser sends no more signs
    runner.start()
    wait_until(lambda: "Ready" in text_of(box))


def test_a_card_that_is_not_seen_any_more_is_not_refreshed(
    new_runner: NewRunner, widgets: list[Widget], monkeypatch: pytest.MonkeyPatch, shell: Any
) -> None:
    runner = new_runner(name="prices")
    runner.task("any")(lambda task: None)
    runner.start()
    runner._repr_mimebundle_()
    box = widgets[0]
    assert is_refreshing()
    shell.events.registered["pre_execute"]()
    monkeypatch.setattr(notebook, "PATIENCE", 0.0)
    threading.Event().wait(0.1)  # while a cell runs, the kernel learns nothing, so the card stays alive
    assert is_refreshing()
    shell.events.registered["post_execute"]()
    wait_until(lambda: not is_refreshing())
    monkeypatch.setattr(notebook, "PATIENCE", LIMIT)
    (button,) = [child for child in box.children if child.clicked is not None]
    button.clicked(button)  # as the browser does when the card is shown again
    assert is_refreshing()


def test_a_card_whose_widgets_fail_ends_the_refreshing(new_runner: NewRunner, widgets: list[Widget]) -> None:
    runner = new_runner(name="prices")
    runner.task("any")(lambda task: None)
    runner.start()
    runner._repr_mimebundle_()

    class Closed:
        @property
        def value(self) -> str:
            raise OSError("the kernel's connection is closed")

    assert notebook._live is not None
    for known in notebook._live._cards:
        known._parts["head"] = Closed()
    wait_until(lambda: not is_refreshing())


def test_a_card_does_not_keep_its_runner_and_is_closed_at_the_next_card(
    new_runner: NewRunner, widgets: list[Widget]
) -> None:
    earlier = Runner(name="earlier", auth_token="t")
    earlier._repr_mimebundle_()
    ref = weakref.ref(earlier)
    del earlier
    gc.collect()
    assert ref() is None
    new_runner(name="later")._repr_mimebundle_()
    assert [(box.is_closed, {part.is_closed for part in box.children}) for box in widgets] == [
        (True, {True}),
        (False, {False}),
    ]


def test_the_cards_that_were_seen_last_are_kept(
    new_runner: NewRunner, widgets: list[Widget], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebook, "_MOST_CARDS", 2)
    runner = new_runner(name="prices")
    for _ in range(2):
        runner._repr_mimebundle_()
    (button,) = [child for child in widgets[0].children if child.clicked is not None]
    button.clicked(button)
    runner._repr_mimebundle_()
    assert [box.is_closed for box in widgets] == [False, True, False]


def test_a_card_is_refreshed_when_its_thread_can_be_started_again(
    new_runner: NewRunner, widgets: list[Widget], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = new_runner(name="prices")
    runner.task("any")(lambda task: None)
    runner.start()

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert WIDGET in runner._repr_mimebundle_()
    assert not is_refreshing()
    (button,) = [child for child in widgets[0].children if child.clicked is not None]
    button.clicked(button)
    assert is_refreshing()

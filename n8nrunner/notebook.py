"""A runner in a notebook: its card, which refreshes itself, and the line that `Runner.start` prints.

With ipywidgets, one thread of the process refreshes all cards that are seen. A card in the browser tells the
kernel every few seconds that it is seen, by the click of a hidden button: the kernel does not learn otherwise
that an output was deleted, that its tab is hidden, or that the page was closed. The thread ends when no card
is left: they are not seen any more, or their runners have ended.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any, Callable, Protocol

from n8nrunner import card
from n8nrunner.functions.labels import title_of
from n8nrunner.logs import logger
from n8nrunner.snapshot import Snapshot

#: Seconds from one refreshment of the cards to the next: two a second, with some room for a late one.
PERIOD = 0.48
#: Seconds from one sign of a card in the browser to the next.
BEAT = 4
#: Seconds without a sign after which a card is not refreshed any more.
PATIENCE = 15.0
#: Seconds over which a rate is taken.
_WINDOW = 10.0
#: The number of cards that are kept. ipywidgets keeps each widget, some 26 of a card, until it is closed.
_MOST_CARDS = 20

_ALIVE = ("running", "stopping")
_WIDGET = "application/vnd.jupyter.widget-view+json"

# A browser fires the event only while it shows the element.
_HEART = f"""<style>
@keyframes n8nrunner-beat {{ to {{ outline-color: transparent }} }}
.n8nrunner-heart {{ display: block; height: 0; animation: n8nrunner-beat {BEAT}s infinite; }}
</style><i class="n8nrunner-heart" \
onanimationiteration="this.closest('.{card.CLASS}').querySelector('button').click()"></i>"""


class Shown(Protocol):
    """The part of a runner that is shown."""

    @property
    def state(self) -> str: ...

    @property
    def is_registered(self) -> bool: ...

    @property
    def functions(self) -> Mapping[str, Any]: ...

    def snapshot(self) -> Snapshot: ...


def shell_of_kernel() -> Any:
    """Return IPython's shell if this process is the kernel of a notebook, otherwise None."""
    ipython = sys.modules.get("IPython")  # which a kernel has imported
    get_shell = getattr(ipython, "get_ipython", None)  # missing while another thread imports IPython
    shell = None if get_shell is None else get_shell()
    return shell if getattr(shell, "kernel", None) is not None else None


def note_start(runner: Shown) -> bool:
    """In a notebook, print how to call the runner from n8n, and refresh its cards again.

    The runner runs already, so an error is only logged, such as of a closed standard output.

    Returns:
        Whether this process is the kernel of a notebook.
    """
    is_kernel = False
    try:
        is_kernel = shell_of_kernel() is not None
        if is_kernel:
            if _live is not None:
                _live.resume(runner)
            print(next_step(runner.snapshot(), runner.functions))  # noqa: T201 - the cell's output
    except Exception:  # noqa: BLE001 - of IPython, or of what has replaced the standard output
        logger.debug("The notebook does not show the start of the runner", exc_info=True)
    return is_kernel


def next_step(snapshot: Snapshot, functions: Collection[str]) -> str:
    """Return a line for the cell that has started a runner: what to do next in n8n."""
    here = [link.broker for link in snapshot.links if link.state in ("registered", "paused")]
    away = [link.broker for link in snapshot.links if link.broker not in here]
    begin = " ".join(
        f"{word} to n8n at {', '.join(brokers)}."
        for word, brokers in (("Connected", here), ("Connecting", away))
        if brokers
    )
    if functions:
        first = title_of(next(iter(functions)))
        which = f"its function {first}" if len(functions) == 1 else f"a function, such as {first}"
        node = 'add the node "Python Function"'
        return f"{begin} In n8n, {node}, and choose the runner {snapshot.name} and {which}."
    types = [function.name for function in snapshot.functions]
    if types:
        return f"{begin} The runner takes tasks of the type {', '.join(types)}."
    return f"{begin} The runner has no function yet: run a cell with @runner.function."


def bundle_of(runner: Shown) -> dict[str, Any]:
    """Return a runner for the display of a notebook, in several forms; the notebook shows the best one."""
    snapshot = runner.snapshot()
    bundle: dict[str, Any] = {"text/plain": repr(snapshot)}
    shell = shell_of_kernel()
    if shell is None:
        return bundle  # a terminal
    widgets = _widgets()
    if widgets is None:
        note = (
            "Run the cell again for newer data. The card refreshes itself with ipywidgets: "
            '<code>pip install "n8nrunner[notebook]"</code>'
        )
        return {**bundle, "text/html": card.render(snapshot, note)}
    bundle["text/html"] = card.render(snapshot, "Run the cell again for newer data.")
    view = _live_cards(shell).show(runner, widgets)
    return {**bundle, _WIDGET: view}


def _widgets() -> Any:
    """Return the package ipywidgets, of version 8 or later; None if it is missing."""
    try:
        module = importlib.import_module("ipywidgets")
    except ImportError:
        return None
    return module if hasattr(module.HTML, "_repr_mimebundle_") else None


class _Card:
    """The card of a runner in one output of a notebook, with widgets of the package `widgets`."""

    def __init__(self, runner: Shown, widgets: Any, on_beat: Callable[[_Card], None]) -> None:
        # Weak, because ipywidgets keeps what a widget refers to.
        self.runner = weakref.ref(runner)
        #: when the browser has last shown the card, by the monotonic clock.
        self.seen = time.monotonic()
        self._samples: deque[tuple[float, dict[Any, int]]] = deque()
        self._parts = {name: widgets.HTML() for name in card.SECTIONS}
        self._heart = widgets.HTML()
        button = widgets.Button(layout=widgets.Layout(display="none"))
        button.on_click(lambda _: on_beat(self))
        self.box = widgets.VBox([widgets.HTML(card.style()), *self._parts.values(), self._heart, button])
        self.box.add_class(card.CLASS)

    def refresh(self) -> bool:
        """Show the runner as it is now. Return whether there will be something new."""
        runner = self.runner()
        if runner is None:
            return False
        snapshot = runner.snapshot()
        is_alive = snapshot.state in _ALIVE
        rates = self._rates(snapshot) if is_alive else {}
        for name, html in card.sections(snapshot, rates).items():
            if self._parts[name].value != html:
                self._parts[name].value = html
        heart = _HEART if is_alive else ""
        if self._heart.value != heart:
            self._heart.value = heart
        return is_alive

    def close(self) -> None:
        """Free the widgets. A browser that still shows the card removes it."""
        for widget in (self.box, *self.box.children):
            for part in (getattr(widget, "style", None), widget.layout, widget):
                if part is not None:
                    part.close()

    def _rates(self, snapshot: Snapshot) -> dict[tuple[str, str], float]:
        """Return the calls per second of each function over the last seconds."""
        calls = {(function.kind, function.name): function.calls for function in snapshot.functions}
        if self._samples and any(calls.get(key, 0) < count for key, count in self._samples[-1][1].items()):
            self._samples.clear()  # the runner has started again
        self._samples.append((snapshot.at, calls))
        while self._samples[0][0] < snapshot.at - _WINDOW:
            self._samples.popleft()
        at, before = self._samples[0]
        if snapshot.at - at < PERIOD / 2:
            return {}
        return {key: (count - before.get(key, 0)) / (snapshot.at - at) for key, count in calls.items()}


class _LiveCards:
    """All cards of a process, and the thread that refreshes them while there are any to refresh.

    The lock guards `_cards`, `_active` and `_thread`. No widget is used under it.
    """

    def __init__(self, shell: Any) -> None:
        self._lock = threading.Lock()
        #: the cards that are not closed; the one that has given its last sign first comes first.
        self._cards: list[_Card] = []
        self._active: list[_Card] = []
        self._thread: threading.Thread | None = None
        # While a cell runs, the kernel does not read what the browser sends.
        self._is_busy = False
        shell.events.register("pre_execute", self._note_begin)
        shell.events.register("post_execute", self._note_end)

    def show(self, runner: Shown, widgets: Any) -> Any:
        """Make a card that refreshes itself, and return its reference for the browser."""
        made = _Card(runner, widgets, self._beat)
        self._keep(made)
        if made.refresh():
            self._activate(made)
        return made.box._repr_mimebundle_()[_WIDGET]

    def resume(self, runner: Shown) -> None:
        """Refresh the cards of a runner that has started again."""
        with self._lock:
            cards = list(self._cards)
        for known in cards:
            if known.runner() is runner:
                known.seen = time.monotonic()
                self._activate(known)

    def _keep(self, made: _Card) -> None:
        """Keep a card, and close those whose runner does not exist any more, or that are too many."""
        with self._lock:
            kept = [each for each in self._cards if each.runner() is not None]
            kept = [*kept, made][-_MOST_CARDS:]
            closed = [each for each in self._cards if each not in kept]
            self._cards = kept
            self._active = [each for each in self._active if each not in closed]
        for each in closed:
            with contextlib.suppress(Exception):  # of the widgets, such as after a closed connection
                each.close()

    def _activate(self, made: _Card) -> None:
        with self._lock:
            if made in self._active:
                return
            self._active.append(made)
            if self._thread is not None:
                return
            thread = self._thread = threading.Thread(target=self._run, name="n8nrunner-card", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            logger.warning("The card in the notebook is not refreshed for now: %s", error)
            with self._lock:
                self._active, self._thread = [], None  # the next sign of a card tries again

    def _beat(self, made: _Card) -> None:
        """Note that a card is seen. Thread: the kernel's main thread."""
        made.seen = time.monotonic()
        with self._lock:
            if made in self._cards:
                self._cards.remove(made)
                self._cards.append(made)
        self._activate(made)

    def _note_begin(self) -> None:
        self._is_busy = True

    def _note_end(self) -> None:
        self._is_busy = False
        with self._lock:
            for known in self._cards:
                known.seen = time.monotonic()

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            # Without the moment that is due, each wait for the interpreter's lock would add to the period.
            due = max(due + PERIOD, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
            with self._lock:
                cards = list(self._active)
            ended = {each for each in cards if not self._refresh(each)}
            with self._lock:
                self._active = [each for each in self._active if each not in ended]
                if not self._active:
                    self._thread = None
                    return

    def _refresh(self, made: _Card) -> bool:
        """Refresh a card, and return whether it is to be refreshed again."""
        try:
            is_seen = self._is_busy or time.monotonic() - made.seen < PATIENCE
            return is_seen and made.refresh()
        except Exception:  # noqa: BLE001 - of the widgets, such as after a closed connection
            logger.debug("A card in the notebook is not refreshed any more", exc_info=True)
            return False


_live: _LiveCards | None = None


def _live_cards(shell: Any) -> _LiveCards:
    """Return the cards of this process. Thread: the kernel's main thread."""
    global _live
    if _live is None:
        _live = _LiveCards(shell)
    return _live

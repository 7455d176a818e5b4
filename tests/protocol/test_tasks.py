"""Tasks from the acceptance to the answer, and their deadlines."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from n8nrunner.protocol.tasks import SETTINGS_TIMEOUT, Counters, Tasks, remove_due, timeout_message
from n8nrunner.snapshot import Counts

NEVER = float("inf")
NOW = 1000.0
TIMEOUT = 60.0


def ids(tasks: Iterable[tuple[str, object]]) -> list[str]:
    return [task_id for task_id, _ in tasks]


def with_tasks(accepted: str = "", running: str = "") -> Tasks:
    """A task for each letter, a second apart from each other, the accepted ones first."""
    tasks = Tasks(TIMEOUT)
    moment = NOW
    for task_id in accepted + running:
        tasks.accept(task_id, "t", moment)
        if task_id in running:
            tasks.start(task_id, moment)
        moment += 1
    return tasks


def test_the_broker_gives_its_requester_less_time_for_the_settings() -> None:
    assert 10 <= SETTINGS_TIMEOUT <= 30


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (300.0, "Task execution timed out after 300 seconds"),
        (1, "Task execution timed out after 1 second"),
        (1.0, "Task execution timed out after 1 second"),
        (0.5, "Task execution timed out after 0.5 seconds"),
    ],
)
def test_a_timeout_has_n8ns_own_sentence(seconds: float, text: str) -> None:
    assert timeout_message(seconds) == text


def test_counters_begin_at_0() -> None:
    counters = Counters()
    assert [getattr(counters, name) for name in Counts._fields] == [0] * 10


def test_an_accepted_task_waits_for_its_settings() -> None:
    tasks = Tasks(TIMEOUT)
    assert tasks.accept("x", "type", NOW) == NOW + SETTINGS_TIMEOUT
    assert tasks.accepted == {"x": ("type", NOW + SETTINGS_TIMEOUT)}
    assert tasks.running == {}


def test_a_started_task_has_its_time_limit() -> None:
    tasks = Tasks(TIMEOUT)
    tasks.accept("x", "type", NOW)
    assert tasks.start("x", NOW + 5) == ("type", NOW + 5 + TIMEOUT, TIMEOUT)
    assert tasks.accepted == {}
    assert tasks.running == {"x": ("type", NOW + 5 + TIMEOUT, TIMEOUT)}


@pytest.mark.parametrize("task_id", ["r", "unknown"])
def test_only_an_accepted_task_starts(task_id: str) -> None:
    assert with_tasks(accepted="a", running="r").start(task_id, NOW) is None


@pytest.mark.parametrize(("task_id", "known"), [("a", True), ("r", True), ("unknown", False)])
def test_a_task_is_known_until_it_is_removed(task_id: str, known: bool) -> None:
    tasks = with_tasks(accepted="a", running="r")
    assert (task_id in tasks) is known
    tasks.remove_all()
    assert task_id not in tasks


@pytest.mark.parametrize(
    ("accepted", "running", "deadline"),
    [
        ("", "", NEVER),
        ("ab", "", NOW + SETTINGS_TIMEOUT),
        ("", "rs", NOW + TIMEOUT),
        ("a", "r", NOW + SETTINGS_TIMEOUT),
    ],
)
def test_the_first_deadline_counts(accepted: str, running: str, deadline: float) -> None:
    assert with_tasks(accepted, running).next_deadline() == deadline


def test_the_deadline_of_a_running_task_may_come_before_that_of_an_accepted_one() -> None:
    tasks = with_tasks(running="r")
    tasks.accept("a", "t", NOW + TIMEOUT)
    assert tasks.next_deadline() == NOW + TIMEOUT


@pytest.mark.parametrize(
    ("after", "removed"), [(-0.001, ""), (0, "r"), (0.999, "r"), (1, "rs"), (2, "rst"), (99, "rst")]
)
def test_running_tasks_time_out_each_at_its_own_limit(after: float, removed: str) -> None:
    tasks = with_tasks(running="rst")
    assert ids(remove_due(tasks.running, NOW + TIMEOUT + after)) == list(removed)
    assert "".join(tasks.running) == "rst"[len(removed) :]
    assert remove_due(tasks.running, NOW + TIMEOUT + after) == []


@pytest.mark.parametrize(("after", "removed"), [(-0.001, ""), (0, "a"), (1, "ab"), (99, "abc")])
def test_accepted_tasks_wait_for_their_settings_only_so_long(after: float, removed: str) -> None:
    tasks = with_tasks(accepted="abc", running="r")
    assert ids(remove_due(tasks.accepted, NOW + SETTINGS_TIMEOUT + after)) == list(removed)
    assert "".join(tasks.accepted) == "abc"[len(removed) :]
    assert "".join(tasks.running) == "r"


def test_a_task_with_a_limit_of_its_own_times_out_earlier() -> None:
    tasks = with_tasks(running="rst")
    tasks.shorten("s", NOW + 1 + 5, 5.0)
    assert list(tasks.running) == ["s", "r", "t"]
    assert tasks.next_deadline() == NOW + 6
    assert remove_due(tasks.running, NOW + 6) == [("s", ("t", NOW + 6, 5.0))]
    tasks.shorten("t", NOW + TIMEOUT + 1.5, 59.5)
    assert list(tasks.running.items()) == [
        ("r", ("t", NOW + TIMEOUT, TIMEOUT)),
        ("t", ("t", NOW + TIMEOUT + 1.5, 59.5)),
    ]


@pytest.mark.parametrize(("task_id", "after"), [("r", 0.0), ("r", 1.0), ("a", -1.0), ("unknown", -1.0)])
def test_a_limit_only_shortens_the_time_of_a_running_task(task_id: str, after: float) -> None:
    tasks = with_tasks(running="rs")
    tasks.accept("a", "t", NOW + 2)
    before = dict(tasks.running)
    tasks.shorten(task_id, NOW + TIMEOUT + after, 1.0)
    assert tasks.running == before
    assert tasks.accepted == {"a": ("t", NOW + 2 + SETTINGS_TIMEOUT)}


def test_extended_tasks_wait_for_their_settings_once_more() -> None:
    tasks = with_tasks(accepted="abc")
    now = NOW + SETTINGS_TIMEOUT + 1
    tasks.extend_settings_time(now)
    first, later = NOW + 2 + SETTINGS_TIMEOUT, now + SETTINGS_TIMEOUT
    assert list(tasks.accepted.items()) == [("c", ("t", first)), ("a", ("t", later)), ("b", ("t", later))]
    assert tasks.next_deadline() == first


def test_all_tasks_are_removed_in_their_order() -> None:
    tasks = with_tasks(accepted="ab", running="rs")
    accepted, running = tasks.remove_all()
    assert (ids(accepted), ids(running)) == (["a", "b"], ["r", "s"])
    assert len(tasks) == 0
    assert tasks.remove_all() == ([], [])


class Machine(RuleBasedStateMachine):
    """Any order of steps; the clock never goes back."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks = Tasks(TIMEOUT)
        self.now = NOW
        self.accepted: dict[str, float] = {}
        self.running: dict[str, float] = {}

    @rule(task_id=st.sampled_from("abcd"))
    def accept(self, task_id: str) -> None:
        if task_id not in self.tasks:
            self.tasks.accept(task_id, "t", self.now)
            self.accepted[task_id] = self.now + SETTINGS_TIMEOUT

    @rule(task_id=st.sampled_from("abcd"))
    def start(self, task_id: str) -> None:
        started = self.tasks.start(task_id, self.now)
        assert (started is not None) is (self.accepted.pop(task_id, None) is not None)
        if started is not None:
            self.running[task_id] = self.now + TIMEOUT

    @rule(task_id=st.sampled_from("abcd"), limit=st.sampled_from([0.5, 1.0, 10.0, TIMEOUT, 2 * TIMEOUT]))
    def shorten(self, task_id: str, limit: float) -> None:
        self.tasks.shorten(task_id, self.now + limit, limit)
        if task_id in self.running:
            self.running[task_id] = min(self.running[task_id], self.now + limit)

    @rule(task_id=st.sampled_from("abcd"))
    def finish(self, task_id: str) -> None:
        assert (self.tasks.running.pop(task_id, None) is None) is (self.running.pop(task_id, None) is None)

    @rule(seconds=st.sampled_from([0.0, 1.0, 10.0, SETTINGS_TIMEOUT, TIMEOUT]), receiving=st.booleans())
    def pass_time(self, seconds: float, receiving: bool) -> None:
        self.now += seconds
        late = sorted(task_id for task_id, end in self.running.items() if end <= self.now)
        assert sorted(ids(remove_due(self.tasks.running, self.now))) == late
        for task_id in late:
            del self.running[task_id]
        late = sorted(task_id for task_id, end in self.accepted.items() if end <= self.now)
        if receiving:
            self.tasks.extend_settings_time(self.now)
            self.accepted.update(dict.fromkeys(late, self.now + SETTINGS_TIMEOUT))
        else:
            assert sorted(ids(remove_due(self.tasks.accepted, self.now))) == late
            for task_id in late:
                del self.accepted[task_id]

    @invariant()
    def agrees(self) -> None:
        assert {task_id: end for task_id, (_, end) in self.tasks.accepted.items()} == self.accepted
        assert {task_id: end for task_id, (_, end, _) in self.tasks.running.items()} == self.running
        assert len(self.tasks) == len(self.accepted) + len(self.running)
        ends = [*self.accepted.values(), *self.running.values()]
        assert self.tasks.next_deadline() == min(ends, default=NEVER)


TestMachine = Machine.TestCase
TestMachine.settings = settings()

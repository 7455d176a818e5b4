"""Compares the callers' book with the runner's."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: The outcomes that a caller can get. "done" and "failed" are the runner's answers, the others the broker's.
DONE, FAILED = "done", "failed"
LOST, EXPIRED, TIMED_OUT = "lost", "expired", "timed out"
#: A broker that shuts down cancels what has not ended: it tells the runner, which gives no answer then.
CANCELLED = "cancelled"
#: An answer that is not the right one.
WRONG = "wrong"


@dataclass
class Request:
    """One task, as its caller saw it.

    Args:
        number: the caller's own number for it.
        task_id: the broker's id; None if no runner has accepted it.
        outcome: what the caller was told; None if that is nothing.
        detail: what the error said, if there was one.
    """

    number: int
    task_id: str | None = None
    outcome: str | None = None
    detail: str = ""


@dataclass
class Work:
    """One task, as the runner's book has it."""

    begun: int = 0
    ended: int = 0
    #: For each call of `on_undelivered`, whether it was certain.
    undelivered: list[bool] = field(default_factory=list)


@dataclass
class Verdict:
    """The findings of the comparison; each list names tasks."""

    outcomes: Counter[str] = field(default_factory=Counter)
    #: The caller was told nothing; or the handler's answer went nowhere and `on_undelivered` was not called.
    lost: list[str] = field(default_factory=list)
    #: The handler was called twice for one task, or `on_undelivered` was.
    doubled: list[str] = field(default_factory=list)
    #: An answer that is not the right one, or that no handler has given; or a report that is not true.
    wrong: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.doubled or self.wrong)


def read_book(path: Path) -> list[dict[str, object]]:
    """Return the lines of a runner's book."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def compare(
    requests: Sequence[Request], book: Sequence[dict[str, object]], was_killed: bool = False
) -> Verdict:
    """Compare both books.

    Args:
        requests: the callers' book.
        book: the lines of the runner's, see `work.py`.
        was_killed: whether the runner's process was killed. Then what it had in hand needs no line in its own
            book: the broker's word to the caller is the account.
    """
    verdict = Verdict()
    by_task: dict[str, Work] = {}
    by_number: dict[int, Work] = {}
    for line in book:
        task_id = str(line.get("task", line.get("undelivered")))
        work = by_task.setdefault(task_id, Work())
        if "undelivered" in line:
            work.undelivered.append(bool(line["certain"]))
        for key, attribute in (("begun", "begun"), ("ended", "ended")):
            if key in line:
                setattr(work, attribute, getattr(work, attribute) + 1)
                of_number = by_number.setdefault(int(str(line[key])), Work())
                setattr(of_number, attribute, getattr(of_number, attribute) + 1)
    known = {request.task_id for request in requests if request.task_id is not None}
    for task_id in by_task:
        if task_id not in known:
            verdict.wrong.append(f"task {task_id}: in the runner's book only")
    for request in requests:
        _judge(
            request,
            by_task.get(request.task_id or "", Work()),
            by_number.get(request.number, Work()),
            was_killed,
            verdict,
        )
    return verdict


def _judge(request: Request, work: Work, of_number: Work, was_killed: bool, verdict: Verdict) -> None:
    what = f"task {request.task_id}, number {request.number}, {request.outcome}"
    if request.detail:
        what += f" ({request.detail})"
    verdict.outcomes[str(request.outcome)] += 1
    answered = request.outcome in (DONE, FAILED)
    if request.outcome is None:
        verdict.lost.append(f"{what}: the caller was told nothing")
    elif request.outcome == WRONG:
        verdict.wrong.append(f"{what}: not the right answer")
    if of_number.begun > 1:
        verdict.doubled.append(f"{what}: its handler was called {of_number.begun} times")
    if len(work.undelivered) > 1:
        verdict.doubled.append(f"{what}: on_undelivered was called {len(work.undelivered)} times")
    if answered and not of_number.ended:
        verdict.wrong.append(f"{what}: no handler has ended")
    if answered and True in work.undelivered:
        verdict.wrong.append(f"{what}: on_undelivered was certain that it did not arrive")
    if was_killed:
        return
    if of_number.begun > of_number.ended:
        verdict.lost.append(f"{what}: its handler has not ended")
    if request.outcome == LOST and of_number.ended and not work.undelivered:
        verdict.lost.append(f"{what}: the handler's answer went nowhere, and on_undelivered was not called")

"""The facts that each failure of a connection has."""

from __future__ import annotations

import pytest

from n8nrunner.protocol.failures import ConnectionLost, NotABroker, Problem, UpgradeRefused


@pytest.mark.parametrize(
    ("status", "is_n8ns", "problem"),
    [
        (403, True, Problem.GRANT_REFUSED),
        (401, True, Problem.NOT_UPGRADED),
        (404, True, Problem.NOT_UPGRADED),
        (403, False, Problem.NOT_UPGRADED),
        (0, False, Problem.NOT_UPGRADED),
    ],
)
def test_only_n8ns_own_403_is_about_the_grant(status: int, is_n8ns: bool, problem: Problem) -> None:
    refusal = UpgradeRefused("refused", status, is_n8ns)
    assert (str(refusal), refusal.status, refusal.is_n8ns) == ("refused", status, is_n8ns)
    assert refusal.problem is problem


def test_a_refusal_is_n8ns_own_unless_it_is_known_to_be_another_s() -> None:
    assert UpgradeRefused("refused", 403).is_n8ns


def test_a_failure_has_the_problem_of_its_class_or_its_own() -> None:
    assert NotABroker("no").problem is Problem.UNEXPECTED
    assert NotABroker("no", Problem.RATE_LIMITED).problem is Problem.RATE_LIMITED
    lost = ConnectionLost("lost", 1001)
    assert (lost.problem, lost.code, str(lost)) == (Problem.CONNECTION_LOST, 1001, "lost")
    assert ConnectionLost("lost").code is None

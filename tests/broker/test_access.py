"""Which log-ins and upgrades are allowed, without a socket; test_server.py has the same over HTTP."""

from __future__ import annotations

import itertools

import pytest

from n8nrunner.broker import BrokerConstants
from n8nrunner.broker.access import Access, GrantTokens

GOOD = {"path": "/runners/_ws", "query": "id=x", "authorization": "Bearer grant1"}
#: Each defect, in the order of n8n's checks, and the status of its refusal.
DEFECTS = [
    ({"path": "/runners/_ws/"}, 404),
    ({"limit": True}, 429),
    ({"stopping": True}, 503),
    ({"query": "id=x&id=y"}, 400),
    ({"authorization": "Basic grant1"}, 401),
    ({"authorization": "Bearer unknown"}, 403),
]


def new_access(**constants: int) -> Access:
    numbers = itertools.count(1)
    grants = GrantTokens(30.0, lambda: f"grant{next(numbers)}")
    access = Access("secret", "/runners", BrokerConstants(**constants), grants)
    assert access.log_in({"token": "secret"}, 0.0) == (200, {"data": {"token": "grant1"}})
    return access


@pytest.mark.parametrize("first", range(len(DEFECTS)), ids=lambda first: str(DEFECTS[first][1]))
def test_of_several_defects_the_first_check_of_n8n_decides(first: int) -> None:
    access = new_access(upgrade_limit=1)
    arguments: dict[str, object] = dict(GOOD)
    for defect, _ in reversed(DEFECTS[first:]):
        arguments.update(defect)
    if arguments.pop("limit", False):
        access.upgrade(GOOD["path"], "", "", 0.0)
    access.stopping = bool(arguments.pop("stopping", False))
    answer = access.upgrade(**arguments, now=0.0)  # type: ignore[arg-type]
    assert answer == DEFECTS[first][1]
    access.stopping = False
    assert access.upgrade(**GOOD, now=1.0) == "x", "the refusal has not used up the grant token"


@pytest.mark.parametrize(
    ("query", "runner_id"), [("id=a%20b", "a b"), ("other=1&id=x", "x"), ("id=", ""), ("", ""), ("ID=x", "")]
)
def test_the_runner_id_is_in_the_query(query: str, runner_id: str) -> None:
    answer = new_access().upgrade(GOOD["path"], query, GOOD["authorization"], 0.0)
    assert answer == (runner_id or 400)


def test_a_grant_token_works_once() -> None:
    access = new_access()
    assert access.upgrade(**GOOD, now=0.0) == "x"
    assert access.upgrade(**GOOD, now=0.0) == 403


@pytest.mark.parametrize(
    ("authorization", "allowed"),
    [("Bearer secret", True), ("bearer  secret ", True), ("Bearer wrong", False), ("Basic secret", False),
     ("secret", False), ("", False), ("Bearer \ud800", False)],
)  # fmt: skip
def test_a_requester_needs_the_secret(authorization: str, allowed: bool) -> None:
    assert new_access().may_submit(authorization) is allowed

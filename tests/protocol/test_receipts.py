"""Results without a proof of arrival, and the pings that prove it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from n8nrunner.protocol import receipts
from n8nrunner.protocol.actions import ReportUndelivered, SendPing
from n8nrunner.protocol.receipts import PING_REPEAT, PING_SPACING, Receipts, SentResult

NEVER = float("inf")
NOW = 50.0


def begun() -> Receipts:
    kept = Receipts()
    kept.begin(NOW)
    return kept


def with_results(*ordinals: int) -> Receipts:
    """Results that were sent as these messages, each with its ordinal as its payload."""
    kept = begun()
    for ordinal in ordinals:
        kept.add(ordinal, f"task{ordinal}", "t", b"%d" % ordinal, False)
    return kept


def ordinals(kept: Receipts) -> list[int]:
    return [result.ordinal for result in kept.results]


def test_keeps_what_a_report_needs() -> None:
    kept = begun()
    kept.add(3, "x", "type", b"payload", True, "score")
    assert list(kept.results) == [SentResult(3, "x", "type", b"payload", True, "score")]


@pytest.mark.parametrize(
    ("results", "pinged", "congested", "deadline"),
    [
        ([], False, False, NEVER),
        ([], True, False, NEVER),
        ([1], False, False, NOW + PING_SPACING),
        ([1], False, True, NOW + PING_SPACING),
        ([1], True, False, NOW + 1 + PING_REPEAT),
        ([1], True, True, NEVER),
    ],
)
def test_a_ping_is_due_after_results_and_repeated_unless_it_waits_itself(
    results: list[int], pinged: bool, congested: bool, deadline: float
) -> None:
    kept = with_results(*results)
    if pinged:
        kept.ping(1, NOW + 1)
    assert kept.next_deadline(congested) == deadline


def test_the_payload_of_a_ping_is_the_last_ordinal_before_it() -> None:
    assert with_results(7).ping(12, NOW) == SendPing("12")


def test_the_next_ping_is_spaced_from_the_one_that_was_answered() -> None:
    kept = with_results(1)
    kept.ping(1, NOW + 3)
    kept.confirm("1")
    kept.add(2, "x", "t", b"", False)
    assert kept.next_deadline(False) == NOW + 3 + PING_SPACING


@pytest.mark.parametrize(
    ("payload", "left"),
    [
        ("5", [6, 7]),
        ("4", [5, 6, 7]),
        ("6", [3, 5, 6, 7]),
        ("-1", [3, 5, 6, 7]),
        ("alive", [3, 5, 6, 7]),
        ("", [3, 5, 6, 7]),
    ],
)
def test_a_pong_proves_the_results_before_its_ping(payload: str, left: list[int]) -> None:
    kept = with_results(3, 5, 6, 7)
    kept.ping(5, NOW)
    kept.confirm(payload)
    assert ordinals(kept) == left


def test_a_pong_without_a_ping_proves_nothing() -> None:
    kept = with_results(1)
    for payload in ("1", "None", ""):
        kept.confirm(payload)
    assert ordinals(kept) == [1]


def test_a_second_pong_proves_nothing() -> None:
    kept = with_results(1)
    kept.ping(2, NOW)
    kept.confirm("2")
    kept.add(1, "x", "t", b"", False)
    kept.confirm("2")
    assert ordinals(kept) == [1]


def test_a_late_pong_proves_the_results_before_its_own_ping() -> None:
    kept = with_results(1, 2)
    kept.ping(1, NOW)
    kept.ping(2, NOW + PING_REPEAT)
    kept.confirm("1")
    assert ordinals(kept) == [2]
    assert kept.next_deadline(False) == NOW + 2 * PING_REPEAT
    kept.confirm("2")
    assert ordinals(kept) == []


def test_a_ping_of_an_earlier_connection_proves_nothing() -> None:
    kept = with_results(1)
    kept.ping(1, NOW)
    kept.lose(0, False)
    kept.begin(NOW + 10)
    kept.add(1, "x", "t", b"", False)
    kept.confirm("1")
    assert ordinals(kept) == [1]
    assert kept.next_deadline(False) == NOW + 10 + PING_SPACING


@pytest.mark.parametrize(
    ("written", "certain"),
    [(0, [True, True, True]), (4, [False, True, True]), (5, [False, False, True]), (9, [False] * 3)],
)
def test_a_result_that_was_not_written_has_certainly_not_arrived(written: int, certain: list[bool]) -> None:
    kept = with_results(4, 5, 9)
    assert kept.lose(written, False) == [
        ReportUndelivered(f"task{ordinal}", "t", b"%d" % ordinal, False, is_certain)
        for ordinal, is_certain in zip((4, 5, 9), certain)
    ]
    assert not kept.results
    assert kept.lose(0, False) == []


def test_the_brokers_close_frame_proves_all_results() -> None:
    kept = with_results(4, 5)
    assert kept.lose(0, True) == []
    assert not kept.results


def test_a_failed_result_is_reported_as_failed() -> None:
    kept = begun()
    kept.add(1, "x", "t", b"error", True, "score")
    assert kept.lose(1, False) == [ReportUndelivered("x", "t", b"error", True, False, "score")]


def test_the_limit_of_kept_payloads_is_64_mb() -> None:
    assert receipts.UNCONFIRMED_LIMIT == 64 * 1024 * 1024


class TestKeptPayloads:
    @pytest.fixture(autouse=True)
    def limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(receipts, "UNCONFIRMED_LIMIT", 10)

    def add(self, kept: Receipts, *sizes: int) -> None:
        for ordinal, size in enumerate(sizes, start=len(kept.results) + 1):
            kept.add(ordinal, "x", "t", b"y" * size, False)

    def sizes(self, kept: Receipts) -> list[int | None]:
        return [None if result.payload is None else len(result.payload) for result in kept.results]

    @pytest.mark.parametrize(
        ("sizes", "expected"),
        [
            ([10], [10]),
            ([11], [None]),
            ([4, 6, 1], [4, 6, None]),
            ([4, 7, 6], [4, None, 6]),
            ([10, 0], [10, 0]),
        ],
    )
    def test_keeps_payloads_up_to_the_limit(self, sizes: list[int], expected: list[int | None]) -> None:
        kept = begun()
        self.add(kept, *sizes)
        assert self.sizes(kept) == expected

    def test_a_result_without_its_payload_is_reported(self) -> None:
        kept = begun()
        kept.add(1, "x", "type", b"y" * 11, True, "score")
        assert kept.lose(1, False) == [ReportUndelivered("x", "type", None, True, False, "score")]

    def test_a_proof_makes_room(self) -> None:
        kept = begun()
        self.add(kept, 4, 7, 6)
        kept.ping(2, NOW)
        kept.confirm("2")
        self.add(kept, 5, 4, 1)
        assert self.sizes(kept) == [6, None, 4, None]

    def test_a_loss_makes_room(self) -> None:
        kept = begun()
        self.add(kept, 10)
        kept.lose(0, False)
        self.add(kept, 10)
        assert self.sizes(kept) == [10]


a_step = st.tuples(st.sampled_from(["send", "result", "ping", "pong"]), st.integers(0, 3))


@given(st.lists(a_step, max_size=40))
def test_each_result_is_either_proved_or_reported(steps: list[tuple[str, int]]) -> None:
    """Pongs come in the order of their pings, and some pings have none."""
    kept = begun()
    sent, read = 0, 0
    results: list[int] = []
    pings: list[SendPing] = []
    for step, number in steps:
        if step == "ping":
            pings.append(kept.ping(sent, NOW))
        elif step == "pong" and pings:
            pong = pings[number % len(pings)]
            del pings[: number % len(pings) + 1]
            kept.confirm(pong.payload)
            read = int(pong.payload)
        else:
            sent += 1
            if step == "result":
                results.append(sent)
                kept.add(sent, str(sent), "t", b"", False)
        assert ordinals(kept) == [ordinal for ordinal in results if ordinal > read]
    reports = kept.lose(sent, False)
    assert [int(report.task_id) for report in reports] == [ordinal for ordinal in results if ordinal > read]

"""The real limits, on real connections between network namespaces: ``python -m pytest tests/netns -n 12``.

The tests wait most of the time, so that more of them than there are cores can run at once.
"""

from __future__ import annotations

import pytest

from tests.netns import cases

pytestmark = pytest.mark.netns


@pytest.fixture(scope="session", autouse=True)
def namespaces() -> None:
    lacking = cases.why_not()
    if lacking is not None:
        pytest.skip(lacking)


@pytest.mark.parametrize("phase", [0.0, 5.0])
@pytest.mark.parametrize("situation", ["idle", "busy", "large"])
def test_a_pulled_cable_is_noticed_within_20_s(situation: str, phase: float) -> None:
    assert cases.cable_pulled(situation, phase) < 20.0


@pytest.mark.parametrize("situation", ["idle", "busy", "large"])
def test_a_proxy_that_takes_bytes_and_passes_none_is_noticed_within_45_s(situation: str) -> None:
    assert cases.silent_proxy(situation) < 45.0


@pytest.mark.parametrize("situation", ["idle", "busy", "large"])
def test_a_stopped_broker_process_is_noticed_within_45_s(situation: str) -> None:
    assert cases.stopped_broker(situation) < 45.0


@pytest.mark.parametrize(
    ("situation", "phase"), [("idle", 0.0), ("idle", 9.0), ("large", 0.0), ("large", 3.0)]
)
def test_an_n8n_that_is_busy_for_25_s_keeps_its_runner(situation: str, phase: float) -> None:
    cases.busy_broker(situation, phase)


def test_a_large_answer_arrives_over_a_slow_line() -> None:
    cases.slow_line()

"""The table of causes is complete, and its texts can be shown."""

from __future__ import annotations

import pytest

from n8nrunner.check import causes, report
from n8nrunner.check.causes import Cause, causes_of
from n8nrunner.check.facts import Editor, Facts, Observation, Step, Trouble
from n8nrunner.config import parse_broker
from n8nrunner.protocol.failures import Problem

HERE = parse_broker("http://127.0.0.1:5679")
ELSEWHERE = parse_broker("http://n8n.example:5679")
ANSWERS = Editor("http://n8n.example:5678", True, None)
SILENT = ANSWERS._replace(answers=False)


def facts(problem: Problem | Trouble, step: Step = Step.TCP, **circumstances: object) -> Facts:
    values = {"url": HERE, **circumstances}
    return Facts(Observation(step, "", 0.1, problem), **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("symptom", [*Problem, *Trouble], ids=lambda symptom: symptom.name)
def test_every_observation_has_a_cause(symptom: Problem | Trouble) -> None:
    known = causes_of(facts(symptom)) != [Cause.UNKNOWN]
    assert known is (symptom is not Problem.UNEXPECTED)


def test_every_cause_belongs_to_an_observation() -> None:
    assert {rule.cause for rule in causes._RULES} == set(Cause) - {Cause.UNKNOWN}


@pytest.mark.parametrize("cause", Cause, ids=lambda cause: cause.key)
def test_the_names_in_a_text_are_filled_in(cause: Cause) -> None:
    for circumstances in (facts(Problem.REFUSED), Facts(Observation(Step.WEBHOOK, ""))):
        for text in cause.value:
            assert not set(causes.filled_in(text, circumstances).replace('{"status":"ok"}', "")) & set("{}")


def test_n8ns_version_decides_between_the_causes_of_a_closed_port() -> None:
    def named(version: str | None) -> list[Cause]:
        return causes_of(facts(Problem.REFUSED, editor=Editor("http://127.0.0.1:5678", True, version)))

    assert named("2.40.7") == [Cause.OTHER_PORT, Cause.PORT_NOT_PUBLISHED]
    assert named("1.123.81")[0] is Cause.N8N_1_WITHOUT_RUNNERS
    assert named("1.68.0-beta.1")[0] is Cause.N8N_TOO_OLD
    assert named("0.236.3")[0] is Cause.N8N_TOO_OLD
    assert named(None)[-1] is Cause.N8N_1_WITHOUT_RUNNERS


def test_whether_the_editor_answers_tells_a_broker_on_loopback_from_an_n8n_that_does_not_run() -> None:
    def named(editor: Editor) -> list[Cause]:
        return causes_of(facts(Problem.REFUSED, url=ELSEWHERE, editor=editor))

    assert named(ANSWERS)[0] is Cause.BROKER_ON_LOOPBACK
    assert named(SILENT) == [Cause.NOT_RUNNING, Cause.BROKER_ON_LOOPBACK]


def test_an_editor_that_answers_does_not_mean_that_a_worker_runs() -> None:
    closed = facts(Problem.REFUSED, url=ELSEWHERE, editor=ANSWERS)
    assert Cause.WORKER_NOT_RUNNING not in causes_of(closed)
    of_worker = parse_broker("http://worker.example:5679")
    for worker in (closed._replace(url=of_worker), closed._replace(is_one_of_several=True)):
        assert causes_of(worker)[:2] == [Cause.BROKER_ON_LOOPBACK, Cause.WORKER_NOT_RUNNING]


def test_silence_has_other_causes_before_a_connection_than_after_it() -> None:
    silence = facts(Problem.TIMED_OUT, url=ELSEWHERE, editor=SILENT)
    assert causes_of(silence) == [Cause.FIREWALL, Cause.MACHINE_OFF]
    assert causes_of(facts(Problem.TIMED_OUT, Step.HEALTH)) == [Cause.N8N_BUSY]


def test_n8n_cloud_is_named_first() -> None:
    cloud = parse_broker("https://me.app.n8n.cloud")
    assert causes_of(facts(Problem.TIMED_OUT, url=cloud))[0] is Cause.CLOUD


def test_a_line_is_wrapped_below_its_text() -> None:
    text = report.step(Observation(Step.NAME, "word " * 20, 0.0123), 80).splitlines()
    assert text[0].startswith("  name          ok         12 ms  word")
    assert all(line.startswith(" " * 34 + "word") for line in text[1:])
    assert max(map(len, text)) <= 80

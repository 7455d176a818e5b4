"""The plugin of pytest, in projects of its users."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.projects import new_project

pytest_plugins = ["pytester"]

LEADS = """
from n8nrunner import Runner

runner = Runner("https://n8n.example:5679", name="leads")

@runner.function
def score(email: str) -> int:
    if "@" not in email:
        raise ValueError("no address")
    return len(email)
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    return new_project(pytester, leads=LEADS)


def test_the_runner_that_the_test_s_module_imports_is_served(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import pytest
        from leads import runner
        from n8nrunner.testing import CallFailed

        def test_score(n8n_runner, n8n_broker):
            assert n8n_runner.runner is runner
            assert n8n_runner.broker is n8n_broker
            assert n8n_runner.call("score", email="a@b.c")[0].json == {"result": 5}

        def test_failure(n8n_runner):
            with pytest.raises(CallFailed, match="ValueError: no address"):
                n8n_runner.call("score", email="x")

        def test_afterwards():
            assert runner.state == "new"
    """)
    project.runpytest_inprocess().assert_outcomes(passed=3)


def test_a_failed_call_shows_the_line_of_the_test_and_the_error_of_the_function(
    project: pytest.Pytester,
) -> None:
    project.makepyfile("""
        from leads import runner

        def test_score(n8n_runner):
            n8n_runner.call("score", email="x")
    """)
    output = project.runpytest_inprocess().stdout
    output.fnmatch_lines(
        [
            '>       n8n_runner.call("score", email="x")',
            "E *CallFailed: ValueError: no address [[]item 0[]]",
            'E * raise ValueError("no address")',
        ]
    )
    output.no_fnmatch_line("*_outcomes*")


def test_a_marker_a_setting_and_a_fixture_choose_the_runner(project: pytest.Pytester) -> None:
    project.makepyfile(shop=LEADS.replace("leads", "shop"), mine=LEADS.replace("leads", "mine"))
    project.makeini("[pytest]\nn8n_runner = leads")
    project.makepyfile(
        test_setting="""
            import pytest, shop, mine

            def test_setting(n8n_runner):
                assert n8n_runner.runner.config.name == "leads"

            @pytest.mark.n8n_runner("shop:runner")
            def test_marker(n8n_runner):
                assert n8n_runner.runner is shop.runner

            @pytest.mark.n8n_runner(mine.runner)
            def test_marker_with_an_object(n8n_runner):
                assert n8n_runner.runner is mine.runner

            @pytest.mark.n8n_runner("shop:nothing")
            def test_marker_with_a_mistake(n8n_runner):
                pass
        """,
        test_fixture="""
            import pytest

            @pytest.fixture(params=["shop", "mine"])
            def n8n_runner_target(request):
                return request.param

            def test_fixture(n8n_runner, n8n_runner_target):
                assert n8n_runner.runner.config.name == n8n_runner_target
        """,
    )
    result = project.runpytest_inprocess("--strict-markers")
    result.assert_outcomes(passed=5, errors=1)
    result.stdout.fnmatch_lines(["*n8n_runner: there is no 'nothing' in 'shop'; its runners are: runner"])


def test_a_factory_serves_several_runners_of_one_name(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import threading
        from n8nrunner import Runner

        def made(answer):
            runner = Runner(name="leads")
            runner.function(name="score")(lambda: answer)
            return runner

        def test_two(n8n_runner_factory):
            served = [n8n_runner_factory(made(answer)) for answer in (1, 2)]
            assert [each.call("score")[0].json["result"] for each in served] == [1, 2]

        def test_afterwards():
            assert not [each for each in threading.enumerate() if each.name.startswith("n8nrunner")]
    """)
    project.runpytest_inprocess().assert_outcomes(passed=2)


def test_without_a_runner_the_error_says_how_to_choose_one(project: pytest.Pytester) -> None:
    project.makepyfile("""
        from n8nrunner import Runner

        def test_none(n8n_runner):
            pass
    """)
    result = project.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*n8n_runner does not know which Runner to serve*has no Runner*"])


def test_the_plugin_is_installed_and_imports_nothing_before_its_first_use(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import sys

        def test_unused(request):
            assert request.config.pluginmanager.has_plugin("n8nrunner")
            imported = {name for name in sys.modules if name.startswith("n8nrunner")}
            assert imported == {"n8nrunner", "n8nrunner._version", "n8nrunner.pytest_plugin"}
            assert request.getfixturevalue("n8n_broker").is_running
    """)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(command, cwd=project.path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_the_fixtures_work_on_the_workers_of_xdist(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import pytest
        from leads import runner

        @pytest.mark.parametrize("number", range(4))
        def test_score(n8n_runner, number):
            assert n8n_runner.call("score", email="@" * number or "@")
    """)
    result = project.runpytest_subprocess("-n", "2", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=4)

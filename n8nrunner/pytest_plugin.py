"""The fixtures of pytest that call functions over the real wire, without n8n (docs/testing.md).

pytest loads this module in every environment with n8nrunner, so it imports nothing more before a test uses a
fixture.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Callable

import pytest

if TYPE_CHECKING:
    from n8nrunner.broker import Broker
    from n8nrunner.runner import Runner
    from n8nrunner.testing import ServedRunner

#: The name of the marker, and of the setting in pytest's configuration file.
_NAME = "n8n_runner"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(_NAME, "the Runner of the fixture n8n_runner: MODULE or MODULE:ATTRIBUTE", default="")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{_NAME}(runner): the fixture n8n_runner serves this Runner, or MODULE:ATTRIBUTE"
    )


@pytest.fixture
def n8n_broker() -> Iterator[Broker]:
    """Return an embedded broker that runs: n8n's task broker without n8n."""
    import secrets

    from n8nrunner.broker import Broker

    broker = Broker(secrets.token_hex(16))
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def n8n_runner_target(request: pytest.FixtureRequest) -> Runner | str:
    """Return the Runner that `n8n_runner` serves; define a fixture of this name to choose it.

    It is the argument of the marker `n8n_runner`, or else the only Runner among the names of the test's
    module, or else the setting `n8n_runner` of pytest's configuration file.
    """
    from n8nrunner.runner import Runner

    marker = request.node.get_closest_marker(_NAME)
    if marker is not None and len(marker.args) == 1:
        target: Runner | str = marker.args[0]
        return target
    names = vars(request.module) if request.module is not None else {}
    runners = {id(value): value for value in names.values() if isinstance(value, Runner)}
    if len(runners) == 1:
        return next(iter(runners.values()))
    setting: str = request.config.getini(_NAME)
    if setting:
        return setting
    found = "several Runners" if runners else "no Runner"
    pytest.fail(
        f"n8n_runner does not know which Runner to serve: the test's module has {found}. Import the one to "
        f"test there, mark the test with @pytest.mark.{_NAME}(runner), set {_NAME} = MODULE:ATTRIBUTE in "
        "pytest's configuration file, or define a fixture n8n_runner_target that returns it",
        pytrace=False,
    )


@pytest.fixture
def n8n_runner(n8n_runner_target: Runner | str, n8n_broker: Broker) -> Iterator[ServedRunner]:
    """Serve the Runner of `n8n_runner_target` by `n8n_broker`: ``n8n_runner.call("name", ...)``."""
    with _serve(n8n_runner_target, n8n_broker) as served:
        yield served


@pytest.fixture
def n8n_runner_factory() -> Iterator[Callable[[Runner | str], ServedRunner]]:
    """Return a function that serves a Runner until the end of the test, by a broker of its own."""
    with contextlib.ExitStack() as ends:
        yield lambda target: ends.enter_context(_serve(target, None))


@contextlib.contextmanager
def _serve(target: Runner | str, broker: Broker | None) -> Iterator[ServedRunner]:
    from n8nrunner.errors import ConfigurationError
    from n8nrunner.testing import serve

    with contextlib.ExitStack() as ends:
        try:
            served = ends.enter_context(serve(target, broker))
        except ConfigurationError as error:
            pytest.fail(f"n8n_runner: {error}", pytrace=False)
        yield served

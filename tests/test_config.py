"""Every setting from every place that it may come from, and every mistake in one error."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import re
import traceback
from pathlib import Path
from typing import Any

import pytest

from n8nrunner import ConfigurationError, Runner, RunnerConfig
from n8nrunner.config import (
    directory_of,
    is_one_shot,
    missing_token,
    parse_broker,
    read_auth_token,
    urls_of,
)
from tests.conftest import VARIABLES
from tests.pages import read

SECRET = "a-very-secret-token"


@pytest.fixture(autouse=True)
def nothing_left_behind() -> None:
    """Do not look for leaks: nothing here opens anything, and the look takes longer than these tests."""


def config(environment: dict[str, str], **given: Any) -> RunnerConfig:
    """Return settings with a token, unless the test gives one."""
    if not {"auth_token", "auth_token_file", "grant_token"} & set(given):
        environment = {"N8N_RUNNERS_AUTH_TOKEN": SECRET, **environment}
    return RunnerConfig.from_env(environment, **given)


def problems(environment: dict[str, str], **given: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        config(environment, **given)
    assert str(caught.value) == "; ".join(caught.value.problems)
    return caught.value.problems


# --- where settings come from -----------------------------------------------------------------------------

#: Field, its variable, a text for it and what that means, and another value.
FIELDS: list[tuple[str, str, str, Any, Any]] = [
    ("broker", "N8N_RUNNERS_TASK_BROKER_URI", "http://n8n:5679", ("http://n8n:5679",), ("http://other",)),
    ("auth_token", "N8N_RUNNERS_AUTH_TOKEN", "some-token", "some-token", "other-token"),
    ("grant_token", "N8N_RUNNERS_GRANT_TOKEN", "some-grant", "some-grant", "other-grant"),
    ("runner_id", "N8N_RUNNERS_ID", "id-1", "id-1", "id-2"),
    ("name", "N8NRUNNER_NAME", "sales", "sales", "other"),
    ("capacity", "N8N_RUNNERS_MAX_CONCURRENCY", "17", 17, 18),
    ("task_timeout", "N8N_RUNNERS_TASK_TIMEOUT", "0.5", 0.5, 7.0),
    ("max_payload", "N8N_RUNNERS_MAX_PAYLOAD", "65536", 65536, 2048),
    ("graceful_shutdown_timeout", "N8N_RUNNERS_GRACEFUL_SHUTDOWN_TIMEOUT", "3", 3.0, 4.5),
    ("auto_shutdown_timeout", "N8N_RUNNERS_AUTO_SHUTDOWN_TIMEOUT", "15", 15.0, 1.5),
    ("health_check_enabled", "N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED", "true", True, False),
    ("health_check_host", "N8N_RUNNERS_HEALTH_CHECK_SERVER_HOST", "0.0.0.0", "0.0.0.0", "::1"),
    ("health_check_port", "N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT", "5682", 5682, 0),
    (
        "health_check_allowed_hosts",
        "N8NRUNNER_HEALTH_CHECK_ALLOWED_HOSTS",
        "runner, runner.example",
        ("runner", "runner.example"),
        ("other",),
    ),
    ("error_details", "N8NRUNNER_ERROR_DETAILS", "false", False, True),
    ("log_calls", "N8NRUNNER_LOG_CALLS", "true", True, False),
]
BY_FIELD = pytest.mark.parametrize(
    ("field", "variable", "text", "value", "other"), FIELDS, ids=[row[0] for row in FIELDS]
)


def test_the_table_has_every_field_and_the_code_every_variable() -> None:
    names = {field.name for field in dataclasses.fields(RunnerConfig)}
    assert {row[0] for row in FIELDS} == names - {"auth_token_file"}
    assert {row[0]: row[1] for row in FIELDS} == VARIABLES


@BY_FIELD
def test_a_setting_is_read_from_its_variable(
    field: str, variable: str, text: str, value: Any, other: Any
) -> None:
    for written in (text, f"  {text}\n", f'"{text}"', f"'{text}'", f' "{text}" '):
        assert getattr(config({variable: written}), field) == value, written


@BY_FIELD
def test_a_setting_is_read_from_a_file(
    field: str, variable: str, text: str, value: Any, other: Any, tmp_path: Path
) -> None:
    path = tmp_path / "setting"
    for written in (text, f"{text}\n", f' "{text}" \r\n'):
        path.write_text(written)
        environment = {f"{variable}_FILE": f" {path} "}
        if field == "auth_token":
            found = RunnerConfig.from_env(environment)
            assert (found.auth_token, found.auth_token_file) == (None, str(path))
            assert read_auth_token(found) == value
        else:
            assert getattr(config(environment), field) == value


@BY_FIELD
def test_a_variable_wins_over_its_file(field: str, variable: str, text: str, value: Any, other: Any) -> None:
    found = config({variable: text, f"{variable}_FILE": "/nowhere/at/all"})
    assert getattr(found, field) == value
    assert found.auth_token_file is None


@BY_FIELD
def test_an_argument_wins_over_variable_and_file(
    field: str, variable: str, text: str, value: Any, other: Any
) -> None:
    for environment in ({variable: text}, {f"{variable}_FILE": "/nowhere/at/all"}):
        found = config(environment, **{field: other})
        assert getattr(found, field) == other
        assert found.auth_token_file is None


@BY_FIELD
def test_an_empty_variable_counts_as_missing(
    field: str, variable: str, text: str, value: Any, other: Any
) -> None:
    default = {item.name: item.default for item in dataclasses.fields(RunnerConfig)}[field]
    for empty in ("", "  ", '""', "''"):
        found = config({variable: empty, f"{variable}_FILE": empty}, auth_token=SECRET)
        assert getattr(found, field) == (SECRET if field == "auth_token" else default)


@BY_FIELD
def test_an_argument_of_none_counts_as_missing(
    field: str, variable: str, text: str, value: Any, other: Any
) -> None:
    assert getattr(config({variable: text}, **{field: None}), field) == value


def test_the_defaults_are_those_of_n8n() -> None:
    assert config({}) == RunnerConfig(
        broker=("http://127.0.0.1:5679",),
        auth_token=SECRET,
        auth_token_file=None,
        grant_token=None,
        runner_id=None,
        name="n8nrunner",
        capacity=5,
        task_timeout=300.0,
        max_payload=1024**3,
        graceful_shutdown_timeout=10.0,
        auto_shutdown_timeout=0.0,
        health_check_enabled=False,
        health_check_host="127.0.0.1",
        health_check_port=5681,
        health_check_allowed_hosts=(),
        error_details=True,
        log_calls=False,
    )


def test_the_environment_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("N8N_RUNNERS_AUTH_TOKEN", SECRET)
    monkeypatch.setenv("N8N_RUNNERS_MAX_CONCURRENCY", "3")
    assert RunnerConfig.from_env().capacity == 3
    assert Runner().config.capacity == 3
    assert Runner(capacity=4).config.capacity == 4


def test_a_file_of_the_token_is_read_again_each_time(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    found = RunnerConfig(auth_token_file=str(path))
    assert read_auth_token(found) == "first"
    path.write_text("'second'")
    assert read_auth_token(found) == "second"
    path.unlink()
    with pytest.raises(ConfigurationError, match="auth_token_file: cannot read"):
        read_auth_token(found)
    path.write_text("two\nlines")
    with pytest.raises(ConfigurationError, match="auth_token_file: expected printable ASCII"):
        read_auth_token(found)


def test_relative_paths_begin_in_the_folder_of_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that becomes a daemon goes to "/" afterwards."""
    (tmp_path / "token").write_text("the-token")
    monkeypatch.chdir(tmp_path)
    given = RunnerConfig(auth_token_file="token")
    named = RunnerConfig.from_env({"N8N_RUNNERS_AUTH_TOKEN_FILE": "token"})
    monkeypatch.chdir("/")
    for found in (given, named, pickle.loads(pickle.dumps(given)), dataclasses.replace(given, capacity=9)):
        assert read_auth_token(found) == "the-token"
        assert found.auth_token_file == str(tmp_path / "token")
    assert directory_of(given) == directory_of(named) == str(tmp_path)


def test_settings_can_be_built_in_a_folder_that_has_been_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert directory_of(RunnerConfig(auth_token=SECRET)) == ""


def test_a_token_given_directly_wins_over_a_file_given_directly(tmp_path: Path) -> None:
    assert read_auth_token(RunnerConfig(auth_token=SECRET, auth_token_file="/nowhere")) == SECRET


def test_a_file_given_directly_wins_over_the_variable(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("from the file".replace(" ", "-"))
    found = RunnerConfig.from_env({"N8N_RUNNERS_AUTH_TOKEN": "other"}, auth_token_file=str(path))
    assert read_auth_token(found) == "from-the-file"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((text, True) for text in ("true", "True", "TRUE", "tRuE", "1")),
        *((text, False) for text in ("false", "False", "FALSE", "0")),
        *((text, None) for text in ("yes", "no", "on", "off", "2", "t", "enabled", "-1", "true false")),
    ],
)
def test_each_spelling_of_a_boolean_is_read(text: str, expected: Any) -> None:
    environment = {"N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED": text}
    if expected is None:
        (problem,) = problems(environment)
        assert problem == (f"N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED: expected True or False, got {text!r}")
    else:
        assert config(environment).health_check_enabled is expected


# --- brokers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "auth", "socket", "health", "host", "port", "is_secure"),
    [
        (
            "http://127.0.0.1:5679",
            "http://127.0.0.1:5679/runners/auth",
            "ws://127.0.0.1:5679/runners/_ws",
            "http://127.0.0.1:5679/healthz",
            "127.0.0.1",
            5679,
            False,
        ),
        (
            "https://n8n.example/",
            "https://n8n.example/runners/auth",
            "wss://n8n.example/runners/_ws",
            "https://n8n.example/healthz",
            "n8n.example",
            443,
            True,
        ),
        (
            # A path replaces /runners, and the health check stays at the root.
            "http://n8n/tasks/of/mine/",
            "http://n8n/tasks/of/mine/auth",
            "ws://n8n/tasks/of/mine/_ws",
            "http://n8n/healthz",
            "n8n",
            80,
            False,
        ),
        (
            "http://n8n:80/runners",
            "http://n8n:80/runners/auth",
            "ws://n8n:80/runners/_ws",
            "http://n8n:80/healthz",
            "n8n",
            80,
            False,
        ),
        (
            "http://[::1]:5679",
            "http://[::1]:5679/runners/auth",
            "ws://[::1]:5679/runners/_ws",
            "http://[::1]:5679/healthz",
            "::1",
            5679,
            False,
        ),
        (
            "ws://n8n:1",
            "http://n8n:1/runners/auth",
            "ws://n8n:1/runners/_ws",
            "http://n8n:1/healthz",
            "n8n",
            1,
            False,
        ),
        (
            " WSS://N8N.example:8443 ",
            "https://N8N.example:8443/runners/auth",
            "wss://N8N.example:8443/runners/_ws",
            "https://N8N.example:8443/healthz",
            "n8n.example",
            8443,
            True,
        ),
    ],
)
def test_the_addresses_of_a_broker_are_derived_from_its_url(
    url: str, auth: str, socket: str, health: str, host: str, port: int, is_secure: bool
) -> None:
    found = parse_broker(url)
    assert found[1:] == (auth, socket, health, host, port, is_secure, False, None)
    assert urls_of(config({}, broker=url)) == (found,)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://n8n:5679", "http://n8n:5679"),
        ("http://n8n:5679/", "http://n8n:5679"),
        ("wss://n8n/path/", "https://n8n/path"),
    ],
)
def test_a_broker_is_shown_as_http_without_a_slash(url: str, base: str) -> None:
    assert parse_broker(url).base == base


@pytest.mark.parametrize(
    ("url", "address", "base"),
    [
        ("dns+http://n8n.test:5679", "10.0.0.7", "http://10.0.0.7:5679"),
        ("DNS+HTTPS://n8n.test/path/", "10.0.0.7", "https://10.0.0.7:443/path"),
        ("dns+http://n8n.test:5679", "fd00::7", "http://[fd00::7]:5679"),
    ],
)
def test_a_broker_at_an_address_of_a_name_is_asked_under_the_name(url: str, address: str, base: str) -> None:
    name, plain = parse_broker(url), parse_broker(url[len("dns+") :])
    assert name == plain._replace(base=f"dns+{plain.base}", is_name=True)
    assert name.at(address) == plain._replace(base=base, address=address)


def test_several_brokers_may_be_given_in_every_form() -> None:
    expected = ("http://one", "http://two:1")
    for given in (list(expected), expected, iter(expected), dict.fromkeys(expected)):
        assert config({}, broker=given).broker == expected
    text = " http://one , http://two:1, "
    assert config({"N8N_RUNNERS_TASK_BROKER_URI": text}).broker == expected
    assert RunnerConfig(broker="http://one", auth_token=SECRET).broker == ("http://one",)  # type: ignore[arg-type]
    assert Runner(list(expected), auth_token=SECRET).config.broker == expected


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "expected http:// or https:// and a host"),
        ("n8n", "expected http:// or https:// and a host"),
        ("n8n:5679", "expected http:// or https:// and a host"),
        ("127.0.0.1:5679", "expected http:// or https:// and a host"),
        ("ftp://n8n", "expected http:// or https:// and a host"),
        ("dns+ftp://n8n", "expected http:// or https:// and a host"),
        ("dns://n8n", "expected http:// or https:// and a host"),
        ("//n8n", "expected http:// or https:// and a host"),
        ("http://", "expected a host"),
        ("http:///runners", "expected a host"),
        ("http://:5679", "expected a host"),
        ("http://n8n:port", "expected a port from 1 to 65535"),
        ("http://n8n:0", "expected a port from 1 to 65535"),
        ("http://n8n:65536", "expected a port from 1 to 65535"),
        ("http://n8n:-1", "expected a port from 1 to 65535"),
        ("http://n8n/a path", "expected ASCII without spaces"),
        ("http://my n8n", "expected ASCII without spaces"),
        ("http://bücher.example", "expected ASCII without spaces"),
        ("http://n8n\r\nX: y", "expected ASCII without spaces"),
        ("http://[::1", "Invalid IPv6 URL"),
    ],
)
def test_a_wrong_address_of_a_broker_is_refused(url: str, says: str) -> None:
    (problem,) = problems({}, broker=url)
    assert problem.startswith(f"broker: {says}")
    assert problem.endswith(f"got {url.strip()!r}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"http://n8n:5679?token={SECRET}", "http://n8n:5679?..."),
        (f"http://n8n:5679/runners#{SECRET}", "http://n8n:5679/runners#..."),
        (f"https://n8n/?a=b&token={SECRET}#c", "https://n8n/?..."),
        (f"n8n:5679?token={SECRET}", "n8n:5679?..."),
        (f"http://n8n?token={SECRET}@{SECRET}", "http://...@..."),
        (f"http://n8n\r\n?token={SECRET}", "http://n8n\r\n?..."),
    ],
)
def test_a_query_in_an_address_is_refused_and_shown_nowhere(url: str, shown: str) -> None:
    (problem,) = problems({}, broker=url)
    assert problem.startswith("broker: expected ")
    assert problem.endswith(f", got {shown!r}")


PASSWORD = "pass-of-the-user"


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{PASSWORD}@n8n:5679",
        f"http://{PASSWORD}@n8n:5679",
        f"http://:{PASSWORD}@n8n:5679",
        f"http://user:{PASSWORD}@n8n:port",
        f"http://user:{PASSWORD}/x@n8n:5679",
        f"http://user:x/{PASSWORD}@n8n:5679",
        f"http://user:x@{PASSWORD}@n8n:5679",
        f"http://user:x@{PASSWORD}ü@n8n:5679",
        f"http://user:{PASSWORD}@n8n/a path",
        f"user:{PASSWORD}@n8n:5679",
        f"ftp://user:{PASSWORD}@n8n",
        f"dns+http://user:{PASSWORD}@n8n",
        f"http://user:{PASSWORD}\n@n8n",
        f"http://user:{PASSWORD}?x@n8n",
        "http://@n8n",
    ],
)
def test_a_password_in_an_address_is_refused_and_shown_nowhere(url: str) -> None:
    for given in (url, [url], [url, "http://other"]):
        with pytest.raises(ConfigurationError) as caught:
            RunnerConfig(broker=given, auth_token=SECRET)  # type: ignore[arg-type]
        text = "".join(traceback.format_exception(type(caught.value), caught.value, caught.tb))
        assert PASSWORD not in text
        assert "...@" in str(caught.value)
    with pytest.raises(ValueError, match="expected"):
        parse_broker(url)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "expected one URL or several, got nothing"),
        (5, "expected one URL or several, got int"),
        (b"http://n8n", "expected one URL or several, got bytes"),
        (object, "expected one URL or several, got type"),
        ([5], "expected a URL, got int"),
        ([None], "expected a URL, got nothing"),
        ([b"http://n8n"], "expected"),
    ],
)
def test_a_value_that_names_no_broker_is_refused(given: Any, says: str) -> None:
    (problem,) = problems({}, broker=given)
    assert problem.startswith(f"broker: {says}")


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("http://n8n:5679", "http://n8n:5679", True),
        ("http://n8n:5679", "http://n8n:5679/", True),
        ("http://n8n:5679", "dns+http://n8n:5679", True),
        ("http://n8n:5679", "ws://N8N:5679/runners", True),
        ("http://n8n", "http://n8n:80", True),
        ("http://n8n:5679", "http://n8n:5680", False),
        ("http://n8n:5679", "http://n8n:5679/other", False),
        ("http://n8n:5679", "http://other:5679", False),
    ],
)
def test_a_broker_may_be_named_once_only(first: str, second: str, same: bool) -> None:
    if not same:
        assert len(urls_of(config({}, broker=[first, second]))) == 2
        return
    (problem,) = problems({}, broker=[first, second, "http://third"])
    assert "is named more than once" in problem


# --- mistakes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("capacity", 0, "expected an integer, from 1 to 100000, got 0"),
        ("capacity", -1, "expected an integer"),
        ("capacity", 100_001, "expected an integer"),
        ("capacity", 1.5, "expected an integer"),
        ("capacity", 5.0, "expected an integer"),
        ("capacity", "5", "expected an integer"),
        ("capacity", True, "expected an integer"),
        ("task_timeout", 0, "expected a number of seconds, from 0.001 to 4e+06, got 0"),
        ("task_timeout", -1.0, "expected a number of seconds"),
        ("task_timeout", float("nan"), "expected a number of seconds"),
        ("task_timeout", float("inf"), "expected a number of seconds"),
        ("task_timeout", 1e10, "expected a number of seconds"),
        ("task_timeout", "1", "expected a number of seconds"),
        ("task_timeout", True, "expected a number of seconds"),
        ("max_payload", 1023, "expected an integer, 1024 or more, got 1023"),
        ("max_payload", 2048.0, "expected an integer"),
        ("graceful_shutdown_timeout", -0.1, "expected a number of seconds, from 0"),
        ("graceful_shutdown_timeout", float("inf"), "expected a number of seconds, from 0"),
        ("auto_shutdown_timeout", -1, "expected a number of seconds, from 0"),
        ("health_check_enabled", "true", "expected True or False, got 'true'"),
        ("health_check_enabled", 1, "expected True or False, got 1"),
        ("health_check_host", "", "expected a host name or address"),
        ("health_check_host", 7, "expected a host name or address"),
        ("health_check_port", -1, "expected an integer, from 0 to 65535"),
        ("health_check_port", 65536, "expected an integer, from 0 to 65535"),
        ("health_check_allowed_hosts", ["runner:5681"], "expected host names without a port"),
        ("health_check_allowed_hosts", "runner", "expected host names without a port"),
        ("health_check_allowed_hosts", [7], "expected host names without a port"),
        ("error_details", "no", "expected True or False, got 'no'"),
        ("log_calls", 1, "expected True or False, got 1"),
        ("name", "", "expected 1 to 64 letters"),
        ("name", "x" * 65, "expected 1 to 64 letters"),
        ("name", "with/slash", "expected 1 to 64 letters"),
        ("name", "ü", "expected 1 to 64 letters"),
        ("name", 5, "expected 1 to 64 letters"),
        ("runner_id", "", "expected a non-empty string"),
        ("runner_id", "  ", "expected a non-empty string"),
        ("runner_id", 5, "expected a non-empty string"),
        ("auth_token", "", "expected printable ASCII characters on one line"),
        ("auth_token", "  ", "expected printable ASCII characters on one line"),
        ("auth_token", 5, "expected printable ASCII characters on one line"),
        ("auth_token", "two\nlines", "expected printable ASCII characters on one line"),
        ("auth_token", "ümlaut", "expected printable ASCII characters on one line"),
        ("grant_token", "", "expected printable ASCII characters on one line"),
        ("grant_token", "two\r\nlines", "expected printable ASCII characters on one line"),
        ("auth_token_file", "", "expected a non-empty string"),
        ("auth_token_file", "/nowhere/token", "cannot read '/nowhere/token': No such file or directory"),
        ("auth_token_file", "/", "cannot read '/': Is a directory"),
    ],
)
def test_a_wrong_value_is_refused_with_the_expectation(field: str, value: Any, says: str) -> None:
    given = {field: value} if "token" in field else {field: value, "auth_token": SECRET}
    for build in (lambda: RunnerConfig(**given), lambda: RunnerConfig.from_env({}, **given)):
        with pytest.raises(ConfigurationError) as caught:
            build()
        (problem,) = caught.value.problems
        assert problem.startswith(f"{field}: {says}")


@pytest.mark.parametrize(
    ("variable", "text", "says"),
    [
        ("N8N_RUNNERS_MAX_CONCURRENCY", "many", "expected an integer, from 1 to 100000, got 'many'"),
        ("N8N_RUNNERS_MAX_CONCURRENCY", "1.5", "expected an integer, from 1 to 100000, got '1.5'"),
        ("N8N_RUNNERS_MAX_CONCURRENCY", "1e3", "expected an integer, from 1 to 100000, got '1e3'"),
        ("N8N_RUNNERS_MAX_PAYLOAD", "1GB", "expected an integer, 1024 or more, got '1GB'"),
        (
            "N8N_RUNNERS_TASK_TIMEOUT",
            "5 min",
            "expected a number of seconds, from 0.001 to 4e+06, got '5 min'",
        ),
        ("N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT", "http", "expected an integer, from 0 to 65535, got 'http'"),
    ],
)
def test_a_variable_with_a_wrong_value_is_refused(
    variable: str, text: str, says: str, tmp_path: Path
) -> None:
    assert problems({variable: text}) == [f"{variable}: {says}"]
    path = tmp_path / "setting"
    path.write_text(text)
    expected = says.split(", got ")[0]
    assert problems({f"{variable}_FILE": str(path)}) == [
        f"{variable}_FILE: {expected}, got the text of {str(path)!r}"
    ]


@pytest.mark.parametrize("secret", [SECRET, "1234567890123", "-5", "{[:,", "http://secret:secret/", "a\nb"])
@pytest.mark.parametrize("variable", [*VARIABLES.values()])
def test_the_text_of_a_wrong_file_is_not_shown(variable: str, secret: str, tmp_path: Path) -> None:
    """As if the variable of another setting named the token's file."""
    path = tmp_path / "token"
    path.write_text(secret)
    environment = {f"{variable}_FILE": str(path), "N8N_RUNNERS_TASK_BROKER_URI": "http://n8n:5679"}
    if variable == "N8N_RUNNERS_TASK_BROKER_URI":
        del environment[variable]
    text = ""
    try:
        config(environment)
    except ConfigurationError:
        text = traceback.format_exc()
    assert secret not in text.replace(str(tmp_path), "")
    assert repr(secret) not in text
    assert not text or "the text of" in text or str(path) in text or "printable ASCII" in text


def test_an_error_about_a_variable_names_the_variable() -> None:
    (problem,) = problems({"N8N_RUNNERS_MAX_CONCURRENCY": "0"})
    assert problem == ("capacity: expected an integer, from 1 to 100000, got 0 (N8N_RUNNERS_MAX_CONCURRENCY)")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file or directory"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b'""', "is empty"),
        (b"\xff\xfe", "it is not UTF-8"),
    ],
)
def test_an_unreadable_file_is_refused(content: Any, says: str, tmp_path: Path) -> None:
    path = tmp_path / "setting"
    if content is not None:
        path.write_bytes(content)
    for variable in ("N8N_RUNNERS_MAX_CONCURRENCY", "N8N_RUNNERS_GRANT_TOKEN"):
        (problem,) = problems({f"{variable}_FILE": str(path)})
        assert problem.startswith(f"{variable}_FILE: ")
        assert says in problem
        assert str(path) in problem
    with pytest.raises(ConfigurationError, match=f"^auth_token_file: .*{says}"):
        RunnerConfig.from_env({"N8N_RUNNERS_AUTH_TOKEN_FILE": str(path)})


def test_a_missing_token_is_reported() -> None:
    (problem,) = missing_token(RunnerConfig.from_env({}))
    assert "auth_token: expected the secret shared with n8n" in problem
    assert "N8N_RUNNERS_AUTH_TOKEN" in problem
    with pytest.raises(ConfigurationError) as caught:
        RunnerConfig.from_env({}, capacity=0)
    assert len(caught.value.problems) == 2
    assert problem in caught.value.problems
    with pytest.raises(ConfigurationError) as caught:
        RunnerConfig.from_env({"N8N_RUNNERS_MAX_CONCURRENCY": "many"})
    assert len(caught.value.problems) == 2
    assert problem in caught.value.problems


@pytest.mark.parametrize("token", [{"auth_token": SECRET}, {"grant_token": SECRET}])
def test_with_a_token_nothing_is_missing(token: dict[str, str]) -> None:
    assert missing_token(RunnerConfig(**token)) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("broker", [["http://a", "http://b"], "dns+http://a"])
def test_a_grant_is_for_one_broker(broker: Any) -> None:
    assert problems({}, grant_token="grant", broker=broker) == [
        "grant_token: expected one broker, because a grant is for one connection"
    ]
    assert config({}, grant_token="grant", broker="http://a").grant_token == "grant"


def test_only_a_grant_without_a_secret_is_one_shot(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(SECRET)
    assert is_one_shot(RunnerConfig(grant_token="grant"))
    assert not is_one_shot(RunnerConfig(grant_token="grant", auth_token=SECRET))
    assert not is_one_shot(RunnerConfig(grant_token="grant", auth_token_file=str(path)))
    assert not is_one_shot(RunnerConfig(auth_token=SECRET))


def test_every_mistake_is_in_one_error() -> None:
    environment = {
        "N8N_RUNNERS_TASK_BROKER_URI": "n8n, http://ok, http://ok:0",
        "N8N_RUNNERS_AUTH_TOKEN_FILE": "/nowhere/token",
        "N8N_RUNNERS_MAX_CONCURRENCY": "many",
        "N8N_RUNNERS_MAX_PAYLOAD_FILE": "/nowhere/payload",
        "N8N_RUNNERS_TASK_TIMEOUT": "-1",
        "N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED": "maybe",
        "N8N_RUNNERS_ID": "ok",
    }
    with pytest.raises(ConfigurationError) as caught:
        RunnerConfig.from_env(environment, name="a/b", health_check_port=-1)
    found = [problem.split(":")[0] for problem in caught.value.problems]
    assert sorted(found) == [
        "N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED",
        "N8N_RUNNERS_MAX_CONCURRENCY",
        "N8N_RUNNERS_MAX_PAYLOAD_FILE",
        "auth_token_file",
        "broker",
        "broker",
        "health_check_port",
        "name",
        "task_timeout",
    ]
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.problems == caught.value.problems


def test_everything_wrong_at_once_is_still_a_configuration_error() -> None:
    """No check relies on another one."""
    for value in (None, 5, object(), [], b"x", float("nan")):
        given = {
            field.name: value
            for field in dataclasses.fields(RunnerConfig)
            if not (value is None and field.name in ("auth_token_file", "grant_token", "runner_id"))
        }
        with pytest.raises(ConfigurationError) as caught:
            RunnerConfig(**given)
        assert len(caught.value.problems) >= 9


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'speed'"):
        RunnerConfig.from_env({}, auth_token=SECRET, speed=7)


# --- secrets and shape --------------------------------------------------------------------------------------


def test_no_secret_is_shown_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(SECRET)
    for found in (
        RunnerConfig(auth_token=SECRET),
        RunnerConfig(grant_token=SECRET),
        RunnerConfig(auth_token_file=str(path)),
    ):
        assert SECRET not in repr(found)
        assert SECRET not in str(found)
        assert SECRET not in f"{found}"
    runner = Runner(auth_token=SECRET)
    assert SECRET not in repr(runner)
    assert SECRET not in repr(runner.snapshot())


@pytest.mark.parametrize("field", ["auth_token", "grant_token"])
@pytest.mark.parametrize("secret", [f"{SECRET}\nmore", f"{SECRET}ü"])
def test_a_wrong_secret_is_not_in_the_error(field: str, secret: str) -> None:
    variable = VARIABLES[field]
    for build in (
        lambda: RunnerConfig(**{field: secret}),
        lambda: Runner(**{field: secret}),
        lambda: RunnerConfig.from_env({variable: secret}),
    ):
        with pytest.raises(ConfigurationError) as caught:
            build()
        # The traceback quotes lines of this file, which hold the name of the secret and not itself.
        text = "".join(traceback.format_exception(type(caught.value), caught.value, caught.tb))
        assert SECRET not in text


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        config({}).capacity = 6  # type: ignore[misc]


def test_settings_can_be_copied_with_a_change() -> None:
    changed = dataclasses.replace(config({}), capacity=6)
    assert changed == config({}, capacity=6)
    assert hash(changed) == hash(config({}, capacity=6))
    with pytest.raises(ConfigurationError):
        dataclasses.replace(config({}), capacity=0)


def test_the_fields_are_the_keywords_of_runner() -> None:
    parameters = inspect.signature(Runner).parameters
    extras = {"executor", "task_context", "on_undelivered", "shared"}  # of this program, not of its settings
    assert set(parameters) - extras == {field.name for field in dataclasses.fields(RunnerConfig)}
    assert parameters["broker"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert parameters["shared"].default is False
    assert {parameters[name].default for name in set(parameters) - {"shared"}} == {None}
    for name, parameter in parameters.items():
        assert name == "broker" or parameter.kind is inspect.Parameter.KEYWORD_ONLY


def test_every_field_reaches_the_runners_config(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(SECRET)
    given = {row[0]: row[4] for row in FIELDS}
    given["broker"] = "http://other"
    given["auth_token_file"] = str(path)
    assert Runner(**given).config == RunnerConfig(**given)


def test_runner_documents_every_parameter_and_the_reference_every_setting() -> None:
    arguments = (inspect.getdoc(Runner) or "").split("Args:")[1].split("Attributes:")[0]
    assert re.findall(r"^    (\w+): ", arguments, re.MULTILINE) == list(inspect.signature(Runner).parameters)
    page = read("docs/reference.md").split("### `RunnerConfig`")[1].split("\n### ")[0]
    assert re.findall(r"^- `(\w+)` \(`", page, re.MULTILINE) == [
        field.name for field in dataclasses.fields(RunnerConfig)
    ]

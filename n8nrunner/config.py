"""The settings of a runner, from arguments or from environment variables.

One `ConfigurationError` reports all mistakes. A field of `RunnerConfig` has the type, the default, the
variable and the valid values of a setting; the docstring of `Runner` describes it.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Callable, NamedTuple, TypeVar
from urllib.parse import urlsplit, urlunsplit

from n8nrunner.errors import ConfigurationError

#: The address on which n8n's broker listens by default.
DEFAULT_BROKER = "http://127.0.0.1:5679"
#: The path below which n8n serves runners by default.
DEFAULT_PATH = "/runners"
#: The name of a runner by default.
DEFAULT_NAME = "n8nrunner"
#: The size of the largest message that n8n accepts by default, in bytes.
DEFAULT_MAX_PAYLOAD = 1024**3

#: The prefix of a URL whose host stands for all its addresses.
_ALL_ADDRESSES = "dns+"
#: Part of the error for a token that was read from a file as it is.
LINE_BREAK_AT_END = "with a line break at its end"
#: Part of the error for a broker's address without a scheme.
NO_SCHEME = "expected http:// or https:// and a host"

_SMALLEST_PAYLOAD = 1024
#: The longest time that Python can wait on every system, in seconds; a month and a half.
_LONGEST = 4_000_000.0


_Value = TypeVar("_Value")
_Number = TypeVar("_Number", int, float)


class BrokerUrl(NamedTuple):
    """The addresses of one broker, or of all brokers with one name."""

    base: str  #: the address as logs and errors show it.
    auth: str  #: the address that answers a ``POST`` with a grant token.
    socket: str  #: the address of the WebSocket.
    health: str  #: the address that answers 200 when n8n is up. It does not include the path.
    host: str
    port: int
    is_secure: bool
    is_name: bool = False  #: whether the host stands for all its addresses, each of them a broker.
    address: str | None = None  #: the IP address of one of them; None to look the host up.

    def at(self, address: str) -> BrokerUrl:
        """Return the URL of the broker at one address of a name.

        `base` shows the address. Requests and TLS use the name, because a proxy or a certificate may need it.
        """
        where = f"[{address}]" if ":" in address else address
        scheme = "https" if self.is_secure else "http"
        path = urlsplit(self.base).path
        return self._replace(base=f"{scheme}://{where}:{self.port}{path}", is_name=False, address=address)


def parse_broker(url: str) -> BrokerUrl:
    """Parse a broker's URL. A path in it replaces ``/runners``. The prefix ``dns+`` means all addresses.

    Raises:
        ValueError: it is not the URL of a broker. The message says why.
    """
    text = url.strip()
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("expected ASCII without spaces; an international name is written as xn--...")
    is_name = _means_all_addresses(text)
    parts = urlsplit(text[len(_ALL_ADDRESSES) :] if is_name else text)
    schemes = {"http": False, "ws": False, "https": True, "wss": True}
    if parts.scheme not in schemes:
        raise ValueError(NO_SCHEME)
    try:
        port = parts.port
    except ValueError:
        raise ValueError("expected a port from 1 to 65535") from None
    if not parts.hostname:
        raise ValueError("expected a host")
    if "@" in parts.netloc:
        raise ValueError("expected no user name or password; the token goes into auth_token")
    if parts.query or parts.fragment:
        raise ValueError("expected no ? and no #")
    if port == 0:
        raise ValueError("expected a port from 1 to 65535")
    is_secure = schemes[parts.scheme]
    port = port or (443 if is_secure else 80)
    path = parts.path.rstrip("/") or DEFAULT_PATH
    http, socket = ("https", "wss") if is_secure else ("http", "ws")

    def address(scheme: str, tail: str) -> str:
        return urlunsplit((scheme, parts.netloc, tail, "", ""))

    return BrokerUrl(
        base=(_ALL_ADDRESSES if is_name else "") + address(http, parts.path.rstrip("/")),
        auth=address(http, f"{path}/auth"),
        socket=address(socket, f"{path}/_ws"),
        health=address(http, "/healthz"),
        host=parts.hostname,
        port=port,
        is_secure=is_secure,
        is_name=is_name,
    )


def _means_all_addresses(url: object) -> bool:
    return isinstance(url, str) and url.strip().lower().startswith(_ALL_ADDRESSES)


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return a host's IP address; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Return whether a host name or address means this machine."""
    address = address_of(host)
    return host == "localhost" or (address is not None and address.is_loopback)


class _Setting(NamedTuple):
    """The properties of a setting besides its type and its default, which is valid in any case."""

    #: its environment variable. The variable with ``_FILE`` appended names a file with its value, which is
    #: read if the variable itself is not set.
    variable: str
    expected: str  #: the valid values, for an error.
    is_valid: Callable[[object], bool]  #: returns whether a value is valid.
    parse: Callable[[str], object]  #: converts a variable's text to the value, or raises ValueError.


def _is_filled(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _setting(
    default: _Value,
    variable: str,
    expected: str = "a non-empty string",
    is_valid: Callable[[object], bool] = _is_filled,
    parse: Callable[[str], object] = str,
    is_secret: bool = False,
) -> _Value:
    """Return a field of `RunnerConfig`."""
    setting = _Setting(variable, expected, is_valid, parse)
    return field(default=default, repr=not is_secret, metadata={"setting": setting})


def _number(default: _Number, variable: str, least: float, most: float = math.inf) -> _Number:
    """Return a field that is an integer, or a number of seconds if its default is a float."""
    kind = type(default)
    name, types = ("an integer", int) if kind is int else ("a number of seconds", (int, float))
    bounds = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"

    def is_valid(value: object) -> bool:
        return isinstance(value, types) and not isinstance(value, bool) and least <= value <= most

    return _setting(default, variable, f"{name}, {bounds}", is_valid, kind)


def _parse_list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _matches(pattern: str) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and bool(re.fullmatch(pattern, value))


def _is_boolean(value: object) -> bool:
    return isinstance(value, bool)


_TOKEN = "printable ASCII characters on one line"


def _is_token(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isascii() and value.isprintable()


_is_name = _matches(r"[A-Za-z0-9_ -]{1,64}")
_is_host = _matches(r"[A-Za-z0-9_.-]{1,253}")


def _parse_boolean(text: str) -> bool:
    if text.lower() not in ("true", "1", "false", "0"):
        raise ValueError
    return text.lower() in ("true", "1")


@dataclass(frozen=True)
class RunnerConfig:
    """The settings of a runner, as `Runner.config` has them. They are checked when the object is built.

    `Runner` has a parameter for each attribute. Times are in seconds, sizes in bytes.

    Raises:
        ConfigurationError: with all mistakes. A missing token alone is an error only when the runner starts.
    """

    broker: tuple[str, ...] = _setting(
        (DEFAULT_BROKER,),
        "N8N_RUNNERS_TASK_BROKER_URI",
        "http:// or https:// URLs",
        lambda value: True,  # `_check_brokers` checks them, because an error must not show a password
        _parse_list,
    )
    auth_token: str | None = _setting(None, "N8N_RUNNERS_AUTH_TOKEN", _TOKEN, _is_token, is_secret=True)
    auth_token_file: str | None = None
    grant_token: str | None = _setting(None, "N8N_RUNNERS_GRANT_TOKEN", _TOKEN, _is_token, is_secret=True)
    runner_id: str | None = _setting(None, "N8N_RUNNERS_ID")
    name: str = _setting(
        DEFAULT_NAME, "N8NRUNNER_NAME", "1 to 64 letters, digits, spaces, '_' or '-'", _is_name
    )
    capacity: int = _number(5, "N8N_RUNNERS_MAX_CONCURRENCY", 1, 100_000)
    task_timeout: float = _number(300.0, "N8N_RUNNERS_TASK_TIMEOUT", 0.001, _LONGEST)
    max_payload: int = _number(DEFAULT_MAX_PAYLOAD, "N8N_RUNNERS_MAX_PAYLOAD", _SMALLEST_PAYLOAD)
    graceful_shutdown_timeout: float = _number(10.0, "N8N_RUNNERS_GRACEFUL_SHUTDOWN_TIMEOUT", 0, _LONGEST)
    auto_shutdown_timeout: float = _number(0.0, "N8N_RUNNERS_AUTO_SHUTDOWN_TIMEOUT", 0, _LONGEST)
    health_check_enabled: bool = _setting(
        False, "N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED", "True or False", _is_boolean, _parse_boolean
    )
    health_check_host: str = _setting(
        "127.0.0.1", "N8N_RUNNERS_HEALTH_CHECK_SERVER_HOST", "a host name or address"
    )
    health_check_port: int = _number(5681, "N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT", 0, 65535)
    health_check_allowed_hosts: tuple[str, ...] = _setting(
        (),
        "N8NRUNNER_HEALTH_CHECK_ALLOWED_HOSTS",
        "host names without a port, such as ['runner.example']",
        lambda value: isinstance(value, tuple) and all(map(_is_host, value)),
        _parse_list,
    )
    error_details: bool = _setting(
        True, "N8NRUNNER_ERROR_DETAILS", "True or False", _is_boolean, _parse_boolean
    )
    log_calls: bool = _setting(False, "N8NRUNNER_LOG_CALLS", "True or False", _is_boolean, _parse_boolean)

    def __post_init__(self) -> None:
        try:
            directory = os.getcwd()
        except OSError:  # it has been removed
            directory = ""
        object.__setattr__(self, "_directory", directory)
        if isinstance(self.auth_token_file, str) and self.auth_token_file.strip():
            object.__setattr__(self, "auth_token_file", os.path.join(directory, self.auth_token_file))
        broker: object = self.broker
        if isinstance(broker, str):
            object.__setattr__(self, "broker", (broker,))
        elif isinstance(broker, Iterable) and not isinstance(broker, bytes):
            object.__setattr__(self, "broker", tuple(broker))
        hosts: object = self.health_check_allowed_hosts
        if isinstance(hosts, (list, set, frozenset)):
            object.__setattr__(self, "health_check_allowed_hosts", tuple(hosts))
        problems: list[str] = []
        for name, setting in _SETTINGS.items():
            value = getattr(self, name)
            if value is not getattr(RunnerConfig, name) and not setting.is_valid(value):
                shown = _about_secret(value) if name in _SECRETS else f", got {value!r}"
                problems.append(f"{name}: expected {setting.expected}{shown} ({setting.variable})")
        self._check_brokers(problems)
        self._check_tokens(problems)
        if problems:
            raise ConfigurationError([*problems, *missing_token(self)])

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None, **given: object) -> RunnerConfig:
        """Return the settings from arguments and environment variables. Arguments take precedence.

        Args:
            environment: the variables; None for those of the process.
            **given: attributes by name; None for the value of the variable, or else the default.

        Raises:
            ConfigurationError: with all mistakes in variables and arguments.
        """
        environment = os.environ if environment is None else environment
        problems: list[str] = []
        values: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        for name, setting in _SETTINGS.items():
            if name in values or (name == "auth_token" and "auth_token_file" in values):
                continue
            source = setting.variable
            text = _plain(environment.get(source, ""))
            path = "" if text else _plain(environment.get(f"{source}_FILE", ""))
            if path:
                source = f"{source}_FILE"
                if name == "auth_token":
                    values["auth_token_file"] = path
                    continue
                try:
                    text = _read_file(path)
                except ValueError as error:
                    problems.append(f"{source}: {error}")
                    continue
            if not text:
                continue
            try:
                value: Any = setting.parse(text)
                if path:  # checked here, because it may be the wrong file, whose text no error shows
                    cls(**{name: value})
                values[name] = value
            except (ValueError, ConfigurationError):
                shown = f"the text of {path!r}" if path else repr(text)
                problems.append(f"{source}: expected {setting.expected}, got {shown}")
        try:
            config = cls(**values)
        except ConfigurationError as error:
            raise ConfigurationError([*problems, *error.problems]) from None
        if problems:
            raise ConfigurationError([*problems, *missing_token(config)])
        return config

    def _check_brokers(self, problems: list[str]) -> None:
        if not isinstance(self.broker, tuple) or not self.broker:
            problems.append(f"broker: expected one URL or several, got {_for_error(self.broker)}")
            return
        seen = set()
        for url in self.broker:
            try:
                parsed = parse_broker(url)
            except AttributeError:
                problems.append(f"broker: expected a URL, got {_for_error(url)}")
                continue
            except ValueError as error:
                problems.append(f"broker: {error}, got {_for_error(url)}")
                continue
            address = (parsed.host, parsed.port, urlsplit(parsed.socket).path)
            if address in seen:
                problems.append(f"broker: {parsed.base} is named more than once")
            seen.add(address)

    def _check_tokens(self, problems: list[str]) -> None:
        if self.auth_token_file is not None and not _is_filled(self.auth_token_file):
            problems.append("auth_token_file: expected a non-empty string")
        elif self.auth_token_file is not None:
            try:
                read_auth_token(self)
            except ConfigurationError as error:
                problems.extend(error.problems)
        brokers = self.broker if isinstance(self.broker, tuple) else ()
        is_one = len(brokers) <= 1 and not any(map(_means_all_addresses, brokers))
        if self.grant_token is not None and not is_one:
            problems.append("grant_token: expected one broker, because a grant is for one connection")


def missing_token(config: RunnerConfig) -> list[str]:
    """Return the problem that keeps a runner with these settings from starting; empty if there is a token.

    It is not an error before the start, because a program with a runner in it is also imported where there is
    no n8n, such as by its tests or for a migration of its database.
    """
    if any(token is not None for token in (config.auth_token, config.auth_token_file, config.grant_token)):
        return []
    return [
        "auth_token: expected the secret shared with n8n "
        "(auth_token=..., or N8N_RUNNERS_AUTH_TOKEN as n8n has it), got none"
    ]


def directory_of(config: RunnerConfig) -> str:
    """Return the folder to which paths are relative: the current one when the settings were built."""
    directory: str = config.__dict__["_directory"]
    return directory


def urls_of(config: RunnerConfig) -> tuple[BrokerUrl, ...]:
    """Return the addresses of all brokers."""
    return tuple(parse_broker(url) for url in config.broker)


def is_one_shot(config: RunnerConfig) -> bool:
    """Return whether there is only a grant token, which serves for one connection."""
    return config.grant_token is not None and config.auth_token is None and config.auth_token_file is None


def read_auth_token(config: RunnerConfig) -> str | None:
    """Return the shared secret. A file is read again each time; raise `ConfigurationError` if it has none."""
    if config.auth_token is not None or config.auth_token_file is None:
        return config.auth_token
    try:
        token = _read_file(config.auth_token_file)
    except ValueError as error:
        raise ConfigurationError([f"auth_token_file: {error}"]) from None
    if not _is_token(token):
        raise ConfigurationError([f"auth_token_file: expected {_TOKEN} in {config.auth_token_file!r}"])
    return token


def _plain(text: str) -> str:
    """Return a text without surrounding white space and one pair of quotes, as n8n does."""
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return text


def _about_secret(value: object) -> str:
    """Return what an error says about a wrong secret, without the secret."""
    is_line = isinstance(value, str) and value != value.rstrip("\r\n") and _is_token(value.rstrip("\r\n"))
    return f", got text {LINE_BREAK_AT_END}; remove it with strip()" if is_line else ""


#: Every setting but `auth_token_file`, which has the variable of `auth_token` with ``_FILE`` appended.
_SETTINGS: dict[str, _Setting] = {
    item.name: item.metadata["setting"] for item in fields(RunnerConfig) if item.metadata
}

#: The settings whose values no error shows.
_SECRETS = [item.name for item in fields(RunnerConfig) if not item.repr]


def _read_file(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            text = _plain(file.read())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(f"cannot read {path!r}: {reason}") from None
    if not text:
        raise ValueError(f"the file {path!r} is empty")
    return text


def _for_error(url: object) -> str:
    """Return how an error shows a value that was given as a URL: without user name, password and query."""
    if not isinstance(url, str):
        return "nothing" if url is None or url == () else type(url).__name__
    text = url.strip()
    query = re.search(r"[?#]", text)
    if query and "@" in text[query.end() :]:
        # The "?" may be a part of a password, so only the scheme is certain not to be one.
        return repr(re.sub(r"^([a-z+]*://)?.*", r"\1...@...", text, flags=re.DOTALL | re.IGNORECASE))
    if query:
        text = f"{text[: query.end()]}..."
    return repr(re.sub(r"^([a-z+]*:?//)?.*@", r"\1...@", text, flags=re.DOTALL | re.IGNORECASE))

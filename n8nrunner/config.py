"""All settings of a runner: from arguments, or from the environment variables that n8n's own runners read.

Every mistake is reported, all of them in one `ConfigurationError`.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Callable, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from n8nrunner.errors import ConfigurationError

#: Where n8n's broker listens unless told otherwise.
DEFAULT_BROKER = "http://127.0.0.1:5679"
#: The path below which n8n serves runners unless told otherwise.
DEFAULT_PATH = "/runners"
#: A runner's name unless it is told one.
DEFAULT_NAME = "n8nrunner"
#: The largest message that n8n takes unless told otherwise, in bytes.
DEFAULT_MAX_PAYLOAD = 1024**3

_SMALLEST_PAYLOAD = 1024
#: Python waits no longer than this on every system; it is a month and a half.
_MOST_SECONDS = 4_000_000.0
_NAME = re.compile(r"[A-Za-z0-9_ -]{1,64}")
_HOST = re.compile(r"[A-Za-z0-9_.-]{1,253}")


class BrokerUrl(NamedTuple):
    """The addresses of one broker."""

    #: As it is shown: without user name, password and query.
    base: str
    #: ``POST`` here for a grant token.
    auth: str
    #: The WebSocket.
    socket: str
    #: Answers 200 when n8n is up; never below the path.
    health: str
    host: str
    port: int
    is_secure: bool


def parse_broker(url: str) -> BrokerUrl:
    """Reads a broker's URL; a path in it replaces ``/runners``.

    Raises:
        ValueError: it is not the URL of a broker; the message says why.
    """
    text = url.strip()
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("expected ASCII without spaces; an international name is written as xn--...")
    parts = urlsplit(text)
    schemes = {"http": False, "ws": False, "https": True, "wss": True}
    if parts.scheme not in schemes:
        raise ValueError("expected http:// or https:// and a host")
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
        base=address(http, parts.path.rstrip("/")),
        auth=address(http, f"{path}/auth"),
        socket=address(socket, f"{path}/_ws"),
        health=address(http, "/healthz"),
        host=parts.hostname,
        port=port,
        is_secure=is_secure,
    )


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class RunnerConfig:
    """The settings of a runner, checked when it is built.

    The environment variable of each is in `VARIABLES`. Seconds and bytes everywhere.

    Attributes:
        broker: the brokers' URLs.
        auth_token: the secret shared with n8n.
        auth_token_file: a file that holds it, read again for every attempt to connect. A relative path is
            made absolute when the settings are built.
        grant_token: a one-shot grant from a launcher; the secret, if there is one, serves for reconnecting.
        runner_id: the id towards n8n; None for a fresh one per connection.
        name: shown in n8n's log.
        capacity: how many tasks may run at once.
        task_timeout: seconds that a task may take.
        max_payload: bytes that a message may have, in both directions.
        graceful_shutdown_timeout: seconds that running tasks get when the runner stops.
        auto_shutdown_timeout: seconds without a task after which the runner stops; 0 for never.
        health_check_enabled: whether a health check server runs.
        health_check_host: the address on which it listens.
        health_check_port: the port on which it listens; 0 for any free one.
        health_check_allowed_hosts: names in the Host header to which its ``/status`` answers, besides this
            machine's addresses.

    Raises:
        ConfigurationError: with all mistakes. A missing token is an error only when the runner starts.
    """

    broker: tuple[str, ...] = (DEFAULT_BROKER,)
    auth_token: str | None = field(default=None, repr=False)
    auth_token_file: str | None = None
    grant_token: str | None = field(default=None, repr=False)
    runner_id: str | None = None
    name: str = DEFAULT_NAME
    capacity: int = 5
    task_timeout: float = 300.0
    max_payload: int = DEFAULT_MAX_PAYLOAD
    graceful_shutdown_timeout: float = 10.0
    auto_shutdown_timeout: float = 0.0
    health_check_enabled: bool = False
    health_check_host: str = "127.0.0.1"
    health_check_port: int = 5681
    health_check_allowed_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "_directory", _current_directory())
        if isinstance(self.auth_token_file, str) and self.auth_token_file.strip():
            object.__setattr__(self, "auth_token_file", os.path.join(self.directory, self.auth_token_file))
        broker: Any = self.broker
        if isinstance(broker, str):
            object.__setattr__(self, "broker", (broker,))
        elif isinstance(broker, Iterable) and not isinstance(broker, bytes):
            object.__setattr__(self, "broker", tuple(broker))
        hosts: Any = self.health_check_allowed_hosts
        if isinstance(hosts, (list, set, frozenset)):
            object.__setattr__(self, "health_check_allowed_hosts", tuple(hosts))
        problems = self._problems()
        if problems:
            raise ConfigurationError([*problems, *self.missing()])

    def missing(self) -> list[str]:
        """What a runner cannot start without: the problems, none if there is a token.

        Settings without one are no error before that, because a program that has a runner in it is also
        imported where there is no n8n, as by its tests or for a migration of its database.
        """
        if any(token is not None for token in (self.auth_token, self.auth_token_file, self.grant_token)):
            return []
        return [
            "auth_token: expected the secret shared with n8n "
            "(auth_token=..., or N8N_RUNNERS_AUTH_TOKEN as n8n has it), got none"
        ]

    @property
    def directory(self) -> str:
        """The folder in which relative paths begin: the current one when the settings were built."""
        directory: str = self.__dict__["_directory"]
        return directory

    @property
    def urls(self) -> tuple[BrokerUrl, ...]:
        """The addresses of all brokers."""
        return tuple(parse_broker(url) for url in self.broker)

    @property
    def is_one_shot(self) -> bool:
        """Whether there is a grant token only, which is good for one connection."""
        return self.grant_token is not None and self.auth_token is None and self.auth_token_file is None

    def read_auth_token(self) -> str | None:
        """The shared secret as it is now: a file is read again each time.

        Raises:
            ConfigurationError: the file cannot be read or is empty.
        """
        if self.auth_token is not None or self.auth_token_file is None:
            return self.auth_token
        try:
            token = _read_file(self.auth_token_file)
        except ValueError as error:
            raise ConfigurationError([f"auth_token_file: {error}"]) from None
        if not _is_token(token):
            raise ConfigurationError([f"auth_token_file: {_NO_TOKEN} in the file {self.auth_token_file!r}"])
        return token

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None, **given: Any) -> RunnerConfig:
        """Settings from environment variables, over which the arguments win.

        Args:
            environment: the variables; None for those of the process.
            given: fields by name; None means not given.

        Raises:
            ConfigurationError: with everything that is wrong, in variables and arguments.
        """
        environment = os.environ if environment is None else environment
        problems: list[str] = []
        #: Fields whose value is the text of a file, which may be the wrong file and hold a secret.
        from_files: dict[str, str] = {}
        values: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        unknown = set(values) - {item.name for item in fields(cls)}
        if unknown:
            raise TypeError(f"RunnerConfig has no field {', '.join(sorted(unknown))}")
        for name, (variable, parse) in VARIABLES.items():
            if name in values or (name == "auth_token" and "auth_token_file" in values):
                continue
            text = _plain(environment.get(variable, ""))
            source = variable
            path = _plain(environment.get(f"{variable}_FILE", ""))
            if not text and path:
                source = f"{variable}_FILE"
                if name == "auth_token":
                    values["auth_token_file"] = path
                    continue
                try:
                    text = _read_file(path)
                except ValueError as error:
                    problems.append(f"{source}: {error}")
                    continue
                from_files[name] = source
            if not text:
                continue
            try:
                values[name] = parse(text)
            except ValueError as error:
                if name in from_files:
                    shown = f", got the text of {path!r}"
                else:
                    shown = "" if name in ("auth_token", "grant_token") else f", got {text!r}"
                problems.append(f"{source}: {error}{shown}")
        try:
            config = cls(**values)
        except ConfigurationError as error:
            found = [_without_text_of_files(problem, from_files) for problem in error.problems]
            raise ConfigurationError([*problems, *found]) from None
        if problems:
            raise ConfigurationError(problems)
        return config

    # --- checks ---------------------------------------------------------------------------------

    def _problems(self) -> list[str]:
        problems: list[str] = []
        self._check_brokers(problems)
        self._check_tokens(problems)
        self._check_number(problems, "capacity", int, 1, 100_000)
        self._check_number(problems, "task_timeout", float, 0.001, _MOST_SECONDS)
        self._check_number(problems, "max_payload", int, _SMALLEST_PAYLOAD)
        self._check_number(problems, "graceful_shutdown_timeout", float, 0, _MOST_SECONDS)
        self._check_number(problems, "auto_shutdown_timeout", float, 0, _MOST_SECONDS)
        self._check_number(problems, "health_check_port", int, 0, 65535)
        if not isinstance(self.health_check_enabled, bool):
            problems.append(
                f"health_check_enabled: expected True or False, got {self.health_check_enabled!r}"
            )
        if not isinstance(self.health_check_host, str) or not self.health_check_host:
            problems.append(
                f"health_check_host: expected a host name or address, got {self.health_check_host!r}"
            )
        hosts = self.health_check_allowed_hosts
        if not isinstance(hosts, tuple) or not all(
            isinstance(name, str) and _HOST.fullmatch(name) for name in hosts
        ):
            problems.append(
                "health_check_allowed_hosts: expected host names without a port, such as ['runner.example'], "
                f"got {hosts!r} ({VARIABLES['health_check_allowed_hosts'][0]})"
            )
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            problems.append(
                f"name: expected 1 to 64 letters, digits, spaces, '_' or '-', got {self.name!r} "
                f"({VARIABLES['name'][0]})"
            )
        if self.runner_id is not None and (not isinstance(self.runner_id, str) or not self.runner_id.strip()):
            problems.append(f"runner_id: expected a text, got {self.runner_id!r}")
        return problems

    def _check_brokers(self, problems: list[str]) -> None:
        if not isinstance(self.broker, tuple) or not self.broker:
            problems.append(f"broker: expected one URL or several, got {_shown(self.broker)}")
            return
        seen = set()
        for url in self.broker:
            try:
                parsed = parse_broker(url)
            except AttributeError:
                problems.append(f"broker: expected a URL, got {_shown(url)}")
                continue
            except ValueError as error:
                problems.append(f"broker: {error}, got {_shown(url)}")
                continue
            address = (parsed.host, parsed.port, urlsplit(parsed.socket).path)
            if address in seen:
                problems.append(f"broker: {parsed.base} is named more than once")
            seen.add(address)

    def _check_tokens(self, problems: list[str]) -> None:
        given = [
            name
            for name in ("auth_token", "auth_token_file", "grant_token")
            if getattr(self, name) is not None
        ]
        for name in given:
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                problems.append(f"{name}: expected a text that is not empty")
            elif name == "auth_token_file":
                try:
                    self.read_auth_token()
                except ConfigurationError as error:
                    problems.extend(error.problems)
            elif not _is_token(value):
                problems.append(f"{name}: {_NO_TOKEN}")
        if self.grant_token is not None and isinstance(self.broker, tuple) and len(self.broker) > 1:
            problems.append("grant_token: expected one broker, because a grant is for one connection")

    def _check_number(
        self, problems: list[str], name: str, kind: type, least: float, most: float = math.inf
    ) -> None:
        value = getattr(self, name)
        allowed = (int,) if kind is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed) or not least <= value <= most:
            what = "a whole number" if kind is int else "a number of seconds"
            limit = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"
            problems.append(f"{name}: expected {what}, {limit}, got {value!r} ({VARIABLES[name][0]})")


def _parse_list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _parse_whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("expected a whole number") from None


def _parse_seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("expected a number of seconds") from None


def _parse_boolean(text: str) -> bool:
    value = {"true": True, "1": True, "false": False, "0": False}.get(text.lower())
    if value is None:
        raise ValueError("expected true, 1, false or 0")
    return value


def _plain(text: str) -> str:
    """Without space and one pair of quotes around it: n8n takes them off, so what works there works here."""
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return text


#: Field, its environment variable (each also as NAME_FILE; the direct one wins), and how its text is read.
VARIABLES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "broker": ("N8N_RUNNERS_TASK_BROKER_URI", _parse_list),
    "auth_token": ("N8N_RUNNERS_AUTH_TOKEN", str),
    "grant_token": ("N8N_RUNNERS_GRANT_TOKEN", str),
    "runner_id": ("N8N_RUNNERS_ID", str),
    "name": ("N8NRUNNER_NAME", str),
    "capacity": ("N8N_RUNNERS_MAX_CONCURRENCY", _parse_whole),
    "task_timeout": ("N8N_RUNNERS_TASK_TIMEOUT", _parse_seconds),
    "max_payload": ("N8N_RUNNERS_MAX_PAYLOAD", _parse_whole),
    "graceful_shutdown_timeout": ("N8N_RUNNERS_GRACEFUL_SHUTDOWN_TIMEOUT", _parse_seconds),
    "auto_shutdown_timeout": ("N8N_RUNNERS_AUTO_SHUTDOWN_TIMEOUT", _parse_seconds),
    "health_check_enabled": ("N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED", _parse_boolean),
    "health_check_host": ("N8N_RUNNERS_HEALTH_CHECK_SERVER_HOST", str),
    "health_check_port": ("N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT", _parse_whole),
    "health_check_allowed_hosts": ("N8NRUNNER_HEALTH_CHECK_ALLOWED_HOSTS", _parse_list),
}


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


def _current_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it has been removed
        return ""


def _without_text_of_files(problem: str, from_files: Mapping[str, str]) -> str:
    """Leave the value out of a problem with a field whose value comes from a file."""
    name = problem.split(":", 1)[0]
    if name not in from_files:
        return problem
    return f"{problem.split(', got ', 1)[0]}, got the text of the file that {from_files[name]} names"


_NO_TOKEN = "expected printable ASCII characters on one line"


def _is_token(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _shown(url: Any) -> str:
    """Return what was given as a URL for an error's text: without user name, password and query."""
    if not isinstance(url, str):
        return "nothing" if url is None or url == () else type(url).__name__
    text = url.strip()
    query = re.search(r"[?#]", text)
    if query and "@" in text[query.end() :]:
        # It ends a password or stands in one: only the scheme is certain to be neither.
        return repr(re.sub(r"^([a-z]*://)?.*", r"\1...@...", text, flags=re.DOTALL | re.IGNORECASE))
    if query:
        text = f"{text[: query.end()]}..."
    return repr(re.sub(r"^([a-z]*:?//)?.*@", r"\1...@", text, flags=re.DOTALL | re.IGNORECASE))

"""Post to a workflow's webhook, and report what came."""

from __future__ import annotations

import threading
import time
from concurrent import futures
from typing import Callable
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
import requests.auth

from n8nrunner.check.facts import Observation, Step, Trouble

#: Seconds to connect.
_CONNECT_TIMEOUT = 5.0
#: Bytes of an answer that are read, and characters of it that are shown.
_MOST_READ = 64 * 1024
_MOST_SHOWN = 200
#: Seconds after which a failure means that n8n waited for a runner: its limit is 60 s by default.
_RUNNER_WAIT = 55.0
#: Texts of n8n and of the nodes of n8nrunner about a task that no runner took.
_NO_RUNNER = ("Task request timed out", 'No runner "', r"No runner \"", "No task runner connected")


def post(url: str, limit: float) -> Observation:
    """Post an empty JSON object to a webhook, and return what came within `limit` seconds."""
    began = time.monotonic()

    def seen(text: str, trouble: Trouble | None = None) -> Observation:
        return Observation(Step.WEBHOOK, text, time.monotonic() - began, trouble)

    answered: futures.Future[tuple[int, bytes]] = futures.Future()

    def ask() -> None:
        try:
            answered.set_result(_ask(url, limit))
        except BaseException as error:  # noqa: BLE001 - raised by `result`
            answered.set_exception(error)

    # A thread, because `requests` reads for as long as a byte comes now and then.
    threading.Thread(target=ask, name="n8nrunner-webhook", daemon=True).start()
    try:
        status, body = answered.result(limit)
    except (futures.TimeoutError, requests.RequestException) as error:
        # `requests` gives up at the same limit, and calls a body that does not come a lost connection.
        is_late = time.monotonic() - began >= limit
        if is_late or isinstance(error, (futures.TimeoutError, requests.ReadTimeout)):
            return seen(f"no answer within {limit:g} s", Trouble.WEBHOOK_SILENT)
        # Its text may hold the password of a proxy.
        return seen(f"cannot be reached ({type(error).__name__})", Trouble.WEBHOOK_UNREACHABLE)
    text = body.decode("utf-8", "replace")
    excerpt = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    if len(excerpt) > _MOST_SHOWN:
        excerpt = f"{excerpt[:_MOST_SHOWN]} ..."
    return seen(
        f"HTTP {status}: {excerpt or 'an empty body'}",
        trouble_of(status, text, time.monotonic() - began),
    )


def _ask(url: str, limit: float) -> tuple[int, bytes]:
    """Post, and return the status and the beginning of the body. Wait `limit` seconds for each part of it."""
    with requests.post(
        url,
        json={},
        auth=_credentials_of(url),
        timeout=(_CONNECT_TIMEOUT, limit),
        allow_redirects=False,
        stream=True,
    ) as answer:
        return answer.status_code, next(answer.iter_content(_MOST_READ), b"")


def _credentials_of(url: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """Return the credentials in a URL for `requests`, which would otherwise take those of a netrc file."""
    parts = urlsplit(url)
    if parts.username is None:
        return lambda request: request
    return requests.auth.HTTPBasicAuth(unquote(parts.username), unquote(parts.password or ""))


def shown(url: str) -> str:
    """Return the URL without a user's name, a password and a query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def trouble_of(status: int, text: str, seconds: float) -> Trouble | None:
    """Return what a webhook's answer means; None for success."""
    if any(part in text for part in _NO_RUNNER):
        return Trouble.NO_RUNNER
    if status < 400:
        return None
    if status in (401, 403):
        return Trouble.WEBHOOK_REFUSED
    if status == 404:
        return Trouble.WEBHOOK_UNKNOWN
    return Trouble.NO_RUNNER if seconds >= _RUNNER_WAIT else Trouble.WORKFLOW_FAILED

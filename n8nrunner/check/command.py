"""Run the check, and print its lines as they come."""

from __future__ import annotations

import shutil
from urllib.parse import urlsplit

from n8nrunner.check import report, walk, webhook
from n8nrunner.check.causes import ASKS_FOR_EDITOR, OLDEST_TESTED_N8N
from n8nrunner.check.facts import Editor, Facts, Observation, Step, Trouble
from n8nrunner.config import (
    LINE_BREAK_AT_END,
    NO_SCHEME,
    BrokerUrl,
    RunnerConfig,
    directory_of,
    is_loopback,
    parse_broker,
    urls_of,
)
from n8nrunner.errors import ConfigurationError
from n8nrunner.protocol.failures import Problem

#: Seconds to wait for a webhook. n8n waits a minute for a runner by default.
WEBHOOK_LIMIT = 90.0
#: Columns of a line at most.
_WIDEST = 100


class Checker:
    """Checks brokers and a webhook, and prints the outcome.

    Attributes:
        failed: the steps that failed.
    """

    def __init__(self) -> None:
        self.failed: list[Observation] = []
        self._width = max(60, min(_WIDEST, shutil.get_terminal_size((_WIDEST, 0)).columns))

    @property
    def is_token_refused(self) -> bool:
        """Whether the first failure is a refused token."""
        return bool(self.failed) and self.failed[0].problem is Problem.TOKEN_REFUSED

    def report_settings(self, error: ConfigurationError) -> None:
        """Print that the settings are wrong."""
        problems = " ".join(error.problems)
        trouble = Trouble.SETTINGS
        if LINE_BREAK_AT_END in problems:
            trouble = Trouble.TOKEN_WITH_LINE_BREAK
        elif NO_SCHEME in problems:
            trouble = Trouble.NO_SCHEME
        failure = Observation(Step.SETTINGS, "; ".join(error.problems), 0.0, trouble)
        self._print_step(failure)
        self._print_causes(Facts(failure))

    def check(self, config: RunnerConfig, editor: str | None = None, hook: str | None = None) -> None:
        """Check each broker, and then the webhook, if there is one and all brokers are in order.

        Args:
            config: the settings.
            editor: the address of n8n's editor; None for that of the webhook, or port 5678 of a broker's
                host.
            hook: the URL of a webhook.
        """
        given = editor or hook
        place = None if given is None else address_of(given)
        self._print_step(Observation(Step.SETTINGS, _about(config), 0.0))
        for url in urls_of(config):
            print(f"\n{url.base}")
            if url.is_name:
                self._check_name(url, config, place)
            else:
                self._check_broker(url, config, place)
        if hook is not None:
            print(f"\n{webhook.shown(hook)}")
            self._check_webhook(hook)
        if not self.failed:
            print("\nEvery step passed.")

    def _check_name(self, url: BrokerUrl, config: RunnerConfig, place: BrokerUrl | None) -> None:
        looked_up, brokers = walk.brokers_at(url)
        self._print_step(looked_up)
        if looked_up.problem is not None:
            self._print_causes(Facts(looked_up, url))
        for broker in brokers:
            print(f"\n{broker.base}")
            self._check_broker(broker, config, place)

    def _check_webhook(self, hook: str) -> None:
        if self.failed:
            self._print_step(Observation(Step.WEBHOOK, "not called before all brokers are in order"))
            return
        outcome = webhook.post(hook, WEBHOOK_LIMIT)
        self._print_step(outcome)
        if outcome.problem is not None:
            self._print_causes(Facts(outcome))

    def _check_broker(self, url: BrokerUrl, config: RunnerConfig, place: BrokerUrl | None) -> None:
        walker = walk.Walk(url, config)
        for last in walker.steps():
            self._print_step(last)
        editor = None
        is_fine, is_refused = last.problem is None, last.problem is Problem.TOKEN_REFUSED
        is_asked = last.problem in ASKS_FOR_EDITOR
        if is_asked or ((is_fine or is_refused) and (place is not None or is_loopback(url.host))):
            editor = walk.look_at_editor(place or walk.editor_of(url), directory_of(config))
            seen = Observation(Step.EDITOR, _seen_of(editor))
            if is_fine and () < editor.numbers < OLDEST_TESTED_N8N:
                last = seen = seen._replace(problem=Trouble.OLD_N8N)
            if editor.answers or is_asked:
                self._print_step(seen)
        # The tested versions remove a line break and quotes. A version that is not known has no numbers.
        if is_refused and (editor is None or editor.numbers < OLDEST_TESTED_N8N):
            last = last._replace(problem=walker.find_accepted_form() or last.problem)
        if last.problem is not None:
            several = len(config.broker) > 1 or url.address is not None
            self._print_causes(Facts(last, url, walker.proxy, editor, walk.is_in_container(), several))

    def _print_step(self, observation: Observation) -> None:
        if observation.problem is not None:
            self.failed.append(observation)
        print(report.step(observation, self._width), flush=True)

    def _print_causes(self, facts: Facts) -> None:
        for line in report.causes(facts, self._width):
            print(line)


def _seen_of(editor: Editor) -> str:
    if not editor.answers:
        return f"no n8n answers at {editor.url}"
    return f"n8n {editor.version or ''} answers at {editor.url}".replace("  ", " ")


def _about(config: RunnerConfig) -> str:
    token = "no token"
    if config.auth_token is not None:
        token = "a token"
    elif config.auth_token_file is not None:
        token = f"the token in {config.auth_token_file}"
    count = len(config.broker)
    return f"{count} broker{'s' if count > 1 else ''}, {token}"


def address_of(url: str) -> BrokerUrl:
    """Return the address of the server of a URL.

    Raises:
        ValueError: it is not the URL of a server. The message says why.
    """
    parts = urlsplit(url)
    return parse_broker(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}")

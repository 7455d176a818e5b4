"""Name the likely causes of a failed step of `n8nrunner check`. PURE.

`_RULES` says which observation has which cause, and under which condition. The causes of all rules that apply
are named in the order of the table, the most likely one first.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Callable, NamedTuple
from urllib.parse import urlsplit

from n8nrunner.check.facts import Facts, Step, Trouble
from n8nrunner.config import is_loopback
from n8nrunner.protocol.failures import Problem

#: The first n8n whose broker sends heartbeats. Older ones lose runners without a sign.
OLDEST_N8N = (1, 69)
#: The oldest n8n that is tested. Before 1.121, a task waits for a runner without an end.
OLDEST_TESTED_N8N = (1, 123)


class Text(NamedTuple):
    """The text about a cause. `{host}` and the other names in `_values` are filled in."""

    is_so: str  #: the cause
    change: str  #: the setting to change, and on which side
    sign: str  #: what tells this cause apart from others, or where to look


class Cause(Enum):
    """A cause of a failure, with its text. The name, in small letters, is its key in the output."""

    # --- the settings here
    TOKEN_ENDS_WITH_LINE_BREAK = Text(
        "The runner's token ends with a line break, as the content of a file does.",
        "Here: pass auth_token_file=PATH, or auth_token=text.strip().",
        "n8n removes white space around its own N8N_RUNNERS_AUTH_TOKEN, and the runner does so with "
        "the variable.",
    )
    URL_WITHOUT_SCHEME = Text(
        "The broker's address has no http:// in front.",
        "Here: set N8N_RUNNERS_TASK_BROKER_URI, or broker=, to an address such as http://127.0.0.1:5679.",
        "n8n's own launcher wants the same form.",
    )
    WRONG_SETTINGS = Text(
        "A setting of the runner cannot work.",
        "Here: correct the settings that the lines above name (docs/settings.md lists all).",
        "n8n was not asked.",
    )
    NO_TOKEN_HERE = Text(
        "The runner has no token.",
        "Here: set N8N_RUNNERS_AUTH_TOKEN (or auth_token=, or --token-file) to n8n's N8N_RUNNERS_AUTH_TOKEN.",
        "Every step before the log-in has passed.",
    )
    ONLY_A_GRANT = Text(
        "The runner has only a grant token, which is valid for one connection. The check leaves it unused.",
        "Here: set N8N_RUNNERS_AUTH_TOKEN for a whole check.",
        "Every step before the log-in has passed.",
    )

    # --- n8n, or the network between
    NOT_RUNNING = Text(
        "n8n does not run on {host}, or has not finished its start.",
        'n8n: start it, and wait for "n8n Task Broker ready" in its log. In external mode '
        "(N8N_RUNNERS_MODE=external), n8n ends at its start without N8N_RUNNERS_AUTH_TOKEN: set it.",
        "n8n's editor at {editor} does not answer either. n8n's log has the reason if it has ended.",
    )
    WORKER_NOT_RUNNING = Text(
        "The n8n process of this broker, such as a worker, does not run on {host}.",
        'n8n: start it, and wait for "n8n Task Broker ready" in its log.',
        "The n8n that answers at {editor} may be another process, such as the main one.",
    )
    BROKER_ON_LOOPBACK = Text(
        "The task broker of n8n listens only on 127.0.0.1 of its machine or container, its default.",
        "n8n: set N8N_RUNNERS_BROKER_LISTEN_ADDRESS=0.0.0.0 and restart n8n.",
        'n8n\'s log has "n8n Task Broker ready on 127.0.0.1". After the change, it has 0.0.0.0.',
    )
    OTHER_PORT = Text(
        "The task broker of n8n has another port than {port}.",
        'Here: use the port that n8n\'s log names in "n8n Task Broker ready on ..., port ...". It is '
        "5679, or n8n's N8N_RUNNERS_BROKER_PORT.",
        "n8n's editor answers at {editor}, so n8n runs.",
    )
    PORT_NOT_PUBLISHED = Text(
        "n8n runs in a container of which only the editor's port is published, and not port {port}.",
        "n8n's container: publish port 5679 (ports: in Compose; 127.0.0.1:{port}:5679 is for programs on "
        "the same machine only), and set N8N_RUNNERS_BROKER_LISTEN_ADDRESS=0.0.0.0 for n8n in it.",
        "`docker ps` lists the published ports of n8n's container.",
    )
    N8N_1_WITHOUT_RUNNERS = Text(
        "n8n {version} starts its task broker only on request.",
        "n8n: set N8N_RUNNERS_ENABLED=true and N8N_RUNNERS_AUTH_TOKEN, and restart n8n. Or update to n8n 2.",
        'n8n\'s log has no line "n8n Task Broker ready".',
    )
    N8N_TOO_OLD = Text(
        "n8n {version} is too old: its task broker is missing, or it loses runners and tasks.",
        "n8n: update to 2.x, or at least to 1.123 with N8N_RUNNERS_ENABLED=true.",
        "The version is that of n8n's editor at {editor}.",
    )
    ANOTHER_CONTAINER = Text(
        "{host} means this container itself, and n8n runs elsewhere.",
        "Here: use the name of n8n's service, such as http://n8n:5679, or "
        "http://host.docker.internal:5679 for n8n on the host. n8n: set "
        "N8N_RUNNERS_BROKER_LISTEN_ADDRESS=0.0.0.0.",
        "This process runs in a container.",
    )
    NAME_OF_ANOTHER_NETWORK = Text(
        "The name {host} is known only inside of the network of n8n's containers.",
        "Here: run the program in the same Docker network (or Kubernetes namespace). Or publish port "
        "{port} of n8n's container, and use the address of its host.",
        "`docker network inspect` lists the members of a network.",
    )
    NO_HOST_GATEWAY = Text(
        "This container does not know its host by the name {host}.",
        'Here: add extra_hosts: ["host.docker.internal:host-gateway"] to the service of this container.',
        "Docker Desktop sets the name by itself; Docker on Linux does not.",
    )
    UNKNOWN_NAME = Text(
        "The name {host} is wrong, or the name server of this machine does not know it.",
        "Here: correct the host in the broker's URL.",
        "`getent hosts {host}` prints an address if this machine knows the name.",
    )
    FIREWALL = Text(
        "A firewall, a security group or a network policy drops connections to port {port}, or {host} "
        "is off.",
        "Network: allow TCP from here to {host}, port {port}.",
        "A closed port refuses at once; a firewall lets the caller wait.",
    )
    MACHINE_OFF = Text(
        "The machine {host} is off, or this is the address of another machine.",
        "Here: correct the host in the broker's URL. Network: start the machine.",
        "n8n's editor at {editor} does not answer either.",
    )
    N8N_BUSY = Text(
        "The program at this address accepts connections and does not answer: n8n hangs or is very busy.",
        "n8n: see its log and its CPU time, and restart it if it hangs.",
        "The port is open, and the answer has not come within a few seconds.",
    )
    NO_ROUTE = Text(
        "This machine has no way to the address of {host}.",
        "Network: check the address, the VPN and the routes of this machine.",
        "The system's own words are in the line above.",
    )
    PORT_FORWARDING = Text(
        "A port forwarding of Docker, SSH or Kubernetes accepts the connection, and n8n behind it "
        "does not: its broker listens only on 127.0.0.1 of its container, or n8n does not run.",
        "n8n: set N8N_RUNNERS_BROKER_LISTEN_ADDRESS=0.0.0.0 and restart n8n.",
        'n8n\'s log has "n8n Task Broker ready on 127.0.0.1" in the first case.',
    )
    STARTING = Text(
        "n8n starts or stops, or the proxy in front of it does not reach it.",
        'n8n: wait for "n8n Task Broker ready" in its log. Proxy: its upstream is n8n\'s port 5679.',
        "An n8n that runs answers 200 to {health}.",
    )

    # --- proxies and TLS
    PROXY_OF_ENVIRONMENT = Text(
        "The proxy {proxy} of the environment is in the way: it cannot or may not pass this connection on.",
        "Here: add {host} to the variable NO_PROXY, if n8n can be reached directly.",
        "The proxy comes from HTTP_PROXY, HTTPS_PROXY or ALL_PROXY.",
    )
    UNUSABLE_PROXY = Text(
        "The proxy of the environment cannot be used: only http:// proxies can.",
        "Here: correct HTTP_PROXY, HTTPS_PROXY or ALL_PROXY, or add {host} to NO_PROXY.",
        "No connection was tried.",
    )
    HTTPS_FOR_HTTP = Text(
        "The address has https://, and the port speaks plain HTTP, as n8n's broker always does.",
        "Here: use http:// in the broker's URL. For TLS, put a proxy in front of the broker.",
        "The port answers, but not with TLS.",
    )
    HTTP_FOR_HTTPS = Text(
        "The address has http://, and the port speaks TLS.",
        "Here: use https:// in the broker's URL.",
        "The port's answer is a TLS alert, or a text that asks for HTTPS.",
    )
    PRIVATE_CERTIFICATE = Text(
        "The certificate of {host} is not valid for Python: its authority is a private one, its name "
        "is another one, or it has expired.",
        "Here: name the authority's file in REQUESTS_CA_BUNDLE. Or give the proxy a valid certificate.",
        "The line above has OpenSSL's reason.",
    )
    TLS_SETTINGS = Text(
        "The TLS proxy in front of n8n and Python have no version or cipher in common, or the proxy "
        "has another fault.",
        "Proxy: allow TLS 1.2 or 1.3.",
        "`openssl s_client -connect {host}:{port}` shows more.",
    )
    REDIRECT = Text(
        "A proxy in front of n8n redirects, usually from http:// to https://. The runner does not "
        "follow, because it would send the token elsewhere.",
        "Here: use the address that the redirect leads to.",
        "`curl -i -X POST {base}/runners/auth` shows it in the header Location.",
    )
    PROXY_WITHOUT_WEBSOCKETS = Text(
        "A proxy in front of n8n passes HTTP on, but no WebSockets.",
        "Proxy: pass the upgrade on. nginx: proxy_http_version 1.1; proxy_set_header Upgrade "
        '$http_upgrade; proxy_set_header Connection "upgrade";',
        "The log-in has passed, and the answer to the upgrade does not come from n8n's own check.",
    )
    OTHER_SERVER = Text(
        "Another server answers on this port, or a proxy that does not pass requests on to n8n's task "
        "broker.",
        "Here: use the address of the broker, port 5679 or n8n's N8N_RUNNERS_BROKER_PORT. (5680 and "
        "5681 are health checks of n8n's launcher and runners.)",
        'n8n\'s broker answers 200 and {{"status":"ok"}} to {health}.',
    )

    # --- n8n's answers
    EDITOR_PORT = Text(
        "This is the port of n8n's editor. The task broker has another port.",
        "Here: use http://{in_url}:5679, or n8n's N8N_RUNNERS_BROKER_PORT.",
        "Only the editor knows the path /healthz/readiness, and this port does.",
    )
    BASE_PATH = Text(
        "The task broker is there, with another base path than {path}.",
        "Here: put n8n's N8N_RUNNERS_PATH behind the address, as in {origin}/runners (the default). "
        "n8n: the variable has no slash at its end.",
        "The broker answers {health}, and 404 to the log-in.",
    )
    NO_TOKEN_IN_N8N = Text(
        "n8n has no N8N_RUNNERS_AUTH_TOKEN. It runs with a secret that only its own runner knows.",
        "n8n: set N8N_RUNNERS_AUTH_TOKEN to the runner's token, in the environment of the n8n "
        "process, and restart it.",
        "`printenv N8N_RUNNERS_AUTH_TOKEN` prints nothing where n8n is started (with Docker: `docker "
        "compose exec n8n printenv ...`), and N8N_RUNNERS_MODE is not external.",
    )
    ANOTHER_TOKEN = Text(
        "n8n has another token than the runner, or this is another n8n.",
        "Both sides: set N8N_RUNNERS_AUTH_TOKEN to the same text, and restart n8n, which reads it at "
        "its start.",
        "The same command prints n8n's token. On the wire, both causes are the same answer, 403.",
    )
    N8N_TOKEN_ENDS_WITH_LINE_BREAK = Text(
        "n8n's token ends with a line break. Older versions of n8n keep it from a file.",
        "n8n: write the file of N8N_RUNNERS_AUTH_TOKEN_FILE without one (printf %s TOKEN > FILE), and "
        "restart n8n.",
        "The broker accepts the runner's token with a line break at its end.",
    )
    N8N_TOKEN_IN_QUOTES = Text(
        "n8n's token has quotes around it. Docker's env_file keeps them, and so do older versions of n8n.",
        "n8n: set N8N_RUNNERS_AUTH_TOKEN without quotes, and restart n8n.",
        "The broker accepts the runner's token in quotes.",
    )
    RATE_LIMIT = Text(
        "n8n accepts five log-ins a second from one address, and five upgrades a second from all. "
        "Other runners use them up now.",
        "Here: run the check again. If it stays, look for a runner that restarts in a loop, and stop it.",
        "n8n's log has a line for each runner that it registers, with its name.",
    )
    SEVERAL_N8N = Text(
        "Several n8n processes share this address, behind a load balancer. One gave the grant token, "
        "and another one got the WebSocket.",
        "Here: give the runner one address for each n8n process, separated by commas.",
        "The log-in was only a moment ago. The next check may pass by chance.",
    )
    GRANT_TOO_SHORT = Text(
        "The grant token had expired: its time to live is too short, or n8n restarted in between.",
        "n8n: remove N8N_RUNNERS_GRANT_TOKEN_TTL, or set it to 30 seconds or more. Before n8n 2.20, "
        "it is 15 seconds.",
        'n8n\'s log has "invalid or expired grant token".',
    )
    CUT_OFF = Text(
        "n8n or a proxy ended the WebSocket before the registration: n8n stops, or the proxy ends "
        "quiet connections.",
        "Proxy: allow connections that last for hours. n8n: see its log at this moment.",
        "Run the check again: a restart of n8n is over after a minute.",
    )
    CLOUD = Text(
        "n8n Cloud does not expose its task broker, so your runner cannot connect to it.",
        "n8n: host n8n yourself (docs/guide-self-hosting.md).",
        "The address ends with n8n.cloud.",
    )

    # --- the webhook
    QUEUE_WORKER = Text(
        "n8n is in queue mode, and a worker executed the workflow. Each worker has its own task "
        "broker, and the address of this one is missing.",
        "Here: give the runner the addresses of the main process and of all workers, separated by "
        "commas, in N8N_RUNNERS_TASK_BROKER_URI.",
        'The log of the n8n process that executed the workflow has no line "Registered runner" with '
        "the runner's name.",
    )
    NO_RUNNER_RUNS = Text(
        "The runner that has the function does not run. The check itself takes no tasks.",
        "Here: start your program, or `n8nrunner run MODULE`, and check again while it runs. For a "
        "Code node in external mode, start n8n's own runners (image n8nio/runners).",
        "n8n's log has \"Registered runner\" with the runner's name if it runs.",
    )
    WORKFLOW_ERROR = Text(
        "The workflow ran and failed, as when the function raised an exception.",
        "n8n: open the execution under Executions. It has the error and the node. docs/errors.md "
        "explains it.",
        '"No runner ... took the call" or "Task request timed out" there means the causes below.',
    )
    SLOW_WORKFLOW = Text(
        "The workflow takes longer than the check waits.",
        "Here: check with a workflow that ends soon.",
        "The execution is still running under Executions in n8n.",
    )
    NOT_ACTIVE = Text(
        "No active workflow has this webhook, or it wants another method than POST.",
        "n8n: activate (publish) the workflow, use the Production URL of its Webhook node, and set "
        "the node's method to POST.",
        "/webhook-test/ works only while the editor listens.",
    )
    WEBHOOK_CREDENTIALS = Text(
        "The Webhook node wants credentials, which the check does not send.",
        "n8n: check with a Webhook node whose Authentication is None.",
        "n8n has answered 401 or 403.",
    )
    WEBHOOK_ADDRESS = Text(
        "n8n cannot be reached at the webhook's address.",
        "Here: use the address of n8n's editor (port 5678), or that of the proxy in front of it, as "
        "the browser does.",
        "The webhook is not on the task broker's port.",
    )

    UNKNOWN = Text(
        "The check has no rule for this.",
        "See docs/faults.md, and n8n's log at this moment.",
        "The line above has all that was seen.",
    )

    @property
    def key(self) -> str:
        """The name in the output and in docs/troubleshooting.md."""
        return self.name.lower().replace("_", "-")


class _Rule(NamedTuple):
    symptom: Problem | Trouble
    cause: Cause
    applies: Callable[[Facts], bool] = lambda facts: True


def _is_here(facts: Facts) -> bool:
    return facts.url is not None and is_loopback(facts.url.host)


def _is_cloud(facts: Facts) -> bool:
    return facts.url is not None and facts.url.host.endswith(".n8n.cloud")


def _has_editor(facts: Facts) -> bool:
    return facts.editor is not None and facts.editor.answers


def _may_be_worker(facts: Facts) -> bool:
    if facts.url is None or facts.editor is None:
        return False
    return facts.is_one_of_several or urlsplit(facts.editor.url).hostname != (
        facts.url.address or facts.url.host
    )


def _numbers(facts: Facts) -> tuple[int, ...]:
    return facts.editor.numbers if facts.editor is not None else ()


def _is_too_old(facts: Facts) -> bool:
    return () < _numbers(facts) < OLDEST_N8N


def _is_n8n_1(facts: Facts) -> bool:
    return OLDEST_N8N <= _numbers(facts) < (2,)


def _may_be_n8n_1(facts: Facts) -> bool:
    return _has_editor(facts) and not _numbers(facts)


def _both(*conditions: Callable[[Facts], bool]) -> Callable[[Facts], bool]:
    return lambda facts: all(condition(facts) for condition in conditions)


def _not(condition: Callable[[Facts], bool]) -> Callable[[Facts], bool]:
    return lambda facts: not condition(facts)


def _is_short_name(facts: Facts) -> bool:
    return facts.url is not None and "." not in facts.url.host


def _is_host_gateway(facts: Facts) -> bool:
    return facts.url is not None and facts.url.host in ("host.docker.internal", "host.containers.internal")


def _in_container(facts: Facts) -> bool:
    return facts.is_in_container


def _uses_proxy(facts: Facts) -> bool:
    return facts.proxy is not None


def _while_connecting(facts: Facts) -> bool:
    return facts.failed.step is Step.TCP


#: The problems for which it matters whether n8n's editor answers.
ASKS_FOR_EDITOR = (Problem.REFUSED, Problem.TIMED_OUT, Problem.CLOSED)
#: The problems that a proxy of the environment can cause between this machine and n8n.
_BEHIND_A_PROXY = (
    Problem.UNKNOWN_NAME, Problem.REFUSED, Problem.TIMED_OUT, Problem.NETWORK, Problem.CLOSED,
    Problem.NOT_HTTP, Problem.TUNNEL_REFUSED, Problem.UNAVAILABLE, Problem.REDIRECT,
    Problem.OTHER_SERVER, Problem.NOT_UPGRADED,
)  # fmt: skip

_RULES: tuple[_Rule, ...] = (
    *(_Rule(problem, Cause.CLOUD, _is_cloud) for problem in Problem),
    *(_Rule(problem, Cause.PROXY_OF_ENVIRONMENT, _uses_proxy) for problem in _BEHIND_A_PROXY),
    _Rule(Problem.UNUSABLE_PROXY, Cause.UNUSABLE_PROXY),
    # Without an address
    _Rule(Problem.UNKNOWN_NAME, Cause.NO_HOST_GATEWAY, _is_host_gateway),
    _Rule(Problem.UNKNOWN_NAME, Cause.NAME_OF_ANOTHER_NETWORK, _is_short_name),
    _Rule(Problem.UNKNOWN_NAME, Cause.UNKNOWN_NAME, _not(_is_host_gateway)),
    # No program listens
    _Rule(Problem.REFUSED, Cause.N8N_TOO_OLD, _is_too_old),
    _Rule(Problem.REFUSED, Cause.N8N_1_WITHOUT_RUNNERS, _is_n8n_1),
    _Rule(Problem.REFUSED, Cause.ANOTHER_CONTAINER, _both(_is_here, _in_container, _not(_has_editor))),
    _Rule(Problem.REFUSED, Cause.BROKER_ON_LOOPBACK, _both(_has_editor, _not(_is_here))),
    _Rule(Problem.REFUSED, Cause.WORKER_NOT_RUNNING, _both(_has_editor, _may_be_worker)),
    _Rule(Problem.REFUSED, Cause.OTHER_PORT, _both(_has_editor, _not(_is_too_old))),
    _Rule(Problem.REFUSED, Cause.PORT_NOT_PUBLISHED, _both(_has_editor, _not(_is_too_old))),
    _Rule(Problem.REFUSED, Cause.N8N_1_WITHOUT_RUNNERS, _may_be_n8n_1),
    _Rule(Problem.REFUSED, Cause.NOT_RUNNING, _not(_has_editor)),
    _Rule(Problem.REFUSED, Cause.BROKER_ON_LOOPBACK, _both(_not(_has_editor), _not(_is_here))),
    # No answer
    _Rule(Problem.TIMED_OUT, Cause.FIREWALL, _while_connecting),
    _Rule(Problem.TIMED_OUT, Cause.MACHINE_OFF, _both(_while_connecting, _not(_has_editor))),
    _Rule(Problem.TIMED_OUT, Cause.N8N_BUSY, _not(_while_connecting)),
    _Rule(Problem.NETWORK, Cause.NO_ROUTE),
    _Rule(Problem.CLOSED, Cause.PORT_FORWARDING),
    _Rule(Problem.UNAVAILABLE, Cause.STARTING),
    # Another protocol
    _Rule(Problem.NOT_TLS, Cause.HTTPS_FOR_HTTP),
    _Rule(Problem.ONLY_TLS, Cause.HTTP_FOR_HTTPS),
    _Rule(Problem.CERTIFICATE, Cause.PRIVATE_CERTIFICATE),
    _Rule(Problem.TLS, Cause.TLS_SETTINGS),
    _Rule(Problem.NOT_HTTP, Cause.OTHER_SERVER),
    _Rule(Problem.TUNNEL_REFUSED, Cause.PROXY_OF_ENVIRONMENT, _not(_uses_proxy)),
    _Rule(Problem.REDIRECT, Cause.REDIRECT),
    _Rule(Problem.OTHER_SERVER, Cause.OTHER_SERVER),
    # n8n's answers
    _Rule(Problem.EDITOR, Cause.EDITOR_PORT),
    _Rule(Problem.OTHER_PATH, Cause.BASE_PATH),
    _Rule(Problem.TOKEN_REFUSED, Cause.NO_TOKEN_IN_N8N),
    _Rule(Problem.TOKEN_REFUSED, Cause.ANOTHER_TOKEN),
    _Rule(Problem.RATE_LIMITED, Cause.RATE_LIMIT),
    _Rule(Problem.GRANT_REFUSED, Cause.SEVERAL_N8N),
    _Rule(Problem.GRANT_REFUSED, Cause.GRANT_TOO_SHORT),
    _Rule(Problem.NOT_UPGRADED, Cause.PROXY_WITHOUT_WEBSOCKETS),
    _Rule(Problem.CONNECTION_LOST, Cause.CUT_OFF),
    # The settings, and what they mean to n8n
    _Rule(Trouble.TOKEN_WITH_LINE_BREAK, Cause.TOKEN_ENDS_WITH_LINE_BREAK),
    _Rule(Trouble.NO_SCHEME, Cause.URL_WITHOUT_SCHEME),
    _Rule(Trouble.SETTINGS, Cause.WRONG_SETTINGS),
    _Rule(Trouble.NO_TOKEN, Cause.NO_TOKEN_HERE),
    _Rule(Trouble.ONE_SHOT, Cause.ONLY_A_GRANT),
    _Rule(Trouble.N8N_TOKEN_WITH_LINE_BREAK, Cause.N8N_TOKEN_ENDS_WITH_LINE_BREAK),
    _Rule(Trouble.N8N_TOKEN_IN_QUOTES, Cause.N8N_TOKEN_IN_QUOTES),
    _Rule(Trouble.NOT_REGISTERED, Cause.CUT_OFF),
    _Rule(Trouble.OLD_N8N, Cause.N8N_TOO_OLD),
    # The webhook
    _Rule(Trouble.NO_RUNNER, Cause.QUEUE_WORKER),
    _Rule(Trouble.NO_RUNNER, Cause.NO_RUNNER_RUNS),
    _Rule(Trouble.WEBHOOK_SILENT, Cause.QUEUE_WORKER),
    _Rule(Trouble.WEBHOOK_SILENT, Cause.NO_RUNNER_RUNS),
    _Rule(Trouble.WEBHOOK_SILENT, Cause.SLOW_WORKFLOW),
    _Rule(Trouble.WORKFLOW_FAILED, Cause.WORKFLOW_ERROR),
    _Rule(Trouble.WORKFLOW_FAILED, Cause.QUEUE_WORKER),
    _Rule(Trouble.WORKFLOW_FAILED, Cause.NO_RUNNER_RUNS),
    _Rule(Trouble.WEBHOOK_UNKNOWN, Cause.NOT_ACTIVE),
    _Rule(Trouble.WEBHOOK_REFUSED, Cause.WEBHOOK_CREDENTIALS),
    _Rule(Trouble.WEBHOOK_UNREACHABLE, Cause.WEBHOOK_ADDRESS),
)


def causes_of(facts: Facts) -> list[Cause]:
    """Return the causes of a failed step, at least one, the most likely one first."""
    return list(dict.fromkeys(_matching(facts))) or [Cause.UNKNOWN]


def _matching(facts: Facts) -> Iterator[Cause]:
    for rule in _RULES:
        if rule.symptom is facts.failed.problem and rule.applies(facts):
            yield rule.cause


def filled_in(text: str, facts: Facts) -> str:
    """Return a text of a cause with the names of this broker."""
    url, editor = facts.url, facts.editor
    return text.format(
        host=url.host if url else "",
        in_url=f"[{url.host}]" if url and ":" in url.host else url.host if url else "",
        port=url.port if url else "",
        base=url.base if url else "",
        health=url.health if url else "",
        path=urlsplit(url.auth).path[: -len("/auth")] if url else "",
        origin=url.health[: -len("/healthz")] if url else "",
        editor=editor.url if editor else "port 5678",
        version=(editor.version if editor else None) or "1",
        proxy=facts.proxy or "",
    )

"""The command ``n8nrunner``. No other module may depend on it.

Each command's own module is imported when the command runs, so that ``--help`` is quick and a missing extra
is named by the command that needs it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import logging
import os
import secrets
import sys
from typing import TYPE_CHECKING, Callable
from urllib.parse import urljoin

from n8nrunner import logs
from n8nrunner.target import TargetError, find_runner

if TYPE_CHECKING:
    from n8nrunner.functions.node.installing import Installed
    from n8nrunner.functions.node.writing import Written
    from n8nrunner.runner import Runner

#: The exit codes. `_RUN_EXAMPLES` describes them.
EXIT_OK, EXIT_ERROR, EXIT_USAGE, EXIT_REFUSED, EXIT_GRANT_SPENT, EXIT_UNFINISHED = range(6)

_EPILOG = """\
n8nrunner COMMAND --help shows the options, examples and exit codes of a command.
"""

_RUN_EXAMPLES = """\
examples:
  n8nrunner run jobs               the one Runner in jobs.py or the package jobs
  n8nrunner run shop.jobs:runner   the Runner named runner in shop/jobs.py
  n8nrunner run jobs --reload      serve new code at each save

Settings that the module does not give are taken from the environment:
N8N_RUNNERS_TASK_BROKER_URI, N8N_RUNNERS_AUTH_TOKEN (or N8N_RUNNERS_AUTH_TOKEN_FILE),
and the others that n8n's own runners read.

exit codes:
  0  stopped as asked
  1  an error
  2  wrong arguments or settings, or a missing module or package
  3  n8n refused the token
  4  the one-shot grant token is used up
  5  tasks were unfinished when the grace period was over
  128 + signal  ended at once: by a second signal, or by one before the runner started
"""

_DEMO_EXAMPLES = """\
exit codes:
  0  every task has its answer
  1  a task went missing
  2  wrong arguments, or a missing package
  128 + signal  ended at once by a signal
"""

_BROKER_EXAMPLES = """\
It prints the address and the token for a runner. The token is N8N_RUNNERS_AUTH_TOKEN of the
environment, or a new one.

exit codes:
  0  stopped as asked
  2  wrong arguments, an address on which it cannot listen, or a missing package
"""

_CALL_EXAMPLES = """\
examples:
  n8nrunner call leads score_lead email=ada@example.com budget=500
  n8nrunner call shop.jobs:runner shipping weight=2 to='{"city": "Bonn"}'
  n8nrunner call leads read_invoice document=invoice.pdf --save files
  n8nrunner call leads score_lead --items '[{"email": "ada@example.com"}, {"email": "bob@b.c"}]'

A value is the text of a field: a number, true, a date, one of a drop-down's values, or JSON
for a list or an object. For a parameter of any type it is JSON if it is valid JSON, and text
otherwise. For a File, it is a path. The output of the function goes to stderr, and the items
to stdout.

exit codes:
  0  the items are on stdout
  1  the call failed, and stderr has what n8n would show; or the module raised an exception
  2  wrong arguments or settings, or a missing module or package
"""

_NODE_EXAMPLES = """\
examples:
  n8nrunner node --install          the nodes Python Function and Python Tools, for all runners
  n8nrunner node --out build        the same, into build/n8n-nodes-n8nrunner, to be packed with npm
  n8nrunner node leads --install    a node for the functions in leads.py alone
  n8nrunner node leads --out build  the same, into build/n8n-nodes-leads

--install writes the nodes to where n8n keeps its packages: .n8n/nodes/node_modules in
N8N_USER_FOLDER or in the home folder. It writes the node of a module to where n8n looks for
such nodes: the last folder of N8N_CUSTOM_EXTENSIONS, or else .n8n/custom in N8N_USER_FOLDER or
in the home folder. Then restart n8n.

exit codes:
  0  the nodes are written, or were current
  1  a file or folder cannot be written, or the module raised an exception
  2  wrong arguments or settings, or a missing module or package
"""

_CHECK_EXAMPLES = """\
examples:
  n8nrunner check                    with the settings of the environment
  n8nrunner check leads              with those of the Runner in leads.py
  n8nrunner check --broker http://n8n:5679 --token-file token.txt
  n8nrunner check leads --webhook http://localhost:5678/webhook/leads
                                     also calls a workflow, whose runner has to run

It connects as a runner does, in steps, and names the likely causes of the first step that
fails. It registers as "n8nrunner check" and offers nothing, so it takes no task from another
runner.

exit codes:
  0  every step passed
  1  a step failed
  2  wrong arguments or settings, or a missing module
  3  n8n refused the token
"""

#: Seconds that a command waits until its last line has been written.
_OUTPUT_WAIT = 0.5

#: Milliseconds after which ``node --watch`` checks whether it should stop.
_WATCH_POLL = 1000


class _Failed(Exception):
    """The command cannot do what the user asked for. The message says why."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command with these arguments, or with those of the process. Return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A path or a function's name may have characters that the terminal's encoding lacks.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
        return code
    except _Failed as error:
        print(f"n8nrunner: {error}", file=sys.stderr)
        return EXIT_USAGE
    except TargetError as error:
        print(f"n8nrunner: {error}", file=sys.stderr)
        return EXIT_ERROR if error.has_raised else EXIT_USAGE
    except BrokenPipeError:
        # The reader of the output has closed it, as `head` does, so there is no place for a message.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR


def _parser() -> argparse.ArgumentParser:
    from n8nrunner import __version__

    parser = argparse.ArgumentParser(
        prog="n8nrunner",
        description="A task runner for n8n in plain, synchronous Python.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"n8nrunner {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    text = "run the Runner of a module until SIGINT or SIGTERM"
    run = _add(commands, "run", _run, text, _RUN_EXAMPLES)
    run.add_argument("target", metavar="MODULE[:ATTRIBUTE]", help="the module of the Runner")
    run.add_argument(
        "--reload",
        action="store_true",
        help="serve new code when a file of the module's folder changes, and stay connected",
    )
    run.add_argument(
        "--keep",
        metavar="MODULE",
        action="append",
        default=[],
        help="with --reload: do not import this module again, such as one that loads a large model; may be "
        "given several times",
    )
    run.add_argument(
        "--log-format", choices=("text", "json"), help="json: an object on each line (default: text)"
    )
    run.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        help="n8nrunner's records from this level on (default: as the module has configured it, or info)",
    )
    run.add_argument(
        "--log-calls", action="store_true", help="a record with the level INFO for each call that ends"
    )

    text = "find out why a runner and n8n do not come together, without taking a task"
    check = _add(commands, "check", _check, text, _CHECK_EXAMPLES)
    check.add_argument(
        "target",
        metavar="MODULE[:ATTRIBUTE]",
        nargs="?",
        help="check with the settings of this Runner (default: those of the environment)",
    )
    check.add_argument(
        "--broker", metavar="URL", help="the broker's address; several with commas between them"
    )
    check.add_argument("--token-file", metavar="FILE", help="a file with the token")
    check.add_argument("--n8n", metavar="URL", help="n8n's editor (default: port 5678 of the broker's host)")
    check.add_argument("--webhook", metavar="URL", help="afterwards, post {} to this webhook of a workflow")

    text = "call a function of a module as n8n does, without n8n, and print the items"
    call = _add(commands, "call", _call, text, _CALL_EXAMPLES)
    call.add_argument("target", metavar="MODULE[:ATTRIBUTE]", help="the module of the Runner")
    call.add_argument("function", metavar="FUNCTION", help="the function's name in n8n")
    call.add_argument(
        "arguments", metavar="NAME=VALUE", nargs="*", default=[], help="the function's arguments"
    )
    call.add_argument("--items", metavar="JSON", help="a list with the arguments for each of several items")
    call.add_argument("--save", metavar="DIR", help="save the files of the result in this folder")

    text = "write the nodes that call functions, for n8n's canvas"
    node = _add(commands, "node", _node, text, _NODE_EXAMPLES)
    node.add_argument(
        "target",
        metavar="MODULE[:ATTRIBUTE]",
        nargs="?",
        help="write a node for the functions of this Runner alone (default: the nodes for all runners)",
    )
    where = node.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", metavar="DIR", help="write the package's folder into this one")
    where.add_argument("--install", action="store_true", help="write it where this machine's n8n finds it")
    node.add_argument("--docs", metavar="URL", help='the page that the module\'s node links to as "Docs"')
    node.add_argument("--watch", action="store_true", help="write it again whenever the module changes")

    text = "serve the embedded broker, for development without n8n"
    broker = _add(commands, "broker", _broker, text, _BROKER_EXAMPLES)
    broker.add_argument("--host", default="127.0.0.1", help="where to listen (default: %(default)s)")
    broker.add_argument("--port", type=int, default=5679, help="0 for any free one (default: %(default)s)")
    broker.add_argument("--path", default="/runners", help="as N8N_RUNNERS_PATH (default: %(default)s)")
    broker.add_argument(
        "--profile",
        default="2.40",
        choices=("1.123", "2.27", "2.40"),
        help="the version of n8n to behave like (default: %(default)s)",
    )

    text = "show what a runner does, with an embedded broker and real tasks"
    demo = _add(commands, "demo", _demo, text, _DEMO_EXAMPLES)
    demo.add_argument("--tasks", type=int, default=3000, help="how many small tasks (default: %(default)s)")
    return parser


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    command: Callable[[argparse.Namespace], int],
    text: str,
    epilog: str | None = None,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-v", "--verbose", action="count", default=0, help="log more; -vv for other libraries' log as well"
    )
    parser.set_defaults(command=command)
    return parser


def _demo(options: argparse.Namespace) -> int:
    if options.tasks < 1:
        raise _Failed(f"--tasks: expected 1 or more, got {options.tasks}")
    try:
        from n8nrunner.demo import run_demo
    except ImportError as error:
        raise _Failed(f'demo needs more packages ({error}): pip install "n8nrunner[demo]"') from None
    logs.configure(logging.CRITICAL, options.verbose)  # its screen reports the failures that it causes
    return run_demo(options.tasks)


def _run(options: argparse.Namespace) -> int:
    from n8nrunner import errors

    if options.verbose and options.log_level:
        raise _Failed("expected -v or --log-level, got both")
    if options.keep and not options.reload:
        raise _Failed("--keep is for --reload")
    own_level = logging.getLevelName(options.log_level.upper()) if options.log_level else None
    say = _log_end if options.log_format == "json" else _say

    def configure_logs(log_format: str | None) -> None:
        # A service's log says that it has registered.
        logs.configure(logging.INFO, options.verbose, own_level, log_format)

    try:
        runner = (_serve_with_reload if options.reload else _serve)(options, configure_logs)
    except errors.ConfigurationError as error:
        raise _Failed("\n  ".join(["the settings cannot work:", *error.problems])) from None
    except errors.GrantTokenSpent as error:
        return say(error, EXIT_GRANT_SPENT)
    except errors.AuthenticationError as error:
        return say(error, EXIT_REFUSED)
    except errors.N8nRunnerError as error:
        return say(error, EXIT_ERROR)
    unfinished = runner.snapshot().counts.unfinished
    if unfinished:
        tasks = "1 task was" if unfinished == 1 else f"{unfinished} tasks were"
        return say(f"{tasks} cut short, and n8n was told so", EXIT_UNFINISHED)
    return EXIT_OK if runner.state == "stopped" else say("the runner has not stopped in time", EXIT_ERROR)


def _serve(options: argparse.Namespace, configure_logs: Callable[[str | None], None]) -> Runner:
    """Run the Runner of the module until it ends. Return it."""
    runner = find_runner(options.target, options.log_calls)
    configure_logs(options.log_format)
    runner.run()
    return runner


def _serve_with_reload(options: argparse.Namespace, configure_logs: Callable[[str | None], None]) -> Runner:
    """Do the same, and serve new code when files change."""
    try:
        from n8nrunner.reloading.reloader import Reloader
    except ImportError:
        raise _Failed('--reload needs the package watchfiles: pip install "n8nrunner[reload]"') from None
    return Reloader(options.target, options.keep, options.log_format, configure_logs, options.log_calls).run()


def _check(options: argparse.Namespace) -> int:
    from n8nrunner.check.command import Checker, address_of
    from n8nrunner.config import RunnerConfig
    from n8nrunner.errors import ConfigurationError

    for name in ("n8n", "webhook"):
        try:
            address_of(getattr(options, name) or "http://localhost")
        except ValueError as error:
            raise _Failed(f"--{name}: {error}") from None
    if options.verbose:
        logs.configure(logging.WARNING, options.verbose)
    checker = Checker()
    given = {
        "broker": None if options.broker is None else tuple(options.broker.split(",")),
        "auth_token_file": options.token_file,
    }
    try:
        if options.target is None:
            config = RunnerConfig.from_env(**given)
        else:
            own = find_runner(options.target).config
            replaced = {key: value for key, value in given.items() if value}
            if options.token_file:
                replaced["auth_token"] = None
            config = dataclasses.replace(own, **replaced)
    except ConfigurationError as error:
        checker.report_settings(error)
        return EXIT_USAGE
    checker.check(config, options.n8n, options.webhook)
    if not checker.failed:
        return EXIT_OK
    return EXIT_REFUSED if checker.is_token_refused else EXIT_ERROR


def _call(options: argparse.Namespace) -> int:
    from n8nrunner.errors import ConfigurationError

    try:
        from n8nrunner.testing import CallFailed, command
    except ImportError:
        raise _Failed('call needs the package aiohttp: pip install "n8nrunner[testing]"') from None
    try:
        items = command.call(
            options.target, options.function, options.arguments, options.items, options.save, options.verbose
        )
    except ConfigurationError as error:
        raise _Failed("\n  ".join(["the settings cannot work:", *error.problems])) from None
    except (command.WrongArguments, OSError) as error:
        raise _Failed(str(error)) from None
    except CallFailed as error:
        return _say(error, EXIT_ERROR)
    print(command.show(items), flush=True)
    return EXIT_OK


def _broker(options: argparse.Namespace) -> int:
    from n8nrunner import process

    try:
        from n8nrunner.broker import Broker
    except ImportError as error:
        raise _Failed(str(error)) from None
    logs.configure(logging.INFO, options.verbose)
    token, is_new = _broker_token()
    with process.signals() as signals:
        try:
            broker = Broker(token, options.host, options.port, options.path, options.profile)
            broker.start()
        except ValueError as error:
            raise _Failed(str(error)) from None
        except OSError as error:
            raise _Failed(
                f"the broker cannot listen on {options.host}, port {options.port}: {error.strerror or error}"
            ) from None
        print(f"The embedded broker (n8n {options.profile}) listens at {broker.url}. Start a runner with")
        print(f"  N8N_RUNNERS_TASK_BROKER_URI={broker.url}")
        print(f"  N8N_RUNNERS_AUTH_TOKEN={token if is_new else '(as given to this broker)'}")
        print(f"and give it a task with POST {urljoin(broker.url, '/tasks')}; Ctrl-C stops.", flush=True)
        signals.wait()
        broker.stop()
    return EXIT_OK


def _node(options: argparse.Namespace) -> int:
    from n8nrunner import errors

    if options.target is None:
        for option in ("docs", "watch"):
            if getattr(options, option):
                raise _Failed(f"--{option} is for the node of a module: name the module")
    elif options.watch:
        return _watch_node(options)
    try:
        changed = _install_node(options) if options.target is None else _write_node(options)
    except errors.ConfigurationError as error:
        raise _Failed("\n  ".join(["the node cannot be written:", *error.problems])) from None
    except OSError as error:
        return _say(error, EXIT_ERROR)
    if changed:
        print("n8n loads the node when it starts.")
    sys.stdout.flush()
    return EXIT_OK


def _install_node(options: argparse.Namespace) -> bool:
    """Write the node package for all runners, and report it. Return whether anything was written."""
    from n8nrunner.functions.node.installing import install

    logs.configure(logging.WARNING, options.verbose)
    installed = install(options.out, os.environ)
    print(_report_of_installed(installed))
    if installed.listed not in (None, installed.version):
        print(
            f"n8n's own list of packages has version {installed.listed} of it. If Settings > Community nodes "
            "shows the package, it goes on showing this version, and an update there replaces the files."
        )
    if options.install:
        _report_missing_n8n()
    return installed.changed


def _report_of_installed(installed: Installed) -> str:
    if not installed.changed:
        return f"{installed.folder} is current (version {installed.version}). Nothing was written."
    if installed.earlier is None:
        return f"Wrote {installed.folder}, version {installed.version}."
    return f"Wrote {installed.folder}, version {installed.version} (before: {installed.earlier})."


def _write_node(options: argparse.Namespace) -> bool:
    """Write the node of a module, and report it. Return whether anything was written."""
    runner = find_runner(options.target)
    logs.configure(logging.WARNING, options.verbose)
    written = runner._write_node(options.out, options.docs)
    print(_report_of(written))
    if options.install:
        _report_n8n()
    return written.changed


def _report_of(written: Written) -> str:
    if not written.changed:
        return f"{written.folder} is current. Nothing was written."
    if written.is_new or written.added is None:
        return f"Wrote {written.folder}."
    named = {"new": written.added, "changed": written.updated, "removed": written.removed}
    changes = [f"{word}: {', '.join(names)}" for word, names in named.items() if names]
    return f"Wrote {written.folder} ({'; '.join(changes) or 'its operations are the same'})."


def _report_n8n() -> None:
    """Print where n8n has to look for the node, unless it has run with the default folder."""
    from n8nrunner.functions.node.writing import CUSTOM_EXTENSIONS, custom_folder

    if os.environ.get(CUSTOM_EXTENSIONS):
        print(
            f"n8n finds it if n8n is started with the same {CUSTOM_EXTENSIONS}: it loads the nodes of the "
            f"last folder there, {custom_folder(os.environ)}, and of no other."
        )
    else:
        _report_missing_n8n()


def _report_missing_n8n() -> None:
    """Say so if no n8n has run with the folder that the environment gives."""
    from n8nrunner.functions.node.writing import n8n_folder

    folder = n8n_folder(os.environ)
    if not folder.joinpath("config").exists():
        print(
            f"No n8n has been started with the folder {folder} yet. A new n8n makes it at its first "
            "start. If yours has another one, name the folder above it with N8N_USER_FOLDER, as for n8n, or "
            "copy the node there."
        )


def _watch_node(options: argparse.Namespace) -> int:
    """Write the node again at each change, in a new process, because a process imports a module only once."""
    import signal
    import subprocess

    try:
        import watchfiles
    except ImportError:
        raise _Failed('--watch needs the package watchfiles: pip install "n8nrunner[node]"') from None
    where = ["--install"] if options.install else ["--out", options.out]
    docs = ["--docs", options.docs] if options.docs else []
    verbose = ["-v"] * options.verbose
    command = [sys.executable, "-m", "n8nrunner", "node", options.target, *where, *docs, *verbose]
    with contextlib.suppress(KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        subprocess.run(command, check=False)
        is_watching = False
        for changes in watchfiles.watch(
            os.getcwd(),
            watch_filter=watchfiles.PythonFilter(),
            raise_interrupt=True,
            rust_timeout=_WATCH_POLL,
            yield_on_timeout=True,
        ):
            if changes:
                subprocess.run(command, check=False)
            elif not is_watching:
                is_watching = True  # the first timeout: from now on, no change is missed
                print(f"Watching {os.getcwd()}; Ctrl-C stops.", flush=True)
    return EXIT_OK


def _broker_token() -> tuple[str, bool]:
    """Return the token of the environment or of a file named there, or a new one, and whether it is new."""
    from n8nrunner.config import RunnerConfig, read_auth_token
    from n8nrunner.errors import ConfigurationError

    names = ("N8N_RUNNERS_AUTH_TOKEN", "N8N_RUNNERS_AUTH_TOKEN_FILE")
    try:
        token = read_auth_token(RunnerConfig.from_env({name: os.environ.get(name, "") for name in names}))
    except ConfigurationError as error:
        raise _Failed(str(error)) from None
    return (secrets.token_hex(16), True) if token is None else (token, False)


def _log_end(error: Exception | str, code: int) -> int:
    """Do as `_say` does, as a record of the log: a program reads it, and expects its format to the end."""
    from n8nrunner import process

    process.run_detached(lambda: logs.logger.error("The command ends: %s", error), _OUTPUT_WAIT)
    return code


def _say(error: Exception | str, code: int) -> int:
    """Print why the command ends, without waiting for a blocked stderr. Return the exit code."""
    from n8nrunner import process

    process.run_detached(lambda: print(f"n8nrunner: {error}", file=sys.stderr), _OUTPUT_WAIT)
    return code

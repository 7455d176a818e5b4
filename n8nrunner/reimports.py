"""Processes in which `start` and `run` do nothing, because a tool imports the program there a second time."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator

from n8nrunner.logs import logger

#: The environment variable with the id of the process that has started a runner last, for the child process
#: of a reloader.
_STARTED_BY = "_N8NRUNNER_STARTED_BY"

#: Variables that reloaders set to "true" in the process that serves: Werkzeug's, Django's.
_SERVING = ("WERKZEUG_RUN_MAIN", "RUN_MAIN")

#: Modules of `multiprocessing` that decode what another process has sent, which imports modules.
_DECODING = ("multiprocessing.connection", "multiprocessing.queues")

_importing = False
_has_reported = False


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Make `start()` and `run()` do nothing in the block, which imports a module for its runner."""
    global _importing
    _importing = True
    try:
        yield
    finally:
        _importing = False


def may_start() -> bool:
    """Return whether a runner may start in this process now. If not, log the reason, once per process."""
    if _importing:
        return False
    if _is_import_by_multiprocessing():
        _explain(
            logging.WARNING if _is_first_child() else logging.DEBUG,
            "multiprocessing imports the program again in this process. To keep that from running the whole "
            'program, start the runner below: if __name__ == "__main__":',
        )
        return False
    reloader = _reloader()
    if reloader is not None:
        _explain(logging.INFO, f"the reloader of {reloader} serves in another process, and starts it there")
        return False
    return True


def note_start() -> None:
    """Note that this process has started a runner; warn if the parent process of a reloader has as well."""
    started_by = os.environ.get(_STARTED_BY)
    if _is_reloaded() and started_by == str(os.getppid()):
        logger.warning(
            "The reloader has started this runner in its parent process (%s) too. It answers a part of the "
            "calls there, with the code that it imported at its start. Start the runner only if "
            'os.environ.get("WERKZEUG_RUN_MAIN") == "true" (Flask), or without the reloader',
            started_by,
        )
    if "werkzeug" in sys.modules or "django" in sys.modules:
        os.environ[_STARTED_BY] = str(os.getpid())


def _explain(level: int, reason: str) -> None:
    global _has_reported
    if not _has_reported:
        _has_reported = True
        logger.log(level, "Not starting the runner: %s", reason)


def _is_import_by_multiprocessing() -> bool:
    """Return whether a child process is importing the main script, or a module for what it has been sent."""
    module = sys.modules.get("multiprocessing.process")
    if module is None:
        return False
    # Set while a child of "spawn" or "forkserver" imports the main script and decodes its `Process`.
    if getattr(module.current_process(), "_inheriting", False):
        return True
    if module.parent_process() is None:
        return False
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") in _DECODING:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _is_first_child() -> bool:
    """Return whether this is the first of several children, or the fork server, which imports for all."""
    name: str = sys.modules["multiprocessing.process"].current_process().name
    return name == "MainProcess" or name.endswith("-1")


def _is_reloaded() -> bool:
    return any(os.environ.get(name) == "true" for name in _SERVING)


def _reloader() -> str | None:
    """Return the command whose reloader this process is, if another process serves."""
    if _is_reloaded():
        return None
    with contextlib.suppress(Exception):  # no version of these packages may keep a runner from starting
        if _is_reloader_of_flask():
            return "flask run"
        if _is_reloader_of_django():
            return "manage.py runserver"
    return None


def _is_reloader_of_flask() -> bool:
    cli, click = sys.modules.get("flask.cli"), sys.modules.get("click")
    if cli is None or click is None:
        return False
    context = click.get_current_context(silent=True)
    if context is None or context.command is not cli.run_command:
        return False
    reload = context.params.get("reload")
    return bool(cli.get_debug_flag() if reload is None else reload)


def _is_reloader_of_django() -> bool:
    return (
        "django.core.management" in sys.modules
        and sys.argv[1:2] == ["runserver"]
        and "--noreload" not in sys.argv
    )

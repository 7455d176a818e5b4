"""Serves a program's runner, and hands the functions of its new code over to it after each change.

Threads: changes are noticed on the thread of `Watch`. The imports and everything else run on the command's
own thread, the main thread, as the first import did: some modules can be imported only there.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Callable

from n8nrunner import process, units
from n8nrunner.errors import N8nRunnerError
from n8nrunner.logs import logger, task_logger
from n8nrunner.reloading.differences import Entry, changed_extras, changed_settings, compare, stale
from n8nrunner.reloading.folder import Change, concerned, folder_of, packages_of
from n8nrunner.reloading.importing import Sources
from n8nrunner.reloading.watching import Watch, files_in
from n8nrunner.runner import Runner
from n8nrunner.target import TargetError, find_runner, module_of, traceback_of

#: Seconds after which a signal ends the wait for a change. On Windows, none ends a wait without a limit.
_SIGNAL_POLL = 0.5

#: The number of changed files that a log line names.
_NAMED_FILES = 3


class Reloader:
    """Imports the runner of a target now, and again after changes.

    Args:
        target: ``MODULE`` or ``MODULE:ATTRIBUTE``.
        kept: the names of modules and packages of its folder that are not imported again.
        log_format: the format of the log that the user wants; None for the default.
        configure_logs: sets the command's logging up, with the format or None. It is called after each
            import, because a module may configure logging.
        log_calls: whether the runner gets this setting after each import.

    Attributes:
        runner: the Runner of the first import. Each later import replaces what it serves.

    Raises:
        TargetError: the target cannot be a module.
    """

    def __init__(
        self,
        target: str,
        kept: Sequence[str],
        log_format: str | None,
        configure_logs: Callable[[str | None], None],
        log_calls: bool = False,
    ) -> None:
        self._target = target
        self._log_calls = log_calls
        self._log_format = log_format
        self._set_logs_up = configure_logs
        self.runner: Runner
        self._is_broken = False
        #: The settings that the log has named as changed.
        self._named_settings: list[str] = []
        self._module = module_of(target)
        spec = importlib.util.find_spec(self._module.partition(".")[0])
        folder = None if spec is None else folder_of(spec)
        if folder is None:
            raise TargetError(f"there is no module {self._module!r} with a file here or on Python's path")
        self._folder = folder._replace(kept=frozenset(kept))
        #: The files that were in each folder at the import.
        self._files: dict[str, frozenset[str]] = {}
        self._sources = Sources(self._folder)

    def run(self) -> Runner:
        """Serve until a signal, or until the runner ends. Return the runner.

        Raises:
            TargetError: as `find_runner`. While the module raises, wait for a change instead.
            N8nRunnerError: as `Runner.run`.
        """
        with self._sources.installed():
            self.runner = self._first_import()
            self.runner._run(self._attached)
        return self.runner

    def _first_import(self) -> Runner:
        """Import the runner. While its module raises, wait for changes."""
        while True:
            try:
                with self._noting_files(), self._sources.again():
                    runner = find_runner(self._target, self._log_calls)
                self._configure_logs()
                self._is_broken = False
                return runner
            except (N8nRunnerError, TargetError) as error:
                if isinstance(error, TargetError) and not error.has_raised:
                    raise
                self._configure_logs()
                self._is_broken = True
                task_logger.error("Waiting for a change, because of this: %s", _text_of(error))
            self._wait_for_change()

    def _configure_logs(self) -> None:
        log_format, self._log_format = self._log_format, None  # once: it is there from then on
        self._set_logs_up(log_format)

    def _wait_for_change(self) -> None:
        """Wait until a change may mend the program."""
        changed = threading.Event()
        watch = Watch(lambda changes: changed.set() if self._is_concerned(changes) else None)
        watch.start(self._folders())
        while not changed.wait(_SIGNAL_POLL):
            pass
        watch.stop()

    @contextlib.contextmanager
    def _attached(self, signals: process.Signals) -> Iterator[None]:
        """Watch the files in the block."""

        def on_changes(changes: list[Change]) -> None:
            signals.call(lambda: self._check(changes, signals))

        self._watch = Watch(on_changes)
        self._watch.start(self._folders())
        logger.info("Watching %s and the modules that it imports from %s", self._module, self._folder.path)
        try:
            yield
        finally:
            self._watch.stop()

    def _folders(self) -> set[str]:
        """Return the folders to watch, with those of files behind symbolic links."""
        files = self._sources.files
        folders = {self._folder.path, *packages_of(self._sources.modules().values())}
        folders.update(os.path.dirname(path) for path in files)
        folders.update(os.path.dirname(os.path.realpath(path)) for path in files)
        return folders

    @contextlib.contextmanager
    def _noting_files(self) -> Iterator[None]:
        """Note the files in the folders to watch before an import, and those in new folders after it."""
        self._files = {folder: files_in(folder) for folder in self._folders()}
        try:
            yield
        finally:
            for folder in self._folders() - self._files.keys():
                self._files[folder] = files_in(folder)

    def _is_concerned(self, changes: list[Change]) -> bool:
        """Return whether an import could give another program, after changes or before a watch began."""
        if not changes:
            for folder, files in self._files.items():
                changes = [*changes, *(Change(path, True) for path in files_in(folder) - files)]
        packages = packages_of(self._sources.modules().values())
        files = frozenset(self._sources.files)
        return bool(self._sources.changed()) or concerned(
            changes, _with_real(files), _with_real(packages), self._is_broken
        )

    def _check(self, changes: list[Change], signals: process.Signals) -> None:
        """Import again if a change concerns the program. On the thread that waits for signals."""
        kept = self._sources.take_changed_kept()
        if kept:
            logger.warning("Start the command again to use the changes of %s (--keep)", self._named(kept))
        try:
            if self.runner.state == "running" and self._is_concerned(changes):
                self._serve_changes(self._sources.changed() or [change.path for change in changes], signals)
        except KeyboardInterrupt:
            pass  # the signal stops the runner next
        except BaseException as error:  # noqa: BLE001 - a module may raise anything
            self._is_broken = True
            self._configure_logs()
            self._show(error)
        self._watch.use(self._folders())

    def _serve_changes(self, changed: list[str], signals: process.Signals) -> None:
        """Serve the new code of changed files, if the functions run in this process."""
        if self.runner._runs_in_process:
            self._reload(changed, signals)
            return
        self._sources.accept()
        logger.warning(
            "Start the command again to use the changed code: the functions of %s run in processes of an "
            "executor, which keep the code that they have imported",
            self._module,
        )

    def _reload(self, changed: list[str], signals: process.Signals) -> None:
        """Import again, and hand over. Raises what the module raises; the old code stays then."""
        began = time.monotonic()
        before, modules = _registered(self.runner), self._sources.modules()
        with self._noting_files(), self._sources.again():
            with signals.interrupting():
                new = find_runner(self._target, self._log_calls)
            settings = changed_settings(self.runner.config, new.config)
            settings += changed_extras(self.runner._extras, new._extras)
            if new is not self.runner:
                self.runner._take_from(new)
        if new is self.runner:
            # It is of another folder, and the import has registered the functions with it one by one.
            for name in stale(before, _registered(new), modules):
                new.remove(name)
        self._is_broken = False
        self._configure_logs()
        differences = str(compare(before, _registered(new)))
        logger.info(
            "Reloaded %s in %s after a change of %s%s",
            self._module,
            units.duration(time.monotonic() - began),
            self._named(changed),
            f" ({differences})" if differences else "",
        )
        if settings and settings != self._named_settings:
            logger.warning(
                "Start the command again to use the changed settings of the runner %r: %s",
                new.config.name,
                ", ".join(settings),
            )
        self._named_settings = settings

    def _show(self, error: BaseException) -> None:
        """Log why the old code stays. The text of a module's exception is only for the logger of tasks."""
        text = _text_of(error)
        if not self.runner.config.error_details:
            text = text.partition("\n")[0]
        task_logger.error("The old code of %s goes on: %s", self._module, text)

    def _named(self, paths: list[str]) -> str:
        """Return the names of changed files for a log line."""
        start = os.path.join(self._folder.path, "")
        names = sorted({path[len(start) :] if path.startswith(start) else path for path in paths})
        more = f" and {len(names) - _NAMED_FILES} more" if len(names) > _NAMED_FILES else ""
        return f"{', '.join(names[:_NAMED_FILES])}{more}"


def _with_real(paths: frozenset[str]) -> set[str]:
    """Return paths with those behind symbolic links, which macOS reports."""
    return {*paths, *map(os.path.realpath, paths)}


def _text_of(error: BaseException) -> str:
    """Return why an import has failed, for people."""
    if isinstance(error, N8nRunnerError):
        return f"{error}{_place_of(error)}"
    if isinstance(error, TargetError):
        return str(error)
    return f"the module raised {type(error).__name__}\n{traceback_of(error)}"


def _place_of(error: N8nRunnerError) -> str:
    """Return the line of the program that an error of n8nrunner comes from, for the end of a sentence."""
    own = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((own, "<frozen"))
    ]
    return f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""


def _registered(runner: Runner) -> dict[str, Entry]:
    """Return the functions and the task types of a runner, as they are compared."""
    registry = runner._registry
    found = {f"task {name!r}": Entry(handler, limit) for name, (handler, limit) in registry.handlers.items()}
    functions = {} if registry.functions is None else registry.functions.by_name
    found.update({name: Entry(made.function, made.described) for name, made in functions.items()})
    return found

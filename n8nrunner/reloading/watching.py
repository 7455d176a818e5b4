"""The thread that waits for changes of files, with watchfiles."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable
from typing import Callable

import watchfiles

from n8nrunner import logs
from n8nrunner.logs import logger
from n8nrunner.reloading.folder import Change, may_concern

#: Milliseconds without a change after which a group of changes is complete, and the longest time for a group.
#: A "save all" of an editor, or a checkout, writes several files. Other files, such as a database, may change
#: all the time.
_STEP, _LONGEST_GROUP = 50, 200

#: Milliseconds after which a new watch has noticed every change since its begin.
_POLL = 250

#: Seconds until a watch that failed is tried again.
_RETRY = 1.0


def files_in(folder: str) -> frozenset[str]:
    """Return the paths of the files and folders in a folder; none if it is not there."""
    try:
        return frozenset(os.path.join(folder, name) for name in os.listdir(folder))
    except OSError:
        return frozenset()


def _present(folders: Iterable[str]) -> list[str]:
    return sorted(folder for folder in folders if os.path.isdir(folder))


class Watch:
    """Watches the files in some folders, but not in their subfolders, on a thread of its own.

    Args:
        on_changes: called on the thread with changes, or with no change when a watch has begun: what changed
            before is for the caller to find out.
    """

    def __init__(self, on_changes: Callable[[list[Change]], None]) -> None:
        self._on_changes = on_changes
        self._wanted: frozenset[str] = frozenset()
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="n8nrunner-reload", daemon=True)

    def start(self, folders: Iterable[str]) -> None:
        """Begin to watch these folders."""
        self.use(folders)
        self._thread.start()

    def use(self, folders: Iterable[str]) -> None:
        """Watch these folders from now on."""
        self._wanted = frozenset(folders)

    def stop(self) -> None:
        """End the thread. Do not wait for it for long: it may be in a log handler."""
        self._is_stopped.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        has_failed = False
        while not self._is_stopped.is_set():
            try:
                self._watch(self._wanted)
                has_failed = False
            except FileNotFoundError:  # a folder has been removed or renamed since the look at it
                self._is_stopped.wait(_STEP / 1000)
            except Exception as error:  # noqa: BLE001 - such as a limit of the system
                if not has_failed:
                    logger.error(
                        "Changes of files are not noticed now (%s). If the system has no room for more "
                        "watches, start the command with WATCHFILES_FORCE_POLLING=true",
                        logs.describe(error),
                    )
                has_failed = True
                self._is_stopped.wait(_RETRY)

    def _watch(self, folders: frozenset[str]) -> None:
        """Watch folders, until others are wanted or one of them has been replaced."""
        present = _present(folders)
        if not present:
            self._is_stopped.wait(_POLL / 1000)
            return
        has_begun = False
        watched = watchfiles.watch(
            *present,
            recursive=False,
            watch_filter=None,
            debounce=_LONGEST_GROUP,
            step=_STEP,
            rust_timeout=_POLL,
            yield_on_timeout=True,
            stop_event=_End(lambda: self._is_stopped.is_set() or self._wanted != folders),
        )
        with contextlib.closing(watched):
            for found in watched:
                if not has_begun:
                    has_begun = True
                    self._on_changes([])
                    if _present(folders) != present:
                        return  # one has come before the watch could see that
                changes = [Change(path, kind is watchfiles.Change.added) for kind, path in found]
                relevant = [change for change in changes if may_concern(change)]
                if relevant:
                    self._on_changes(relevant)
                if any(change.path in folders for change in changes):
                    return


class _End:
    """The event that ends a watch, as watchfiles asks for it."""

    def __init__(self, is_set: Callable[[], bool]) -> None:
        self.is_set = is_set

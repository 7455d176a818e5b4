"""The thread that waits for changes of files."""

from __future__ import annotations

import functools
import queue
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import watchfiles

from n8nrunner.reloading import watching
from n8nrunner.reloading.folder import Change
from n8nrunner.reloading.watching import Watch, files_in
from tests.conftest import LIMIT, wait_until


class Changes:
    """A watch with the changes that it has told."""

    def __init__(self) -> None:
        self._told: queue.SimpleQueue[list[Change]] = queue.SimpleQueue()
        self.watch = Watch(self._told.put)

    def next(self) -> list[Change]:
        """Return the next changes; none at the begin of a watch."""
        return self._told.get(timeout=LIMIT)

    def paths(self) -> list[str]:
        """Return the files and folders of the changes that are there now."""
        found = []
        while not self._told.empty():
            found += [change.path for change in self.next()]
        return found

    def wait_for(self, path: Path) -> None:
        """Wait for a change of a file."""
        while str(path) not in [change.path for change in self.next()]:
            pass


@pytest.fixture
def changes() -> Iterator[Changes]:
    """A watch that is not started."""
    found = Changes()
    yield found
    found.watch.stop()


def test_other_folders_can_be_watched_and_their_subfolders_are_not(changes: Changes, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    (one / "below").mkdir(parents=True)
    other.mkdir()
    changes.watch.start([str(one)])
    assert changes.next() == []
    (one / "below" / "unseen.py").touch()
    (one / "data.csv").touch()
    (one / "a.py").touch()
    assert changes.next() == [Change(str(one / "a.py"), is_new=True)]
    changes.watch.use([str(other)])
    assert changes.next() == []
    (other / "b.py").touch()
    changes.wait_for(other / "b.py")


def test_a_folder_is_watched_again_when_it_is_back(changes: Changes, tmp_path: Path) -> None:
    folder = tmp_path / "shop"

    def is_told(file: Path) -> bool:
        file.touch()  # again and again, because a change from before the watch is for the caller to find out
        return str(file) in changes.paths()

    changes.watch.start([str(tmp_path), str(folder)])
    for name in ("a.py", "b.py"):
        folder.mkdir()
        wait_until(functools.partial(is_told, folder / name))
        shutil.rmtree(folder)


def test_a_folder_that_comes_while_a_watch_begins_is_watched(
    changes: Changes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, folder = watchfiles.watch, tmp_path / "shop"

    def late_watch(*folders: Any, **options: Any) -> Any:
        folder.mkdir(exist_ok=True)  # after the look at it, and before the watch
        return watch(*folders, **options)

    monkeypatch.setattr(watchfiles, "watch", late_watch)
    changes.watch.start([str(tmp_path), str(folder)])
    assert [changes.next(), changes.next()] == [[], []]
    (folder / "a.py").touch()
    changes.wait_for(folder / "a.py")


def test_a_watch_that_fails_is_reported_once_and_tried_again(
    changes: Changes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watch, failures = watchfiles.watch, [OSError(28, "no room"), OSError(28, "no room"), FileNotFoundError()]

    def failing_watch(*folders: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop(0)
        return watch(*folders, **options)

    monkeypatch.setattr(watchfiles, "watch", failing_watch)
    monkeypatch.setattr(watching, "_RETRY", 0.001)
    changes.watch.start([str(tmp_path)])
    assert changes.next() == []
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "WATCHFILES_FORCE_POLLING=true" in caplog.text


def test_a_folder_that_is_not_there_has_no_files(tmp_path: Path) -> None:
    (tmp_path / "a.py").touch()
    assert files_in(str(tmp_path)) == {str(tmp_path / "a.py")}
    assert files_in(str(tmp_path / "not_there")) == frozenset()

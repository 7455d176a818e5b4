"""Initializers for the processes of an executor. Each process imports this module, so it imports little."""

from __future__ import annotations

import signal


def ignore_interrupts() -> None:
    """Ignore SIGINT in this process. Pass it as the `initializer` of a `ProcessPoolExecutor`.

    Ctrl-C reaches all processes of a terminal's program at once. Without this, it ends the processes in which
    tasks run, while the runner still gives these tasks their time to finish. With it, the program itself
    decides what ends. SIGTERM is not ignored: an executor ends its processes with it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

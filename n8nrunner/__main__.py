"""The start of the command ``n8nrunner``, and of ``python -m n8nrunner``."""

import signal
import sys


def main() -> int:
    """Runs the command; see `cli.main`."""
    # Until a command listens for Ctrl-C itself, it just ends the process: no traceback out of an import.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from n8nrunner import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())

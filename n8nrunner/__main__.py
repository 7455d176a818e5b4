"""The start of the command ``n8nrunner``, and of ``python -m n8nrunner``."""

import os
import sys


def main() -> int:
    """Run the command; see `cli.main`."""
    from n8nrunner import process

    process.end_at_signals()  # before anything slow is imported
    from n8nrunner import cli

    code = cli.main()
    if not process.wait_for_detached():
        # The interpreter would wait at its end for the same lock or pipe, or abort the process.
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())

"""The start of the command ``n8nrunner``, and of ``python -m n8nrunner``."""

import sys


def main() -> int:
    """Run the command; see `cli.main`."""
    from n8nrunner import process

    process.end_at_signals()  # before anything slow is imported
    from n8nrunner import cli

    code = cli.main()
    process.exit_if_stuck(code)
    return code


if __name__ == "__main__":
    sys.exit(main())

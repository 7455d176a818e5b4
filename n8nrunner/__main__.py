"""``python -m n8nrunner``: the same as the command ``n8nrunner``."""

import sys

from n8nrunner.cli import main

sys.exit(main())

"""docs/reference.md is current, and every public name has a docstring and an example."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("griffe")

SCRIPT = Path(__file__).parent.parent / "docs" / "make_reference.py"


def test_the_api_reference_is_current_and_complete() -> None:
    check = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True)
    assert check.returncode == 0, check.stderr

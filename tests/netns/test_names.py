"""A name of brokers with the system's own resolver: ``python -m pytest tests/netns/test_names.py``."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.netns.names import COMMAND

pytestmark = pytest.mark.netns


def test_a_runner_follows_the_addresses_of_a_name_and_loses_no_task(tmp_path: Path) -> None:
    try:
        subprocess.run([*COMMAND[:-3], "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"namespaces cannot be made here: {error}")
    ended = subprocess.run([*COMMAND, str(tmp_path)], capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.endswith("done\n")

"""The tutorial's text leads to a call that n8n has answered: see `tutorials.py`, which also measures it."""

from __future__ import annotations

from pathlib import Path

from tests import chromium

from . import tutorials
from .conftest import skip_or_fail
from .install import Installation


def test_the_steps_of_the_tutorial_lead_to_an_answered_call(place: Installation, tmp_path: Path) -> None:
    lacking = chromium.missing()
    if lacking:
        skip_or_fail(f"the editor's tests need {' and '.join(lacking)}")
    steps = tutorials.follow(tutorials.APPLICATION, place, tmp_path)
    assert list(steps) == ["n8n is ready", "the function is registered", "the editor shows the result"]

"""Names of Python code as labels of n8n's screen."""

from __future__ import annotations

import re


def title_of(name: str) -> str:
    """A name of Python's as n8n shows names: ``zip_code`` is "Zip Code"."""
    return " ".join(word[:1].upper() + word[1:] for word in re.split(r"[_\s-]+", name) if word) or name

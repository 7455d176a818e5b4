"""Blocks and links of the documentation, for tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class Block(NamedTuple):
    """A fenced block."""

    language: str
    #: The second-level heading that it stands under.
    heading: str
    text: str


def read(page: str) -> str:
    """Return the text of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str | None = None) -> list[Block]:
    """Return the fenced blocks of a page, in its order; only those of a language, if one is given."""
    found, heading = [], ""
    for match in re.finditer(r"^## ([^\n]+)$|^```(\w*)\n(.*?)^```$", read(page), re.MULTILINE | re.DOTALL):
        if match[1]:
            heading = match[1]
        elif language in (None, match[2]):
            found.append(Block(match[2], heading, match[3]))
    return found


def pages() -> list[str]:
    """Return all pages that users read."""
    return [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
    ]


def links(page: str) -> list[Path]:
    """Return the files of this repository that a page links to."""
    folder = (ROOT / page).parent
    return [folder / link for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", read(page))]

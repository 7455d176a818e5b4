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


class Link(NamedTuple):
    """A link to a file of this repository, or to one of its headings."""

    file: Path
    anchor: str


def links(page: str) -> list[Link]:
    """Return the links of a page to files of this repository."""
    here = ROOT / page
    found = re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", read(page))
    return [Link(here.parent / file if file else here, anchor) for file, anchor in found if file or anchor]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page: it numbers those that come again."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    before = [plain[:place].count(anchor) for place, anchor in enumerate(plain)]
    return {f"{anchor}-{count}" if count else anchor for anchor, count in zip(plain, before)}

"""The links and the command line of the scripts that write generated pages."""

from __future__ import annotations

import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent


def anchor_of(heading: str) -> str:
    """Return the anchor of a heading that occurs once."""
    return re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-"))


def with_links(text: str) -> str:
    """Return a text in which the pages that it names, such as docs/tasks.md, are links with their titles."""

    def link(match: re.Match[str]) -> str:
        page, section = match.groups()
        if section:
            return f"[{section}]({page}#{anchor_of(section)})"
        title = (DOCS / page).read_text(encoding="utf-8").partition("\n")[0]
        return f"[{title.lstrip('# ')}]({page})"

    return re.sub(r'docs/([\w-]+\.md)(?:,\s+"([^"]+)")?', link, text)


def main(page: Path, text: str) -> None:
    """Write the text of a page, or with ``--check`` end with an error if the page has another one."""
    command = f"python docs/{Path(sys.argv[0]).name}"
    arguments = sys.argv[1:]
    if arguments == ["--check"]:
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            sys.exit(f"docs/{page.name} is not current: run {command}")
    elif arguments:
        sys.exit(f"usage: {command} [--check]")
    else:
        page.write_text(text, encoding="utf-8")

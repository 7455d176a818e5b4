"""The command line of the scripts that write generated pages."""

from __future__ import annotations

import sys
from pathlib import Path


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

"""Write the list of causes in docs/troubleshooting.md, from the texts that `n8nrunner check` prints.

``python docs/make_causes.py`` writes it; ``--check`` only compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from generated import main, with_links

from n8nrunner.check.causes import Cause, filled_in
from n8nrunner.check.facts import Editor, Facts, Observation, Step
from n8nrunner.config import parse_broker

PAGE = Path(__file__).parent / "troubleshooting.md"
HEADING = "## All causes\n"
INTRODUCTION = """
`python docs/make_causes.py` writes this list. The names in it are those of an n8n at `http://n8n.example:5679`.
"""
EXAMPLE = Facts(
    Observation(Step.TCP, ""),
    parse_broker("http://n8n.example:5679"),
    "http://proxy:3128",
    Editor("http://n8n.example:5678", True, "1.123.81"),
)


def make() -> str:
    """Return the page with a current list."""
    before = PAGE.read_text(encoding="utf-8").partition(HEADING)[0]
    return f"{before}{HEADING}{INTRODUCTION}\n" + "\n".join(_entries())


def _entries() -> Iterator[str]:
    for cause in Cause:
        is_so, change, sign = (with_links(filled_in(text, EXAMPLE)) for text in cause.value)
        yield f"### {cause.key}\n\n{is_so}\n\n- *Change.* {change}\n- *Sign.* {sign}\n"


if __name__ == "__main__":
    main(PAGE, make())

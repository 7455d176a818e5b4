"""The site of the documentation, which Sphinx builds from the repository's Markdown files as they are.

``python -m sphinx -W --keep-going -c docs . build/site`` builds it. The folder of the sources is the root of
the repository, so links to other pages, CHANGELOG.md and samples/ also work on a code-hosting page.

Sphinx, MyST and Furo are released and maintained. MkDocs 1 is not, and its theme Material ends in May 2027.
"""

from __future__ import annotations

import html
import itertools
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

from diagrams import DIAGRAMS, file_name  # noqa: E402

project = "n8nrunner"
author = "the authors of n8nrunner"
project_copyright = "the authors of n8nrunner"
version = release = re.findall(r'__version__ = "(.+)"', (ROOT / "n8nrunner/_version.py").read_text())[0]

#: The pages of the site, in the order of its navigation, each with a shorter title if its own is long. A page
#: that is missing here is an error.
NAVIGATION = {
    "Tutorials": ["docs/guide-notebook", "docs/guide-application", "docs/guide-self-hosting"],
    "Guides": [
        "docs/functions",
        "Agents and MCP <docs/agents>",
        "docs/tasks",
        "docs/development",
        "docs/testing",
        "docs/operating",
        "docs/brokers",
        "docs/scaling",
        "docs/security",
        "docs/troubleshooting",
        "docs/errors",
    ],
    "Reference": ["docs/reference", "docs/commands", "docs/settings", "docs/n8n-versions"],
    "Inside": [
        "docs/architecture",
        "Protocol <docs/protocol>",
        "docs/faults",
        "docs/measurements",
        "docs/mutation",
    ],
    "Project": ["CHANGELOG", "CONTRIBUTING", "SECURITY"],
}
root_doc = "docs/index"
include_patterns = ["docs/*.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
exclude_patterns = [".*", "build", "dist", "n8nrunner", "samples", "tests", "**/node_modules"]

extensions = ["myst_parser", "sphinx_copybutton"]
myst_heading_anchors = 4
copybutton_selector = "div.highlight-python pre, div.highlight-sh pre, div.highlight-bash pre"

html_theme = "furo"
html_title = "n8nrunner"
html_static_path = ["site/static"]
templates_path = ["site/templates"]
html_css_files = ["site.css"]
html_logo = html_favicon = "site/static/mark.svg"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
#: The home page is docs/index.html, because the pages keep their places in the repository.
html_additional_pages = {"index": "redirect.html"}
pygments_style = "tango"
pygments_dark_style = "github-dark"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0f766e", "color-brand-content": "#0f766e"},
    "dark_css_variables": {"color-brand-primary": "#4fc3b0", "color-brand-content": "#4fc3b0"},
}

#: Code of at most so many characters stays on one line, which fits a phone.
SHORT_CODE = 34
#: A table with more columns has half of that in a line, if it is not on a phone.
MANY_COLUMNS = 4
#: A table whose columns have more characters together does not fit a phone.
NARROW_TABLE = 44
#: A first column of at most so many characters leaves enough of a phone to the only other one.
NARROW_COLUMN = 12

logger = logging.getLogger(__name__)


def add_navigation(app: Sphinx, docname: str, source: list[str]) -> None:
    """Append the navigation to the home page, whose file shows none on a code-hosting page."""
    if docname == root_doc:
        for caption, names in NAVIGATION.items():
            entries = "\n".join(re.sub(r"([\w/-]+)(>?)$", r"/\1\2", name) for name in names)
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{entries}\n```\n"


def link_folders(app: Sphinx, docname: str, source: list[str]) -> None:
    """Let links to folders lead to zip files of them, because a site cannot show a folder."""
    page = ROOT / docname

    def replace(match: re.Match[str]) -> str:
        folder = (page.parent / match[2]).resolve()
        if not folder.is_dir():
            return match[0]
        name = folder.relative_to(ROOT).as_posix()
        _zip(folder, Path(app.outdir) / f"{name}.zip")
        return f'<a href="{"../" * docname.count("/")}{name}.zip">{match[1]}</a>'

    source[0] = re.sub(r"\[([^\]]+)\]\(([^)#:]+)\)", replace, source[0])


def _zip(folder: Path, archive: Path) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                file.write(path, path.relative_to(folder.parent))


def draw_diagrams(app: Sphinx, doctree: nodes.document) -> None:
    """Show the drawing of each Mermaid diagram instead of its text."""
    for block in list(doctree.findall(nodes.literal_block)):
        if block.get("language") != "mermaid":
            continue
        drawing = DIAGRAMS / file_name(block.astext())
        if not drawing.exists():
            logger.warning("a diagram is not drawn: run python docs/diagrams.py", location=block)
            continue
        image = nodes.image(
            uri=f"/{drawing.relative_to(ROOT).as_posix()}", alt="Diagram", classes=["diagram"]
        )
        block.replace_self(image)


def keep_code_together(app: Sphinx, doctree: nodes.document) -> None:
    """Mark code in a line of text that must not break, or only between its words."""
    for code in doctree.findall(nodes.literal):
        text, limit = code.astext(), SHORT_CODE
        if (table := _around(code, nodes.tgroup)) is not None and table["cols"] > MANY_COLUMNS:
            limit = SHORT_CODE // 2
        if len(text) <= limit:
            code["classes"].append("short")
        elif all(len(word) <= limit for word in text.split()):
            code["classes"].append("short-words")
        else:
            code["classes"].append("long")
        if len(text) <= SHORT_CODE:
            code["classes"].append("short-on-phones")


def _around(node: nodes.Node, kind: type[nodes.Element]) -> nodes.Element | None:
    while node is not None and not isinstance(node, kind):
        node = node.parent
    return node


def fit_to_phones(
    app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Mark where long code may break, and the tables whose rows the style shows as blocks on a phone."""
    body = re.sub(r'(<code class="[^"]*\blong\b[^>]*>)(.*?)</code>', _breakable, context.get("body", ""))
    context["body"] = re.sub(r"<table\b.*?</table>", _labelled, body, flags=re.DOTALL)


def _breakable(match: re.Match[str]) -> str:
    return match[1] + re.sub(r"(?<=[/_.:=])(?=\w)(?![^<]*>)", "<wbr>", match[2]) + "</code>"


#: The parts of a table, for a browser that shows them as blocks and then no longer knows what they are.
_ROLES = {
    "table": "table",
    "thead": "rowgroup",
    "tbody": "rowgroup",
    "tr": "row",
    "th": "columnheader",
    "td": "cell",
}


def _labelled(match: re.Match[str]) -> str:
    table = match[0]
    rows = [re.findall(r"<t[hd]\b.*?</t[hd]>", row, re.DOTALL) for row in table.split("</tr>")[:-1]]
    texts = [[html.unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in row] for row in rows]
    heads = texts[0]
    if len(heads) > MANY_COLUMNS:
        table = table.replace('class="', 'class="many ', 1)
    widths = [max(map(len, column)) for column in zip(*texts)]
    if sum(widths) <= NARROW_TABLE or (len(widths) == 2 and widths[0] <= NARROW_COLUMN):
        return table
    # The first cell is the title of its block, and of two cells the second explains it.
    labels = itertools.cycle(["", ""] if len(heads) == 2 else ["", *heads[1:]])
    filled = itertools.chain.from_iterable(texts[1:])

    def label(cell: re.Match[str]) -> str:
        name, text = html.escape(next(labels)), next(filled)
        return f'<td data-label="{name}"' if name and text else '<td class="empty"' if not text else "<td"

    table = re.sub(r"<td\b", label, table).replace('class="', 'class="wide ', 1)
    return re.sub(rf"<({'|'.join(_ROLES)})\b", lambda tag: f'{tag[0]} role="{_ROLES[tag[1]]}"', table)


def setup(app: Sphinx) -> None:
    """Register the functions above."""
    app.connect("source-read", add_navigation)
    app.connect("source-read", link_folders)
    app.connect("doctree-read", draw_diagrams, priority=400)
    app.connect("doctree-read", keep_code_together)
    app.connect("html-page-context", fit_to_phones)

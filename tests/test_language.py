"""The plain technical English of the repository's prose, as far as a pattern can tell.

Prose is the text of a Markdown file outside of its code blocks. In Python source it is the comments, the
strings and the names of tests.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent

FORBIDDEN = {
    r"(?:^|[.!?;:|]\s+)What (?!.*\?)": "name the thing, and begin with it",
    r"\b(?:who|what)ever\b": "name the person, the program or the thing",
    r"\b(?:no|some)body\b": "name the person or the program, or say 'no one'",
    r"\banew\b": "again",
    r"\bmeanwhile\b": "during ..., or nothing",
    r"\bin vain\b": "without success",
    r"\bfor ever\b": "forever, or without an end",
    r"\bof (?:theirs|ours)\b": "the caller's, n8nrunner's",
    r"(?<![Tt]here )\b(?:is|are|was|were) no (?!longer\b|such\b|more\b|one\b)": "is not a ..., has no ...",
    r"\bwhole numbers?\b": "integer",
}
PATTERNS = {re.compile(pattern): advice for pattern, advice in FORBIDDEN.items()}


def _prose_of_markdown(source: str) -> Iterator[tuple[int, str]]:
    in_code = False
    for number, line in enumerate(source.splitlines(), 1):
        if line.lstrip().startswith(("```", "~~~")):
            in_code = not in_code
        elif not in_code and not line.startswith("#"):
            yield number, re.sub(r"`[^`]*`", "`code`", line)


def _prose_of_python(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], re.sub(r"`[^`]*`", "`code`", token.string.lstrip("#: "))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for number, line in enumerate(node.value.splitlines(), node.lineno):
                yield number, re.sub(r"`[^`]*`", "`code`", line.strip())
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name.lower().startswith("test"):
            yield node.lineno, node.name.replace("_", " ")


def findings(path: Path) -> list[str]:
    """Return a line for each forbidden phrase in a file."""
    source = path.read_text(encoding="utf-8")
    prose = _prose_of_markdown(source) if path.suffix == ".md" else _prose_of_python(source)
    return [
        f"{path.relative_to(ROOT)}:{number}: {text.strip()!r}: {advice}"
        for number, text in prose
        for pattern, advice in PATTERNS.items()
        if pattern.search(text)
    ]


def files() -> list[str]:
    """Return the files with prose."""
    folders = ("n8nrunner", "tests", "docs", "samples")
    found = [*ROOT.glob("*.md"), *(path for folder in folders for path in (ROOT / folder).rglob("*"))]
    kept = [path for path in found if path.suffix in (".md", ".py") and path != Path(__file__)]
    return sorted(path.relative_to(ROOT).as_posix() for path in kept)


def test_prose_is_plain() -> None:
    assert [finding for file in files() for finding in findings(ROOT / file)] == []


def test_the_sections_that_comments_name_exist() -> None:
    missing: list[str] = []
    for file in files():
        source = (ROOT / file).read_text(encoding="utf-8") if file.endswith(".py") else ""
        text = re.sub(r"\s*\n\s*(?:#:?)?\s*", " ", source)
        for page, section in re.findall(r'(docs/[\w-]+\.md), "([^"]+)"', text):
            headings = re.findall(r"^#+ (.*)", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
            if not any(heading.startswith(section) for heading in headings):
                missing.append(f"{file}: {page} has no section {section!r}")
    assert missing == []


def test_the_files_that_pages_name_exist() -> None:
    missing: list[str] = []
    for page in files():
        text = (ROOT / page).read_text(encoding="utf-8") if page.endswith(".md") else ""
        for name in re.findall(
            r"`((?:n8nrunner|tests|protocol|connection|execution|functions|broker)/[\w/]+\.py)", text
        ):
            if not (ROOT / name).exists() and not (ROOT / "n8nrunner" / name).exists():
                missing.append(f"{page} names {name}")
    assert missing == []

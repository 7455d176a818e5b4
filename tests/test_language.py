"""The plain technical English of the repository's prose, as far as a pattern can tell.

Prose is the text of a Markdown file outside of its code blocks. In Python source it is the comments, the
strings and the names of tests. In other files, such as setup.cfg, YAML and JavaScript, it is the comments.
"""

from __future__ import annotations

import ast
import io
import os
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FORBIDDEN = {
    r"(?:^|[.!?;:|]\s+)(?-i:What) (?!.*\?)": "name the thing, and begin with it",
    r"\b(?:who|what)ever\b": "name the person, the program or the thing",
    r"\b(?:no|some)body\b": "name the person or the program, or say 'no one'",
    r"\banew\b": "again",
    r"\bmeanwhile\b": "during ..., or nothing",
    r"\bin vain\b": "without success",
    r"\bfor ever\b": "forever, or without an end",
    r"\bof (?:theirs|ours)\b": "the caller's, n8nrunner's",
    r"\bour\b": "n8nrunner's, the runner's",
    r"\bbeside\b": "next to, besides, in addition to",
    r"(?<!there )\b(?:is|are|was|were) no (?!longer\b|such\b|more\b|one\b)": "is not a ..., has no ...",
    r"\bwhole numbers?\b": "integer",
}
PATTERNS = {re.compile(pattern, re.IGNORECASE): advice for pattern, advice in FORBIDDEN.items()}
#: Finds a text with any of them, in one search.
ANY_PATTERN = re.compile("|".join(FORBIDDEN), re.IGNORECASE)

#: The comment of a line, in files without a reader of their own.
COMMENT = re.compile(r"(?:^|\s)(?:#+|//|/?\*+)\s+(.*)")
OTHERS = (".cfg", ".toml", ".yaml", ".yml", ".service", ".js")


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


def _prose_of_comments(source: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(source.splitlines(), 1):
        if match := COMMENT.search(line):
            yield number, re.sub(r"`[^`]*`", "`code`", match[1])


READERS = {".md": _prose_of_markdown, ".py": _prose_of_python}


def findings(path: Path) -> list[str]:
    """Return a line for each forbidden phrase in a file."""
    source = path.read_text(encoding="utf-8")
    prose = READERS.get(path.suffix, _prose_of_comments)(source)
    return [
        f"{os.path.relpath(path, ROOT)}:{number}: {text.strip()!r}: {advice}"
        for number, text in prose
        if ANY_PATTERN.search(text)
        for pattern, advice in PATTERNS.items()
        if pattern.search(text)
    ]


def files() -> list[str]:
    """Return the files with prose."""
    folders = ("n8nrunner", "tests", "docs", "samples")
    found = [*ROOT.glob("*.*"), *(path for folder in folders for path in (ROOT / folder).rglob("*.*"))]
    kept = [path for path in found if path.suffix in (*READERS, *OTHERS) and path != Path(__file__)]
    scripts = [path for path in (ROOT / ".ci/run", ROOT / "samples/compose/Dockerfile") if path.exists()]
    return sorted(path.relative_to(ROOT).as_posix() for path in [*kept, *scripts])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("page.md", "Whoever reads this."),
        ("page.md", "| a | What it costs |"),
        ("code.py", "x = 1  # Nobody reads this"),
        ("code.py", 'x = "It is started ANEW"'),
        ("code.py", "def test_in_vain(): ..."),
        ("setup.cfg", "    # for events nobody thought of"),
        ("compose.yaml", "port: 1  # whoever reaches it"),
        ("runtime.js", "\t * Perhaps in vain."),
    ],
)
def test_a_phrase_to_avoid_is_found(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert findings(path)


def test_prose_is_plain() -> None:
    found = [finding for file in files() for finding in findings(ROOT / file)]
    assert not found, "\n".join(found)


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


def test_the_names_that_pages_give_for_a_file_are_in_it() -> None:
    missing: list[str] = []
    for page in files():
        text = (ROOT / page).read_text(encoding="utf-8") if page.endswith(".md") else ""
        for name, file in re.findall(
            r"`([A-Za-z]\w+|_\w+)`(?:,| in|\s\()\s?`([\w/]+\.py)`", text.replace("\n", " ")
        ):
            paths = [path for path in (ROOT / file, *ROOT.glob(f"n8nrunner/**/{file}")) if path.exists()]
            if not any(re.search(rf"\b{name}\b", path.read_text(encoding="utf-8")) for path in paths):
                missing.append(f"{page}: {name} is not in {file}")
    assert missing == []


def test_the_methods_that_pages_name_exist() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("n8nrunner/**/*.py"))
    missing = [
        f"{page}: {owner} has no {name}"
        for page in files()
        if page.endswith(".md") and page != "CHANGELOG.md"
        for owner, name in re.findall(r"`([A-Z]\w+)\.(\w+)", (ROOT / page).read_text(encoding="utf-8"))
        if f"class {owner}" in source and not re.search(rf"\b{name}\b", source)
    ]
    assert missing == []

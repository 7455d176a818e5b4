"""Write docs/reference.md from the docstrings of the public names.

``python docs/make_reference.py`` writes the page; ``--check`` fails if the page is not current. Both fail if
a public name has no docstring or no example. griffe reads the source, and the Google style of its docstrings.

Examples are the programs in docs/examples. The comment at the beginning of a program lists the names that it
shows. The program is on the page at the first one, and the others link to it.
"""

from __future__ import annotations

import functools
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import griffe
from generated import anchor_of, main, with_links

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference.md"
EXAMPLES = ROOT / "docs" / "examples"

#: The public names, in the order of the page. A name that is missing here is an error.
MODULES = {
    "n8nrunner": {
        "Runners": ["Runner", "RunnerConfig", "ignore_interrupts", "install_node"],
        "Tasks": ["Task", "File", "Undelivered"],
        "Errors": [
            "N8nRunnerError",
            "ConfigurationError",
            "AuthenticationError",
            "GrantTokenSpent",
            "BrokerConnectionError",
            "ProtocolError",
            "TaskError",
            "TaskTimeout",
            "TaskCancelled",
            "ExecutorBroken",
            "RunnerFailed",
            "RunnerStopped",
            "RunnerForked",
        ],
        "Hooks": ["Call", "Registered"],
        "Snapshots": [
            "Snapshot",
            "LinkSnapshot",
            "TaskSnapshot",
            "FunctionSnapshot",
            "Outcome",
            "Histogram",
            "CallError",
            "Counts",
        ],
        "Logs": ["TextFormatter", "JsonFormatter"],
    },
    "n8nrunner.metrics": {"Metrics": ["RunnerCollector"]},
    "n8nrunner.otel": {"Tracing": ["instrument"]},
    "n8nrunner.broker": {
        "The embedded broker": ["Broker", "BrokerConstants", "PROFILES", "BrokerEvent", "BrokerCounts"],
        "Tasks of the broker": ["BrokerTask", "SavedFile"],
        "Errors of the broker": [
            "BrokerTaskError",
            "BrokerTaskTimeout",
            "BrokerTaskCancelled",
            "BrokerTaskExpired",
            "BrokerTaskLost",
            "BrokerNotRunning",
        ],
    },
    "n8nrunner.testing": {
        "Tests of functions": ["serve", "ServedRunner", "Node", "Item", "CallFailed"],
    },
}
#: Public names that have no entry of their own.
LEFT_OUT = {"__version__"}
#: Classes whose attributes are described where another class has arguments of the same names.
DESCRIBED_BY = {"RunnerConfig": "runner.Runner"}
#: Functions that make a field of a dataclass. Their first argument is its default.
FIELDS = {"_setting", "_number"}
#: Bases that say how a class is made, and nothing to its users.
PLAIN_BASES = {"NamedTuple", "Generic", "Protocol"}

#: Names in signatures that have no entry, by their module: the page shows their values instead.
VALUES = {
    "DEFAULT_BROKER": "config",
    "DEFAULT_MAX_PAYLOAD": "config",
    "DEFAULT_NAME": "config",
    "CANCELLED_BY_USER": "broker.task",
    "ExecutorOrFactory": "execution.executors",
    "CallEvent": "hooks",
    "OnUndelivered": "hooks",
    "TaskContext": "hooks",
}


#: The longest line of a signature that is not split.
WIDTH = 90


class Example(NamedTuple):
    """A program that uses public names."""

    #: The name at which it is shown.
    place: str
    text: str


Item = Any  # one of griffe's objects, which differ between its releases


def examples() -> dict[str, Example]:
    """Return the example of each name.

    Raises:
        SystemExit: a program lists a name that it does not use.
    """
    found: dict[str, Example] = {}
    for path in sorted(EXAMPLES.glob("*.py")):
        source = path.read_text(encoding="utf-8")
        text = re.sub(r"\A(#.*\n)+", "", source)
        names = re.findall(r"[A-Za-z0-9_.]+", source[: len(source) - len(text)])
        for name in names:
            if not re.search(rf"\b{name.rpartition('.')[2]}\b", text):
                sys.exit(f"{path.name} does not use {name}")
            found.setdefault(name, Example(names[0], text))
    return found


def make() -> str:
    """Return the page.

    Raises:
        SystemExit: a public name is missing in `MODULES`, or has no docstring or no example.
    """
    problems: list[str] = []
    complaints = logging.Handler(logging.WARNING)
    complaints.emit = lambda record: problems.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("griffe").handlers[:] = [complaints]
    package = _package()
    lines = [
        "# API reference",
        "",
        "<!-- python docs/make_reference.py writes this page from the docstrings. -->",
        "",
        "All public names, each with its types and an example. The guides, such as",
        "[Functions in n8n](functions.md), explain how to use them. In the examples, the embedded broker",
        "stands in for n8n.",
        "",
        "| section | names |",
        "|---|---|",
        *(
            f"| [{section}](#{anchor_of(section)}) | {', '.join(_link(name) for name in names)} |"
            for sections in MODULES.values()
            for section, names in sections.items()
        ),
    ]
    of_name = examples()
    for module, sections in MODULES.items():
        found = package if module == package.path else package[module[len(package.path) + 1 :]]
        listed = {name for names in sections.values() for name in names}
        exported = {str(name) for name in found.exports or ()} - LEFT_OUT
        problems += [f"{module}.{name} is not in MODULES" for name in sorted(exported - listed)]
        problems += [f"{module}.{name} is not in __all__" for name in sorted(listed - exported)]
        for section, names in sections.items():
            lines += ["", f"## {section}", "", f"From `{module}`."]
            for name in names:
                item = found[name].final_target if found[name].is_alias else found[name]
                lines += ["", *_item(item, name, 3, problems, of_name)]
    problems += [f"an example lists {name}, which is not public" for name in of_name]
    if problems:
        sys.exit("\n".join(problems))
    return _with_anchors("\n".join(lines) + "\n")


@functools.cache
def _package() -> Item:
    return griffe.load(
        "n8nrunner", search_paths=[str(ROOT)], docstring_parser="google", force_inspection=False
    )


def _item(
    item: Item, name: str, level: int, problems: list[str], of_name: dict[str, Example]
) -> Iterator[str]:
    """Yield the lines of a class, function or attribute and of its public members. Use up their examples."""
    title = name if level == 3 else f"{item.parent.name}.{name}"
    yield f"{'#' * level} `{title}`"
    yield ""
    overloads = item.overloads if item.is_function else None
    # A block of "py" is not code that runs, as one of "python" is.
    signatures = [_signature(each, name) for each in overloads or [item]]
    if any(signatures):
        yield from ("```py", *(each for each in signatures if each), "```")
    if any(each and re.search(r"\bF\b", each) for each in signatures):
        yield from ("", "`F` is the type of the decorated function.")
    if item.docstring is None:
        text = _comment(item)
        if text is None:
            problems.append(f"{item.path} has no docstring")
        yield from ("", text or "")
    else:
        yield from _docstring(item)
    if item.is_class:
        yield from _attributes(item, problems)
    example = of_name.pop(title, None)
    if example is None:
        problems.append(f"{title} has no example: see docs/examples")
    elif example.place == title:
        yield from ("", "**Example**", "", f"```python\n{example.text}```")
    else:
        yield from ("", f"**Example**: see {_link(example.place)}.")
    if item.is_class:
        for member in _members(item):
            if member.is_function or "property" in member.labels:
                yield ""
                yield from _item(member, member.name, 4, problems, of_name)


def _members(cls: Item) -> list[Item]:
    """Return the public members that a class itself defines, in the order of the source."""
    return [
        member for name, member in cls.members.items() if not name.startswith("_") and not member.is_alias
    ]


def _link(name: str) -> str:
    return f"[`{name}`](@{name})"


def _with_anchors(page: str) -> str:
    """Let the links to names lead to their headings, also where two have the same letters."""
    anchors: dict[str, str] = {}
    for name in re.findall(r"^#{3,4} `(.+)`$", page, re.MULTILINE):
        anchor = anchor_of(name)
        number = sum(anchor_of(other) == anchor for other in anchors)
        anchors[name] = f"{anchor}-{number}" if number else anchor
    return re.sub(r"\(@([\w.]+)\)", lambda link: f"(#{anchors[link[1]]})", page)


def _signature(item: Item, name: str) -> str | None:
    if item.is_class:
        bases = ", ".join(str(base) for base in item.bases if str(base).split("[")[0] not in PLAIN_BASES)
        head = f"class {name}({bases})" if bases else f"class {name}"
        # Without a section "Args", only n8nrunner makes objects of the class.
        is_made_by_users = "dataclass" in item.labels or any(True for _ in _described(item, "parameters"))
        if not is_made_by_users:
            return head
        return f"{head}:\n{_call('    __init__(', item.parameters, ')', '    ')}"
    if "property" in item.labels:
        return f"{name}: {_source(item.annotation)}"
    if item.is_function:
        prefix = "".join(f"@{label}\n" for label in ("classmethod", "staticmethod") if label in item.labels)
        return prefix + _call(f"{name}(", item.parameters, f") -> {_source(item.returns)}")
    if item.annotation is None:
        return f"{name} = {_source(item.value)}"
    return f"{name}: {_source(item.annotation)} = {_source(item.value)}"


def _source(expression: Item) -> str:
    """Return a type or a value as a reader writes it, with `F` for the types of decorated functions."""
    text = str(expression)
    for name, module in VALUES.items():
        if re.search(rf"\b{name}\b", text):
            text = re.sub(rf"\b{name}\b", str(_package()[module][name].value).replace("\\", r"\\"), text)
    text = re.sub(r"\b_(HandlerType|FunctionType|On[A-Z]\w+)\b", "F", text.replace("'", '"'))
    text = text.replace("] | Literal[", ", ")
    union = re.fullmatch(r"Union\[(.*)\](.*)", text)
    return " | ".join(_split(union[1], ", ")) + union[2] if union else text


def _split(text: str, separator: str) -> list[str]:
    """Split at the separators that are in no brackets."""
    parts = [""]
    for part in text.split(separator):
        inside = parts[-1].count("[") > parts[-1].count("]")
        parts[-1:] = [f"{parts[-1]}{separator}{part}"] if inside else [*filter(None, parts[-1:]), part]
    return parts


def _call(head: str, parameters: Item, end: str, indent: str = "") -> str:
    parts: list[str] = []
    kind = griffe.ParameterKind
    has_star = False
    for parameter in parameters:
        if parameter.name in ("self", "cls") and not parts:
            continue
        star = {kind.var_positional: "*", kind.var_keyword: "**"}.get(parameter.kind, "")
        has_star = has_star or star == "*"
        if parameter.kind is kind.keyword_only and not has_star:
            parts.append("*")
            has_star = True
        text = f"{star}{parameter.name}"
        if parameter.annotation is not None:
            text += f": {_source(parameter.annotation)}"
        default = parameter.default
        if default is not None and not star:
            if isinstance(default, griffe.ExprCall) and str(default.function) in FIELDS:
                default = default.arguments[0]
            text += f" = {_source(default)}" if parameter.annotation is not None else f"={_source(default)}"
        parts.append(text)
    line = f"{head}{', '.join(parts)}{end}"
    if len(line) <= WIDTH:
        return line
    inside = f"\n{indent}    "
    lines = [f"{inside}    | ".join(_split(each, " | ")) if len(each) > WIDTH else each for each in parts]
    return f"{head}{''.join(f'{inside}{each},' for each in lines)}\n{indent}{end}"


def _docstring(item: Item) -> Iterator[str]:
    for section in item.docstring.parsed:
        kind = section.kind.value
        if kind == "text":
            yield from ("", _markdown(section.value))
        elif kind in ("parameters", "other parameters"):
            yield from _list(
                kind.capitalize(), [(f"`{each.name}`", each.description) for each in section.value]
            )
        elif kind in ("raises", "warns"):
            errors = [str(each.annotation).strip("()").replace(", ", "`, `") for each in section.value]
            descriptions = [each.description for each in section.value]
            yield from _list(
                kind.capitalize(), [(f"`{each}`", text) for each, text in zip(errors, descriptions)]
            )
        elif kind in ("returns", "yields"):
            yield from _list(kind.capitalize(), [("", each.description) for each in section.value])
        elif kind == "examples":
            yield from ("", "**Example**", "", "\n\n".join(text for _, text in section.value))
        elif kind == "admonition":
            title = section.title or section.value.kind.capitalize()
            yield from ("", f"**{title}**", "", _markdown(section.value.description))
        elif kind != "attributes":  # which `_attributes` renders
            sys.exit(f"{item.path}: no rule for a docstring's section {kind!r}")


def _described(item: Item, kind: str) -> Iterator[tuple[str, str]]:
    """Yield the names and descriptions in the docstring's sections of one kind."""
    for section in item.docstring.parsed if item.docstring else ():
        if section.kind.value == kind:
            yield from ((each.name, each.description) for each in section.value)


def _attributes(cls: Item, problems: list[str]) -> Iterator[str]:
    """Yield the attributes, which the class's docstring describes, or a ``#:`` comment at each of them."""
    attributes = dict(_described(cls, "attributes"))
    arguments = {name for name, _ in _described(cls, "parameters")}
    twin = DESCRIBED_BY.get(cls.name)
    elsewhere = {} if twin is None else dict(_described(cls.package[twin], "parameters"))
    for member in _members(cls):
        if not member.is_attribute or "property" in member.labels or member.name in attributes:
            continue
        description = _comment(member) or elsewhere.get(member.name)
        if description is not None:
            attributes[member.name] = description
        elif member.name not in arguments:
            problems.append(f"{member.path} is not described")
    if attributes:
        entries = []
        for name, description in attributes.items():
            annotation = cls.members[name].annotation if name in cls.members else None
            entries.append((f"`{name}`" if annotation is None else f"`{name}` (`{annotation}`)", description))
        yield from _list("Attributes", entries)


def _comment(item: Item) -> str | None:
    """Return the ``#:`` comment above an attribute or at the end of its line."""
    lines = item.filepath.read_text(encoding="utf-8").splitlines()
    after = re.search(r"#: (.*)", lines[item.lineno - 1])
    if after:
        return _markdown(after[1])
    found: list[str] = []
    number = item.lineno - 2
    while number >= 0 and lines[number].strip().startswith("#:"):
        found.insert(0, lines[number].strip()[2:].strip())
        number -= 1
    return _markdown(" ".join(found)) if found else None


def _list(title: str, entries: list[tuple[str, str]]) -> Iterator[str]:
    yield ""
    yield f"**{title}**"
    yield ""
    for name, description in entries:
        text = " ".join(_markdown(description).split())
        yield f"- {name}{': ' if name and text else ''}{text}"


def _markdown(text: str) -> str:
    """Return a text of a docstring, whose code is in pairs of backticks, with links to the pages it names."""
    return with_links(re.sub(r"``(.+?)``", r"`\1`", text))


if __name__ == "__main__":
    main(PAGE, make())

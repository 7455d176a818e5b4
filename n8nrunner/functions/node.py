"""Make the node package of a runner: plain CommonJS that n8n loads without a build step.

The node's code is `template.node.js`. This module fills in the node's description, which says what n8n shows,
and a definition of each function. `package.py` writes the files.
"""

from __future__ import annotations

import datetime
import enum
import hashlib
import importlib.resources
import json
import math
import re
from collections.abc import Sequence, Set
from typing import Any

from n8nrunner._version import __version__
from n8nrunner.errors import ConfigurationError
from n8nrunner.functions.dispatch import task_type
from n8nrunner.functions.docstrings import read_docstring
from n8nrunner.functions.function import Function
from n8nrunner.functions.items import to_json
from n8nrunner.functions.labels import sentence_of, title_of, whether
from n8nrunner.functions.package import Package
from n8nrunner.functions.parameters import Bounded, Choice, Optional, ParameterType, takes_file, unwrap
from n8nrunner.functions.records import Model, Record
from n8nrunner.functions.signature import Parameter

#: Items that one task takes unless the workflow's author says something else.
BATCH_SIZE = 50
#: Tasks of one node that are under way at once: what a runner has by default.
PARALLEL_TASKS = 5

#: The node's own fields, and the two that n8n adds to a node that is an agent's tool. A parameter with one of
#: these names gets a field with another name.
_OWN_FIELDS = frozenset(
    {
        "operation", "additionalFields", "options", "resource", "authentication",
        "toolDescription", "descriptionType",
    }
)  # fmt: skip
#: Properties that every JavaScript object has. n8n looks fields and nodes up by name in plain objects, and
#: would find these instead. "prototype" is removed by n8n where it copies objects.
_JAVASCRIPT_NAMES = frozenset(
    {
        "constructor", "hasOwnProperty", "isPrototypeOf", "propertyIsEnumerable", "prototype",
        "toLocaleString", "toString", "valueOf",
        "__proto__", "__defineGetter__", "__defineSetter__", "__lookupGetter__", "__lookupSetter__",
    }
)  # fmt: skip
#: The type of the sample node *Runner Job*: n8n would take a node of the same type for the same node.
_SAMPLE_NODE = "runnerJob"
#: The largest integer that JavaScript's numbers represent exactly, as all below it.
_LARGEST_INTEGER = 2**53 - 1

#: The page that the node's "Docs" link shows unless another one is given.
DOCS_URL = "https://docs.n8n.io/hosting/configuration/task-runners/"
_INDENT = "\t"

_ICON = """\
<svg xmlns="http://www.w3.org/2000/svg" width="60" height="60" viewBox="0 0 60 60">
<rect width="60" height="60" rx="12" fill="{background}"/>
<path d="M14 20l10 10-10 10" fill="none" stroke="{arrow}" stroke-width="5" stroke-linecap="round" \
stroke-linejoin="round"/>
<text x="42" y="39" font-family="Helvetica,Arial,sans-serif" font-size="26" font-weight="bold" \
text-anchor="middle" fill="{letter}">{initial}</text>
</svg>
"""


def make_package(runner_name: str, functions: Sequence[Function], docs_url: str | None = None) -> Package:
    """Return the package of a runner's node, with an operation for each function.

    Args:
        docs_url: the page that the node's "Docs" link shows; None for n8n's page on task runners.

    Raises:
        ConfigurationError: there is no function, n8n cannot use the runner's name for a node, `docs_url` is
            not an HTTP address, or the package that reads docstrings is not installed.
    """
    if not functions:
        raise ConfigurationError(
            [f"the runner {runner_name!r} has no function: decorate one with @runner.function"]
        )
    if docs_url is not None and not re.match(r"https?://[^\s/?#]", docs_url):
        raise ConfigurationError(
            [f"docs_url: expected an address that begins with http:// or https://, got {docs_url!r}"]
        )
    class_name, node_name = _names_of(runner_name)
    package_name = f"n8n-nodes-{runner_name}"
    folder = f"dist/nodes/{class_name}"  # where n8n expects what is usually compiled
    operations = sorted(
        (_Operation(runner_name, function) for function in functions),
        key=lambda operation: operation.title.lower(),
    )
    description = _node_description(runner_name, class_name, node_name, operations)
    # Not by a path: in a zip file, as zipapp makes one, there is none.
    template = (
        importlib.resources.files("n8nrunner.functions").joinpath("template.node.js").read_text("utf-8")
    )
    filled = {
        "__RUNNER__": runner_name,
        "__CLASS__": class_name,
        "__FUNCTIONS__": _javascript([each.definition() for each in operations]),
        "__DESCRIPTION__": _javascript(description, 1),
    }
    code = re.sub("__(?:RUNNER|CLASS|FUNCTIONS|DESCRIPTION)__", lambda found: filled[found.group()], template)
    names = ", ".join(f"`{operation.name}`" for operation in operations)
    initial = class_name[:1].upper()
    docs = DOCS_URL if docs_url is None else docs_url
    return Package(
        package_name,
        f"{folder}/{class_name}.node.js",
        {
            "package.json": _json(
                _package_json(package_name, runner_name, class_name, folder, docs, operations)
            ),
            "README.md": f"# {package_name}\n\nThe node of the n8nrunner named `{runner_name}`: {names}.\n\n"
            "Written by `n8nrunner node`; write it again when the functions change.\n",
            f"{folder}/{class_name}.node.js": code,
            f"{folder}/{class_name}.node.json": _json(_codex(package_name, node_name, docs, operations)),
            f"{folder}/{node_name}.svg": _ICON.format(
                background="#306998", arrow="#ffd43b", letter="#ffffff", initial=initial
            ),
            f"{folder}/{node_name}.dark.svg": _ICON.format(
                background="#8ab4f8", arrow="#8a6d00", letter="#202124", initial=initial
            ),
        },
    )


def _names_of(runner_name: str) -> tuple[str, str]:
    """Return the names of the node's class and of its type. Raises `ConfigurationError`."""
    class_name = "".join(word[:1].upper() + word[1:] for word in re.split(r"[_-]+", runner_name))
    if not class_name[:1].isalpha() or class_name[:1].lower() + class_name[1:] in _JAVASCRIPT_NAMES:
        class_name = f"Runner{class_name}"
    node_name = class_name[:1].lower() + class_name[1:]
    if node_name == _SAMPLE_NODE:
        raise ConfigurationError(
            [
                f"name: n8n would take the node of the runner {runner_name!r} and the sample node Runner Job "
                f"for the same node (CUSTOM.{node_name}); give the runner another name"
            ]
        )
    return class_name, node_name


def _package_json(
    package_name: str,
    runner_name: str,
    class_name: str,
    folder: str,
    docs: str,
    operations: Sequence[_Operation],
) -> dict[str, Any]:
    return {
        "name": package_name,
        "version": "0.1.0",
        "description": f"Python functions of the n8nrunner named {runner_name}, as a node for n8n",
        "license": "MIT",
        "homepage": docs,
        "author": {"name": runner_name, "email": f"{runner_name}@localhost.localdomain"},
        "repository": {"type": "git", "url": f"git+https://localhost.localdomain/{package_name}.git"},
        "keywords": ["n8n-community-node-package"],
        "files": ["dist"],
        "n8n": {
            "n8nNodesApiVersion": 1,
            "credentials": [],
            "nodes": [f"{folder}/{class_name}.node.js"],
        },
        "peerDependencies": {"n8n-workflow": "*"},
        # Tells the next run what has changed.
        "n8nrunner": {
            "version": __version__,
            "runner": runner_name,
            "operations": {operation.name: operation.digest() for operation in operations},
        },
    }


def _codex(package_name: str, node_name: str, docs: str, operations: Sequence[_Operation]) -> dict[str, Any]:
    """Return what n8n's search knows of the node. n8n ignores the file if it has no `resources`."""
    return {
        "node": f"{package_name}.{node_name}",
        "nodeVersion": "1.0",
        "codexVersion": "1.0",
        "categories": ["Development"],
        "subcategories": {"Development": ["Helpers"]},
        "alias": ["Python", *(alias for each in operations for alias in (each.title, each.name))],
        "resources": {"primaryDocumentation": [{"url": docs}]},
    }


def _node_description(
    runner_name: str, class_name: str, node_name: str, operations: Sequence[_Operation]
) -> dict[str, Any]:
    title = " ".join(re.findall(r"[A-Z0-9]+[a-z]*", class_name)) or class_name
    properties: list[dict[str, Any]] = [
        # n8n tells an agent the action of an operation only if the operation belongs to a resource.
        {
            "displayName": "Resource",
            "name": "resource",
            "type": "hidden",
            "noDataExpression": True,
            "options": [{"name": "Function", "value": "function"}],
            "default": "function",
        },
        {
            "displayName": "Operation",
            "name": "operation",
            "type": "options",
            "noDataExpression": True,
            "displayOptions": {"show": {"resource": ["function"]}},
            "options": [operation.option() for operation in operations],
            "default": operations[0].name,
        },
    ]
    for operation in operations:
        properties += operation.fields()
    properties.append(_options())
    return {
        "displayName": title,
        "name": node_name,
        "icon": {"light": f"file:{node_name}.svg", "dark": f"file:{node_name}.dark.svg"},
        "group": ["transform"],
        "version": 1,
        "subtitle": '={{ $parameter["operation"] }}',
        "description": f"Calls Python functions of the runner {runner_name}",
        "defaults": {"name": title},
        "inputs": [_Raw("NodeConnectionTypes.Main")],
        "outputs": [_Raw("NodeConnectionTypes.Main")],
        "usableAsTool": True,
        "properties": properties,
    }


def _options() -> dict[str, Any]:
    return {
        "displayName": "Options",
        "name": "options",
        "type": "collection",
        "placeholder": "Add option",
        "default": {},
        "options": [
            {
                "displayName": "Batch Size",
                "name": "batchSize",
                "type": "number",
                "typeOptions": {"minValue": 1, "numberPrecision": 0},
                "default": BATCH_SIZE,
                "description": "How many items one task takes. Fewer items spread over more slots and "
                "runners, and each task has its time limit to itself. Unless it is set, a function that "
                f"takes all items at once gets them all, and every other one gets {BATCH_SIZE}.",
            },
            {
                "displayName": "Parallel Tasks",
                "name": "parallelTasks",
                "type": "number",
                "typeOptions": {"minValue": 1, "numberPrecision": 0},
                "default": PARALLEL_TASKS,
                "description": "How many tasks of this node may be under way at once. More than the runners "
                "have slots for have to wait, and n8n gives up on a task that has waited for a minute.",
            },
        ],
    }


# --- an operation -------------------------------------------------------------------------------


class _Operation:
    """A function on the canvas."""

    def __init__(self, runner_name: str, function: Function) -> None:
        signature = function.signature
        self.name = signature.name
        self.title = title_of(signature.name)
        self._prose = read_docstring(function.function)
        self._function = function
        limited = signature.name if function.limit is not None else None
        self._task_type = task_type(runner_name, limited)
        parameters = list(signature.parameters.values())
        self._plain = [parameter for parameter in parameters if not _is_additional(parameter)]
        self._additional = [parameter for parameter in parameters if _is_additional(parameter)]
        self._field_names = {
            **_field_names(self._plain, _OWN_FIELDS | _JAVASCRIPT_NAMES),
            **_field_names(self._additional, _JAVASCRIPT_NAMES),
        }

    def option(self) -> dict[str, Any]:
        """Return its entry in the list of operations. Agents read the action."""
        summary = _sentence(self._prose.summary)
        return {
            "name": self.title,
            "value": self.name,
            "description": _html(summary or f"Call the function {self.name}"),
            "action": summary or sentence_of(self.title),
        }

    def digest(self) -> str:
        """Return a hash of everything that the node has of it."""
        everything = [self.option(), self.definition(), self.fields()]
        return hashlib.sha256(json.dumps(everything).encode()).hexdigest()[:16]

    def definition(self) -> dict[str, Any]:
        """Return what the node's code has to know of it."""
        signature, limit = self._function.signature, self._function.limit
        parameters = []
        for described, parameter in zip(signature.describe(), signature.parameters.values()):
            kind = "file" if takes_file(parameter.type) else described["kind"]
            field = {"title": title_of(parameter.name), "field": self._field_names[parameter.name]}
            parameters.append({**described, "kind": kind, **field})
        return {
            "name": self.name,
            "title": self.title,
            "taskType": self._task_type,
            "signature": signature.hash,
            "batchSize": 0 if signature.batch else BATCH_SIZE,
            "parallelTasks": PARALLEL_TASKS if limit is None else min(limit, PARALLEL_TASKS),
            "additional": [parameter.name for parameter in self._additional],
            "parameters": parameters,
        }

    def fields(self) -> list[dict[str, Any]]:
        """Its fields: what it needs, then what may be added."""
        shown = {"displayOptions": {"show": {"operation": [self.name]}}}
        fields = []
        for parameter in self._plain:
            field = self._field(parameter)
            fields.append({**field, **({"required": True} if parameter.required else {}), **shown})
        if self._additional:
            additional = [self._field(parameter) for parameter in self._additional]
            fields.append(
                {
                    "displayName": "Additional Fields",
                    "name": "additionalFields",
                    "type": "collection",
                    "placeholder": "Add Field",
                    "default": {},
                    **shown,
                    "options": sorted(additional, key=lambda field: str(field["displayName"]).lower()),
                }
            )
        return fields

    def _field(self, parameter: Parameter) -> dict[str, Any]:
        text = parameter.description or self._prose.parameters.get(parameter.name, "")
        name = self._field_names[parameter.name]
        field = {"displayName": title_of(parameter.name), "name": name, **_field_of(parameter)}
        description = _sentence(text)
        if field["type"] == "boolean":
            description = whether(description) if description else ""
        elif takes_file(parameter.type):
            hint = "The name of the item's field with the file"
            description = f"{description}. {hint}." if description else hint
        if description:
            field["description"] = _html(description)
        if field["type"] == "string" and "email" in parameter.name.lower():
            field["placeholder"] = "name@email.com"  # as n8n wants it of every such field
        return field


def _is_additional(parameter: Parameter) -> bool:
    """Whether a parameter is no field unless it is added: its default cannot be shown in one."""
    return not parameter.required and _shown_default(parameter) is None


def _shown_default(parameter: Parameter) -> Any:
    """The default as a field has it; None if a field cannot have it."""
    default = to_json(parameter.default)
    kind = unwrap(parameter.type)
    if default is None or takes_file(parameter.type):
        return None
    if isinstance(kind, Choice):
        sent = [value for _, value in kind.choices or ()]
        if isinstance(parameter.default, enum.Enum) and default not in sent:
            default = parameter.default.name
        return default if default in sent else None
    wanted = {
        "string": str,
        "number": (int, float),
        "integer": int,
        "boolean": bool,
        "dateTime": str,
        "date": str,
    }
    if isinstance(default, float) and not math.isfinite(default):
        return None  # JSON has no such number
    if isinstance(default, int) and abs(default) > _LARGEST_INTEGER:
        return None  # JavaScript has no such number
    types = wanted.get(kind.name)
    if types is not None:
        return default if isinstance(default, types) else None  # type: ignore[arg-type]
    if kind.name == "any":
        return default if isinstance(default, str) else None  # its field is for text
    try:
        return json.dumps(default, allow_nan=False)
    except (TypeError, ValueError):
        return None


def _field_of(parameter: Parameter) -> dict[str, Any]:
    """The type of a parameter's field, with its default."""
    kind = unwrap(parameter.type)
    default = _shown_default(parameter)
    if takes_file(parameter.type):
        return {"type": "string", "default": "data"}
    if isinstance(kind, Choice):
        options = [{"name": title, "value": _sent(sent)} for title, sent in kind.choices or ()]
        if len(options) >= 5 and all(isinstance(option["value"], str) for option in options):
            options.sort(key=lambda option: str(option["name"]).lower())  # as n8n wants it of long lists
        return {
            "type": "options",
            "options": options,
            "default": options[0]["value"] if default is None else _sent(default),
        }
    if kind.name in ("number", "integer"):
        return {
            "type": "number",
            **_number_options(parameter.type),
            "default": 0 if default is None else default,
        }
    if kind.name == "boolean":
        return {"type": "boolean", "default": bool(default)}
    if kind.name in ("dateTime", "date"):
        return {"type": "dateTime", "default": default or ""}
    if kind.name in ("list", "object"):
        empty = "[]" if kind.name == "list" else _outline(kind)
        return {"type": "json", "default": default or empty}
    return {"type": "string", "default": "" if default is None else _literally(default)}


def _sent(choice: Any) -> Any:
    """Return a choice as the field holds it: a large integer as text, because JavaScript would round it."""
    if isinstance(choice, int) and abs(choice) > _LARGEST_INTEGER:
        return str(choice)
    return _literally(choice)


def _outline(kind: ParameterType) -> str:
    """Return the JSON that an object's field starts with: its required keys.

    Their values are null, so that a key which is not filled in is an error, and never a silent empty value.
    """
    keys: list[str] = []
    if isinstance(kind, Record):
        keys = [key for key, member in kind.members.items() if member.required]
    elif isinstance(kind, Model):
        keys = kind.required
    return json.dumps(dict.fromkeys(keys), indent=2, ensure_ascii=False) if keys else "{}"


def _number_options(kind: ParameterType) -> dict[str, Any]:
    options: dict[str, Any] = {"numberPrecision": 0} if unwrap(kind).name == "integer" else {}
    while isinstance(kind, (Bounded, Optional)):
        if isinstance(kind, Bounded):
            for bound, name in (("ge", "minValue"), ("le", "maxValue")):
                at = kind.bounds.get(bound)
                if at is not None and not isinstance(at, datetime.date):
                    options[name] = at
        kind = kind.inner
    return {"typeOptions": options} if options else {}


def _field_names(parameters: Sequence[Parameter], taken: Set[str]) -> dict[str, str]:
    """Return the names of these parameters' fields: their own, with "_" appended until each is unique."""
    names = {parameter.name: parameter.name for parameter in parameters if parameter.name not in taken}
    for parameter in parameters:
        if parameter.name in taken:
            name = f"{parameter.name}_"
            while name in names.values():
                name += "_"
            names[parameter.name] = name
    return names


# --- words and text -----------------------------------------------------------------------------


def _sentence(text: str) -> str:
    """As n8n writes descriptions: a single sentence has no full stop."""
    text = text.strip()
    if text.endswith(".") and not text.endswith("..") and ". " not in text:
        text = text[:-1]
    return text[:1].upper() + text[1:]


def _html(text: str) -> str:
    """Return text for a description, which n8n shows as HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _literally(value: Any) -> Any:
    """Return a field's value such that n8n takes it literally: text that begins with "=" is an expression."""
    if not isinstance(value, str) or not value.startswith("="):
        return value
    if "{{" not in value:
        return f"={value}"
    text = json.dumps(value).replace("{", "\\u007b").replace("}", "\\u007d")
    return f"={{{{ {text} }}}}"


class _Raw(str):
    """A piece of JavaScript that is not a string."""


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _javascript(value: Any, depth: int = 0) -> str:
    """A value as JavaScript, laid out as it is written by hand."""
    if isinstance(value, _Raw):
        return str(value)
    inner, outer = _INDENT * (depth + 1), _INDENT * depth
    if isinstance(value, dict) and value:
        lines = (f"{inner}{_key(key)}: {_javascript(part, depth + 1)},\n" for key, part in value.items())
        return "{\n" + "".join(lines) + outer + "}"
    if isinstance(value, list) and value:
        parts = [_javascript(part, depth + 1) for part in value]
        line = ", ".join(parts)
        if "\n" not in line and len(line) < 80:
            return f"[{line}]"
        return "[\n" + "".join(f"{inner}{part},\n" for part in parts) + outer + "]"
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)[1:-1].replace('\\"', '"').replace("'", "\\'")
        # Both end a line in older JavaScript, and stand in no source.
        return "'" + text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029") + "'"
    return json.dumps(value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z_$][A-Za-z0-9_$]*", key) else _javascript(key)

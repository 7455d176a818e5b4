"""The description of a function for n8n: its definition, its form, and its JSON Schema for agents.

A written node contains a part of this, and a runner answers all of it to a node that asks (docs/protocol.md,
"Descriptions"). Texts are plain; n8n shows some of them as HTML, which the node escapes.

Threads: the caller that registers a function, starts a runner or writes a node. It holds no lock, because
defaults, docstrings and models are the application's code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence, Set
from typing import Any

from n8nrunner import logs
from n8nrunner.functions.docstrings import Docstring, read_what_can_be_read
from n8nrunner.functions.function import Function
from n8nrunner.functions.labels import title_of
from n8nrunner.functions.schema import Nesting, Schema, add_hint, fits
from n8nrunner.functions.signature import Parameter
from n8nrunner.logs import logger
from n8nrunner.protocol.json_faults import LARGEST_INTEGER, map_leaves
from n8nrunner.task_types import task_type

#: Items of one task, unless the workflow's author chooses another number.
BATCH_SIZE = 50
#: Tasks of one node at once, unless its author chooses another number: the default capacity of a runner.
PARALLEL_TASKS = 5

#: The written node's own fields, and the two that n8n adds to an agent's tool. A parameter with one of these
#: names gets a field with another name.
_OWN_FIELDS = frozenset(
    {
        "operation", "additionalFields", "options", "resource", "authentication",
        "toolDescription", "descriptionType",
    }
)  # fmt: skip
#: Properties that every JavaScript object has. n8n looks up fields and nodes by name in plain objects, and
#: would find these instead. "prototype" is removed by n8n when it copies objects.
JAVASCRIPT_NAMES = frozenset(
    {
        "constructor", "hasOwnProperty", "isPrototypeOf", "propertyIsEnumerable", "prototype",
        "toLocaleString", "toString", "valueOf",
        "__proto__", "__defineGetter__", "__defineSetter__", "__lookupGetter__", "__lookupSetter__",
    }
)  # fmt: skip

#: Characters of the longest description. OpenAI refuses a tool with more than 1024.
_LONGEST_TEXT = 1000
#: Characters of the longest default, as JSON. A longer one is not sent, and Python uses it where n8n sends
#: nothing.
_LONGEST_DEFAULT = 10_000
#: Characters of a parameter's longest schema, as JSON. Beyond that, only its type is sent.
_LONGEST_SCHEMA = 20_000


class Description:
    """The description of a function of a runner."""

    def __init__(self, runner_name: str, function: Function, docstring: Docstring) -> None:
        signature = function.signature
        self.name = signature.name
        self.title = title_of(signature.name)
        self.docstring = docstring
        self._function = function
        limited = signature.name if function.limit is not None else None
        self._task_type = task_type(runner_name, limited)
        parameters = list(signature.parameters.values())
        self._defaults = {parameter.name: _shown_default(parameter) for parameter in parameters}
        self.standard = [parameter for parameter in parameters if not self._is_additional(parameter)]
        self.additional = [parameter for parameter in parameters if self._is_additional(parameter)]
        standard = _field_names(self.standard, _OWN_FIELDS | JAVASCRIPT_NAMES)
        # All of them are in one form, where "operation" has become "operation_".
        additional = _field_names(self.additional, JAVASCRIPT_NAMES | set(standard.values()))
        self.field_names = {**standard, **additional}

    def definition(self) -> dict[str, Any]:
        """Return the definition that `runtime.js` takes: JSON."""
        signature, limit = self._function.signature, self._function.limit
        return {
            "name": self.name,
            "title": self.title,
            "taskType": self._task_type,
            "signature": signature.hash,
            "batchSize": 0 if signature.batch else BATCH_SIZE,
            "parallelTasks": PARALLEL_TASKS if limit is None else min(limit, PARALLEL_TASKS),
            "additional": [parameter.name for parameter in self.additional],
            "parameters": [
                {
                    **parameter.describe(),
                    "title": title_of(parameter.name),
                    "field": self.field_names[parameter.name],
                }
                for parameter in signature.parameters.values()
            ],
        }

    def summary(self) -> str:
        """Return the description of the function; "" if it has none."""
        return plain_text(self.docstring.summary)

    def text_of(self, parameter: Parameter) -> str:
        """Return the description of a parameter; "" if it has none."""
        return plain_text(parameter.description or self.docstring.parameters.get(parameter.name, ""))

    def default_of(self, parameter: Parameter) -> Any:
        """Return a parameter's default as its field shows it; None if there is none, or the field cannot."""
        return self._defaults[parameter.name]

    def answer(self) -> dict[str, Any]:
        """Return the function's part of a runner's answer: JSON."""
        definition = self.definition()
        del definition["additional"]  # a form hides the fields that need not be filled in
        parameters = self._function.signature.parameters.values()
        for entry, parameter in zip(definition["parameters"], parameters):
            entry["description"] = _cut(self.text_of(parameter))
            entry["form"] = self._form(parameter)
        return {
            **definition,
            "description": _cut(self.summary()),
            "batch": self._function.signature.batch,
            "schema": self.schema(),
        }

    def schema(self) -> Schema | None:
        """Return the JSON Schema of the arguments for an agent; None if an agent cannot give all of them.

        An agent has no files, and JavaScript's own names do not survive in its objects.
        """
        properties: dict[str, Schema] = {}
        required: list[str] = []
        for parameter in self._function.signature.parameters.values():
            if not parameter.is_file and parameter.name not in JAVASCRIPT_NAMES:
                properties[parameter.name] = self._schema_of(parameter)
                if parameter.required:
                    required.append(parameter.name)
            elif parameter.required:
                return None
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    def _is_additional(self, parameter: Parameter) -> bool:
        """Return whether the author has to add the field, because it cannot show the parameter's default."""
        return not parameter.required and self._defaults[parameter.name] is None

    def _form(self, parameter: Parameter) -> dict[str, Any]:
        form = parameter.type.form()
        for option in form.get("options", ()):
            option["value"] = literal(option["value"])
        default = self._defaults[parameter.name]
        if default is None and parameter.required:
            default = parameter.type.form_default()
        if default is not None:
            form["default"] = literal(default)
        return form

    def _schema_of(self, parameter: Parameter) -> Schema:
        type = parameter.type
        try:
            schema = type.schema(Nesting())
            shown = self._defaults[parameter.name]
            default = None if shown is None else type.schema_default(shown)
            if fits(default, schema):
                schema["default"] = default
            if len(json.dumps(schema)) > _LONGEST_SCHEMA:
                schema = _least_schema(type.schema_type)
        except Exception as error:  # noqa: BLE001 - of a pydantic model, or a class with methods that raise
            logger.debug(
                "function %s, parameter %s: agents get no schema of it (%s)",
                self.name,
                parameter.name,
                logs.describe(error),
            )
            schema = _least_schema(type.schema_type)
        text = self.text_of(parameter)
        if text:
            hint = schema.pop("description", "")
            schema["description"] = text
            if hint:
                add_hint(schema, hint)
        if "description" in schema:
            schema["description"] = _cut(schema["description"])
        return schema


def describe_function(runner_name: str, function: Function) -> str:
    """Return the function's part of a runner's answer, as JSON text."""
    docstring = read_what_can_be_read(function.function)
    answer = Description(runner_name, function, docstring).answer()
    return json.dumps(map_leaves(answer, _as_n8n_reads), separators=(",", ":"))


def plain_text(text: str) -> str:
    """Return text in n8n's style for descriptions: a single sentence has no full stop."""
    text = text.strip()
    if text.endswith(".") and not text.endswith("..") and ". " not in text:
        text = text[:-1]
    return text[:1].upper() + text[1:]


def literal(value: Any) -> Any:
    """Return the value of a field that n8n reads as this value.

    A string that begins with "=" is an expression in n8n, and JavaScript rounds large integers.
    """
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        return str(value)
    if not isinstance(value, str) or not value.startswith("="):
        return value
    if "{{" not in value:
        return f"={value}"
    text = json.dumps(value).replace("{", "\\u007b").replace("}", "\\u007d")
    return f"={{{{ {text} }}}}"


def _shown_default(parameter: Parameter) -> Any:
    """Return the default as a field shows it; None if there is none, or a field cannot show it."""
    try:
        given: Any = parameter.default
        is_long = hasattr(given, "__len__") and len(given) > _LONGEST_DEFAULT
        # Reading an iterator would use it up, and may not end.
        if parameter.required or is_long or isinstance(given, Iterator):
            return None
        default = parameter.type.field_default(given)
        return default if len(json.dumps(default, allow_nan=False)) <= _LONGEST_DEFAULT else None
    except Exception:  # noqa: BLE001 - the default is the application's object, whose methods may raise
        return None


def _field_names(parameters: Sequence[Parameter], reserved: Set[str]) -> dict[str, str]:
    """Return the names of the parameters' fields: their own, with "_" appended until each is unique."""
    names = {parameter.name: parameter.name for parameter in parameters if parameter.name not in reserved}
    for parameter in parameters:
        if parameter.name in reserved:
            name = f"{parameter.name}_"
            while name in names.values() or name in reserved:
                name += "_"
            names[parameter.name] = name
    return names


def _least_schema(kind: str) -> Schema:
    return {"type": kind, "items": {"type": "string"}} if kind == "array" else {"type": kind}


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 3]}..."


def _as_n8n_reads(leaf: Any) -> Any:
    if isinstance(leaf, float) and not math.isfinite(leaf):
        return None
    return str(leaf) if isinstance(leaf, int) and abs(leaf) > LARGEST_INTEGER else leaf

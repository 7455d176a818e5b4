"""The description of a node: what n8n shows of a runner's functions, and what the runtime needs of them."""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Sequence, Set
from typing import Any

from n8nrunner.functions.dispatch import task_type
from n8nrunner.functions.function import Function
from n8nrunner.functions.labels import sentence_of, title_of, whether
from n8nrunner.functions.node.docstrings import read_docstring
from n8nrunner.functions.node.javascript import Expression
from n8nrunner.functions.signature import Parameter
from n8nrunner.protocol.json_faults import LARGEST_INTEGER

#: Items of one task, unless the workflow's author chooses another number.
BATCH_SIZE = 50
#: Tasks of one node at once, unless its author chooses another number: the default capacity of a runner.
PARALLEL_TASKS = 5

#: The node's own fields, and the two that n8n adds to an agent's tool. A parameter with one of these names
#: gets a field with another name.
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


def describe_node(
    runner_name: str, class_name: str, node_name: str, operations: Sequence[Operation]
) -> dict[str, Any]:
    """Return n8n's description of the node: JSON, but for the `Expression`s in it."""
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
    properties.append(_OPTIONS)
    return {
        "displayName": title,
        "name": node_name,
        "icon": {"light": f"file:{node_name}.svg", "dark": f"file:{node_name}.dark.svg"},
        "group": ["transform"],
        "version": 1,
        "subtitle": '={{ $parameter["operation"] }}',
        "description": f"Calls Python functions of the runner {runner_name}",
        "defaults": {"name": title},
        "inputs": [Expression("NodeConnectionTypes.Main")],
        "outputs": [Expression("NodeConnectionTypes.Main")],
        "usableAsTool": True,
        "properties": properties,
    }


_OPTIONS: dict[str, Any] = {
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
            "description": "How many items one task takes. Fewer items spread over more slots and runners, "
            "and each task has its time limit to itself. Unless it is set, a function that takes all items "
            f"at once gets them all, and every other function gets {BATCH_SIZE} in each task.",
        },
        {
            "displayName": "Parallel Tasks",
            "name": "parallelTasks",
            "type": "number",
            "typeOptions": {"minValue": 1, "numberPrecision": 0},
            "default": PARALLEL_TASKS,
            "description": "How many tasks of this node may be under way at once. Tasks beyond the runners' "
            "free slots wait, and n8n gives up on a task that has waited for a minute.",
        },
    ],
}


class Operation:
    """An operation of the node: a function on n8n's canvas. Raises as `read_docstring`."""

    def __init__(self, runner_name: str, function: Function) -> None:
        signature = function.signature
        self.name = signature.name
        self.title = title_of(signature.name)
        self._docstring = read_docstring(function.function)
        self._function = function
        limited = signature.name if function.limit is not None else None
        self._task_type = task_type(runner_name, limited)
        parameters = list(signature.parameters.values())
        self._standard = [parameter for parameter in parameters if not _is_additional(parameter)]
        self._additional = [parameter for parameter in parameters if _is_additional(parameter)]
        self._field_names = {
            **_field_names(self._standard, _OWN_FIELDS | JAVASCRIPT_NAMES),
            **_field_names(self._additional, JAVASCRIPT_NAMES),
        }

    def option(self) -> dict[str, Any]:
        """Return its entry in the list of operations. Agents read the action."""
        summary = _description(self._docstring.summary)
        return {
            "name": self.title,
            "value": self.name,
            "description": html.escape(summary or f"Call the function {self.name}", quote=False),
            "action": summary or sentence_of(self.title),
        }

    def digest(self) -> str:
        """Return a hash of everything that the node contains of the function."""
        everything = [self.option(), self.definition(), self.fields()]
        return hashlib.sha256(json.dumps(everything).encode()).hexdigest()[:16]

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
            "additional": [parameter.name for parameter in self._additional],
            "parameters": [
                {
                    **parameter.describe(),
                    "title": title_of(parameter.name),
                    "field": self._field_names[parameter.name],
                }
                for parameter in signature.parameters.values()
            ],
        }

    def fields(self) -> list[dict[str, Any]]:
        """Return its fields: first those that are always shown, then the collection of additional ones."""
        shown = {"displayOptions": {"show": {"operation": [self.name]}}}
        fields = [{**self._field(parameter), **shown} for parameter in self._standard]
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
        field = parameter.type.field(parameter.type.field_default(parameter.default))
        field["default"] = _literal(field["default"])
        for option in field.get("options", ()):
            option["value"] = _literal(option["value"])
        description = parameter.description or self._docstring.parameters.get(parameter.name, "")
        description = _description(description)
        if field["type"] == "boolean":
            description = whether(description) if description else ""
        elif parameter.is_file:
            hint = "The name of the item's binary field"
            description = f"{description}. {hint}." if description else hint
        if description:
            field["description"] = html.escape(description, quote=False)  # n8n shows HTML
        if field["type"] == "string" and "email" in parameter.name.lower():
            field["placeholder"] = "name@email.com"  # n8n's linter requires it of such fields
        if parameter.required:
            field["required"] = True
        return {"displayName": title_of(parameter.name), "name": self._field_names[parameter.name], **field}


def _is_additional(parameter: Parameter) -> bool:
    """Return whether the author has to add the field, because it cannot show the parameter's default."""
    return not parameter.required and parameter.type.field_default(parameter.default) is None


def _field_names(parameters: Sequence[Parameter], reserved: Set[str]) -> dict[str, str]:
    """Return the names of the parameters' fields: their own, with "_" appended until each is unique."""
    names = {parameter.name: parameter.name for parameter in parameters if parameter.name not in reserved}
    for parameter in parameters:
        if parameter.name in reserved:
            name = f"{parameter.name}_"
            while name in names.values():
                name += "_"
            names[parameter.name] = name
    return names


def _description(text: str) -> str:
    """Return text in n8n's style for descriptions: a single sentence has no full stop."""
    text = text.strip()
    if text.endswith(".") and not text.endswith("..") and ". " not in text:
        text = text[:-1]
    return text[:1].upper() + text[1:]


def _literal(value: Any) -> Any:
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

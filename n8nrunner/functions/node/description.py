"""The description of a node: what n8n shows of a runner's functions, and what the runtime needs of them."""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Sequence
from typing import Any

from n8nrunner.functions.describe import BATCH_SIZE, PARALLEL_TASKS, Description, literal
from n8nrunner.functions.docstrings import read_docstring
from n8nrunner.functions.function import Function
from n8nrunner.functions.labels import sentence_of, title_of, whether
from n8nrunner.functions.node.javascript import Expression
from n8nrunner.functions.signature import Parameter


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


class Operation(Description):
    """An operation of the node: a function on n8n's canvas. Raises as `read_docstring`."""

    def __init__(self, runner_name: str, function: Function) -> None:
        super().__init__(runner_name, function, read_docstring(function.function))

    def option(self) -> dict[str, Any]:
        """Return its entry in the list of operations. Agents read the action."""
        summary = self.summary()
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

    def fields(self) -> list[dict[str, Any]]:
        """Return its fields: first those that are always shown, then the collection of additional ones."""
        shown = {"displayOptions": {"show": {"operation": [self.name]}}}
        fields = [{**self._field(parameter), **shown} for parameter in self.standard]
        if self.additional:
            additional = [self._field(parameter) for parameter in self.additional]
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
        field = parameter.type.field(self.default_of(parameter))
        field["default"] = literal(field["default"])
        for option in field.get("options", ()):
            option["value"] = literal(option["value"])
        description = self.text_of(parameter)
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
        return {"displayName": title_of(parameter.name), "name": self.field_names[parameter.name], **field}

"""Converts one value as a call's argument."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any, Optional

from n8nrunner.functions.conversion import Conversion
from n8nrunner.functions.kinds import Kind
from n8nrunner.functions.signature import Parameter, convert_arguments


def convert(kind: Kind, value: Any, conversion: Optional[Conversion] = None) -> Any:
    """The Python value of an argument named "value". Raises as `convert_arguments` does, or `Mismatch`."""
    parameter = Parameter("value", kind, inspect.Parameter.empty, "", False)
    signature: Any = SimpleNamespace(parameters={"value": parameter})
    arguments = {"value": value}
    values, mismatch = convert_arguments(
        signature, arguments, lambda name, value: value, conversion or Conversion(value)
    )
    if mismatch is not None:
        raise mismatch
    return values["value"]

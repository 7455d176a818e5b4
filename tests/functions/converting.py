"""Convert one value as the argument of a call."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Optional

from n8nrunner.functions.arguments import convert_arguments
from n8nrunner.functions.conversion import Conversion
from n8nrunner.functions.parameters import ParameterType, takes_file
from n8nrunner.functions.signature import Parameter


def convert(type: ParameterType, value: Any, conversion: Optional[Conversion] = None) -> Any:
    """Return the Python value of an argument named "value". Raises as `convert_arguments`."""
    parameter = Parameter("value", type, True, None, "", False, takes_file(type))
    signature: Any = SimpleNamespace(parameters={"value": parameter})
    arguments = {"value": value}
    values = convert_arguments(signature, arguments, lambda value: value, conversion or Conversion(value))
    return values["value"]

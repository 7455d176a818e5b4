"""What a function's docstring says about it and about its parameters, in Google, NumPy or reST style."""

from __future__ import annotations

import inspect
from typing import Any, Callable, NamedTuple

from n8nrunner.errors import ConfigurationError


class Prose(NamedTuple):
    """A docstring's parts that a node shows."""

    #: Its first paragraph, in one line; "" if there is none.
    summary: str
    #: By parameter.
    parameters: dict[str, str]


def read_docstring(function: Callable[..., Any]) -> Prose:
    """Raises `ConfigurationError` if the package that reads docstrings is not installed."""
    try:
        import docstring_parser
    except ImportError:
        raise ConfigurationError(
            ['a node is written with the package docstring-parser: pip install "n8nrunner[node]"']
        ) from None
    text = inspect.getdoc(function) or ""
    try:
        parsed = docstring_parser.parse(text)
    except docstring_parser.ParseError:
        return Prose(_line(text.split("\n\n")[0]), {})
    return Prose(
        _line(parsed.short_description or ""),
        {param.arg_name: _line(param.description or "") for param in parsed.params},
    )


def _line(text: str) -> str:
    return " ".join(text.split())

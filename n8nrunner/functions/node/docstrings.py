"""The parts of a function's docstring that a node shows: in Google, NumPy or reST style."""

from __future__ import annotations

import inspect
from typing import Any, Callable, NamedTuple

from n8nrunner.errors import ConfigurationError


class Docstring(NamedTuple):
    """The parts of a docstring that a node shows, each on one line."""

    summary: str  #: the first paragraph; "" if there is none.
    parameters: dict[str, str]  #: the descriptions of the parameters, by name.


def read_docstring(function: Callable[..., Any]) -> Docstring:
    """Return the parts of a function's docstring. Raises `ConfigurationError` if its parser is missing."""
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
        return Docstring(_join_lines(text.split("\n\n")[0]), {})
    return Docstring(
        _join_lines(parsed.short_description or ""),
        {param.arg_name: _join_lines(param.description or "") for param in parsed.params},
    )


def _join_lines(text: str) -> str:
    return " ".join(text.split())

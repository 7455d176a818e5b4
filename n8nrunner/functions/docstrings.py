"""The parts of a function's docstring that n8n shows: in Google, NumPy or reST style."""

from __future__ import annotations

import functools
import inspect
from typing import Any, Callable, NamedTuple

from n8nrunner.errors import ConfigurationError


class Docstring(NamedTuple):
    """The parts of a docstring that n8n shows, each on one line."""

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
    text = _text(function)
    try:
        parsed = docstring_parser.parse(text)
    except docstring_parser.ParseError:
        return _first_paragraph(text)
    return Docstring(
        _join_lines(parsed.short_description or ""),
        {param.arg_name: _join_lines(param.description or "") for param in parsed.params},
    )


def read_what_can_be_read(function: Callable[..., Any]) -> Docstring:
    """Return as much of a function's docstring as possible: without its parser, the first paragraph."""
    try:
        return read_docstring(function)
    except ConfigurationError:
        return _first_paragraph(_text(function))
    except Exception:  # noqa: BLE001 - the function may be an object whose attributes raise
        return Docstring("", {})


def _text(function: Callable[..., Any]) -> str:
    while isinstance(function, functools.partial):  # has the docstring of `functools.partial` itself
        function = function.func
    return inspect.getdoc(function) or ""


def _first_paragraph(text: str) -> Docstring:
    return Docstring(_join_lines(text.split("\n\n")[0]), {})


def _join_lines(text: str) -> str:
    return " ".join(text.split())

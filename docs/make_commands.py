"""Write docs/commands.md from the texts of ``n8nrunner --help``.

``python docs/make_commands.py`` writes the page; ``--check`` only compares.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from generated import main

from n8nrunner import cli

PAGE = Path(__file__).parent / "commands.md"
INTRODUCTION = """\
# Commands

<!-- python docs/make_commands.py writes this page from the texts of n8nrunner --help. -->

The package installs the command `n8nrunner`; `python -m n8nrunner` is the same. `MODULE` is a Python module
or package, such as `shop` or `shop.jobs`, of the current folder or an installed one. If it has several
runners, `:ATTRIBUTE` names one. Every command has `--help`.
"""
#: The page about the work that a command is for.
GUIDES = {
    "run": "[Settings](settings.md), [Logs](operating.md#logs), [Developing with reload](development.md)",
    "check": "[Troubleshooting](troubleshooting.md)",
    "call": "[Testing](testing.md#on-the-command-line)",
    "node": "[The nodes](functions.md#the-nodes)",
    "broker": "[Develop without n8n](tasks.md#develop-without-n8n)",
    "demo": "[Install](index.md#install)",
}


def make() -> str:
    """Return the page."""
    (commands,) = (each for each in cli._parser()._actions if isinstance(each, argparse._SubParsersAction))
    texts = {each.dest: each.help for each in commands._choices_actions}
    lines = [INTRODUCTION, "| command | purpose |", "|---|---|"]
    lines += [f"| [`n8nrunner {name}`](#n8nrunner-{name}) | {text} |" for name, text in texts.items()]
    for name, parser in commands.choices.items():
        lines += ["", *_command(name, parser)]
    return "\n".join(lines) + "\n"


def _command(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"## n8nrunner {name}"
    yield ""
    yield f"{parser.description} See also {GUIDES[name]}."
    yield ""
    yield "| argument | meaning |"
    yield "|---|---|"
    arguments = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    for action in sorted(
        arguments, key=lambda action: (bool(action.option_strings), action.dest == "verbose")
    ):
        meaning = (action.help or "").replace("%(default)s", str(action.default))
        meaning = re.sub(r"(?<!\S)(--?[a-z-]+|{})", r"`\1`", meaning)
        yield f"| {_names(action)} | {meaning} |"
    yield from ("", "```text", (parser.epilog or "").rstrip(), "```")


def _names(action: argparse.Action) -> str:
    if not action.option_strings:
        shown = f"[{action.metavar}]" if action.nargs == "?" else f"[{action.metavar} ...]"
        return f"`{action.metavar if action.nargs is None else shown}`"
    value = action.metavar or (action.choices and "|".join(action.choices)) or action.dest.upper()
    value = f" {value}" if action.nargs is None else ""
    return ", ".join(f"`{option}{value}`".replace("|", "\\|") for option in action.option_strings)


if __name__ == "__main__":
    main(PAGE, make())

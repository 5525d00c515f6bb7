"""The directive ``command-line``: every command with its options, as the parser knows them."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from vineyard_arrow.cli.parser import build_parser


class CommandLine(SphinxDirective):
    """A section for each command; what all of them take stands once, before them."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(inspect.getsourcefile(build_parser)))
        parser = build_parser()
        lines = [*_command(parser, set()), _escaped(parser.epilog or ""), ""]
        shared = {action.dest for action in parser._actions}
        for name, command in _commands(parser):
            lines += [name, "-" * len(name), "", *_command(command, shared)]
        source = StringList(lines, source="vineyard_arrow/cli/parser.py")
        return self.parse_text_to_nodes(source, allow_section_headings=True)


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _command(parser: argparse.ArgumentParser, known: set[str]) -> Iterator[str]:
    """What one is for, how it is called, and its options but for the known ones, as reST."""
    parser.formatter_class = partial(argparse.HelpFormatter, width=80)
    yield from (f".. program:: {parser.prog}", "", f"{(parser.description or '').rstrip('.')}.", "")
    yield from (".. code-block:: text", "")
    yield from (f"   {line}" for line in parser.format_usage().splitlines())
    yield ""
    for action in parser._actions:
        if (
            action.help != argparse.SUPPRESS
            and action.dest not in known
            and action.dest != "command"
        ):
            text = (action.help or "") % (vars(action) | {"prog": parser.prog})
            yield from (f".. option:: {_signature(action)}", "", f"   {_escaped(text)}", "")


def _signature(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest).upper()
    value = action.metavar or action.dest.upper()
    if action.choices:
        value = "{" + ",".join(action.choices) + "}"
    return ", ".join(s if action.nargs == 0 else f"{s} {value}" for s in action.option_strings)


def _escaped(text: str) -> str:
    """Text as reST: options in it are code, and so are names of variables."""
    text = text.translate({ord(c): f"\\{c}" for c in "\\*`|"})
    return re.sub(r"--[\w-]+|[A-Z]+_[\w<>]+", r"``\g<0>``", text)


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

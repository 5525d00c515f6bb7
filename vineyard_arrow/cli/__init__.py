"""The command line: reads arguments, runs one command, prints its report, sets the exit status.

A command is a function of the parsed arguments that returns a `report.Report`, imported when
it is asked for: `serve` must fork, and `--help` answer, before anything heavy is loaded.

Exit status: 0 done, 1 failed or (`doctor`) something is wrong, 2 wrong usage, 3 no daemon
runs, 130 interrupted, 141 nobody reads the output.
"""

from __future__ import annotations

import importlib
import keyword
import os
import sys
from argparse import Namespace
from typing import cast

from ..errors import VineyardArrowError
from .parser import build_parser
from .report import NoDaemonError, Report, UsageError, show
from .wording import said

__all__ = ["main"]

COMMANDS = {
    "start": "process",
    "serve": "process",
    "stop": "process",
    "status": "listing",
    "ls": "listing",
    "du": "listing",
    "rm": "values",
    "get": "values",
    "put": "values",
    "export": "saving",
    "import": "saving",
    "top": "top",
    "doctor": "doctor",
    "codegen": "generate",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : list of str, optional
        Arguments without the program's name; those of the process by default.

    Returns
    -------
    int
        Exit status, see the module.
    """
    args = build_parser().parse_args(argv)
    # A starting client waits for this process's end: the daemon goes on in a child of it.
    if args.command == "serve" and args.ready_fd is not None and os.fork():
        os._exit(0)
    try:
        report = _command(args)
        if report.lines or report.data is not None:
            show(report, as_json=args.json)
        sys.stdout.flush()
        return report.status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # What is buffered can go nowhere; at exit Python would complain about it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except (VineyardArrowError, OSError) as error:
        print(f"vineyard-arrow: {said(error, vars(args))}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 3 if isinstance(error, NoDaemonError) else 1


def _command(args: Namespace) -> Report:
    module = importlib.import_module(f".{COMMANDS[args.command]}", __package__)
    function = args.command + "_" * keyword.iskeyword(args.command)
    return cast("Report", getattr(module, function)(args))

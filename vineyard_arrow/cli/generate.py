"""``codegen``: the shared classes of a file, in another language. Needs no daemon."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from ..codegen.languages import backend_of
from ..codegen.source import read_file
from .report import Line, Report, UsageError

__all__ = ["codegen"]


def codegen(args: Namespace) -> Report:
    """Write code to a file or to standard output; nothing where there is a problem."""
    file = read_file(args.file, args.module)
    code = backend_of(args.lang).generate(file)
    typenames = [made.typename for made in file.classes]
    if args.output is None:
        if args.json:
            return Report(data={"classes": typenames, "code": code})
        sys.stdout.write(code)
        return Report()
    output = Path(args.output)
    if output.exists() and output.samefile(args.file):
        raise UsageError(f"{args.output} is the file that is read", "write another")
    output.write_text(code, encoding="utf-8", newline="\n")
    return Report(
        [Line(f"{args.output}: {', '.join(typenames)}")],
        {"classes": typenames, "output": args.output},
    )

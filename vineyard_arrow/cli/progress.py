"""A bar on standard error that tells people how far something is. Knows no store."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from .report import clean, rich_console

LEAST_NBYTES = 64 << 20


@contextlib.contextmanager
def progress_bar(label: str, total: int | None = None) -> Iterator[Callable[[int, int], None]]:
    """What to tell the bytes done and those in all; a bar where someone looks and it takes a while.

    Parameters
    ----------
    total : int, optional
        The bytes in all, if they are known better than by who tells.
    """
    console = rich_console(stderr=True) if sys.stderr.isatty() else None
    if console is None:
        yield lambda done, of: None
        return
    from rich.markup import escape
    from rich.progress import Progress

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(escape(clean(label)), total=None, visible=False)

        def tell(done: int, of: int) -> None:
            of = of if total is None else total
            progress.update(task, completed=min(done, of), total=of, visible=of >= LEAST_NBYTES)

        yield tell

"""What errors say on the command line: hints are written for Python."""

from __future__ import annotations

import pytest

from vineyard_arrow.cli.wording import said
from vineyard_arrow.errors import ConfigError, VineyardArrowError

OPTIONS = ("names", "overwrite", "timeout_s", "resume")


@pytest.mark.parametrize(
    ("hint", "told"),
    [
        ("names='keep' leaves it", "--names keep leaves it"),
        ("overwrite=True moves it", "--overwrite moves it"),
        ("try again; timeout_s= waits longer", "try again; --timeout-s waits longer"),
        ("resume='my flights'", "--resume 'my flights'"),
        ("schema='unify' takes all", "in Python: schema='unify' takes all"),
        ("nearest: 'a'; get(...) waits", "nearest: 'a'; in Python: get(...) waits"),
        ("pip install 'pyarrow==26.*'", "pip install 'pyarrow==26.*'"),
        ("start it with --names=keep (or without)", "start it with --names=keep (or without)"),
        ("s3://bucket/a?names='keep'", "s3://bucket/a?names='keep'"),
    ],
)
def test_arguments_of_python_are_options_of_the_command(hint: str, told: str) -> None:
    assert said(ConfigError("it failed", hint), OPTIONS) == f"it failed (hint: {told})"


def test_notes_are_lines_of_their_own() -> None:
    error = VineyardArrowError("it failed")
    error.add_note("2 fragments are kept under resume='n'")
    assert said(error, OPTIONS) == "it failed\n2 fragments are kept under --resume n"
    assert said(OSError(2, "gone", "a.py"), OPTIONS) == "a.py: gone"

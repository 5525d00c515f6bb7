"""The reference of the guide has every public name, and the command line as it is."""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from vineyard_arrow.cli.parser import build_parser
from vineyard_arrow.client import Client
from vineyard_arrow.errors import BY_CODE

ROOT = Path(__file__).resolve().parents[1]

# Reads the pages of the reference, as a build does, and says what can be referred to.
READ = """
import json, sys
from sphinx.application import Sphinx

docs, out = sys.argv[1:]
absent = ["airflow", "dagster", "dask", "kedro", "pydantic", "ray", "torch"]
options = {"autodoc_mock_imports": absent, "suppress_warnings": ["*"]}
app = Sphinx(f"{docs}/reference", docs, out, out, "dummy", options, status=None, warning=None)
app.build()
domains = app.env.domains
names = list(domains.python_domain.objects)
print(json.dumps([names, list(domains.standard_domain.progoptions)]))
"""

MODULES = (
    "",
    ".graph",
    ".graph.adapters",
    ".graph.algorithms",
    ".graph.bsp",
    ".graph.bsp_algorithms",
    ".graph.exchange",
    ".graph.sampling",
    ".migration",
    ".partitioning",
    ".shared_memory",
)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: Any) -> tuple[set[str], set[tuple[str, str]]]:
    """Names of Python, and options with their commands."""
    out = tmp_path_factory.mktemp("reference")
    done = subprocess.run(
        [sys.executable, "-c", READ, str(ROOT / "docs"), str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    names, options = json.loads(done.stdout)
    return set(names), {(program, option) for program, option in options}


def public_names() -> Iterator[tuple[str, str]]:
    """Each public name, and the name of where that is made."""
    for name in MODULES:
        module = import_module(f"vineyard_arrow{name}")
        for public in module.__all__:
            value = getattr(module, public)
            yield f"{module.__name__}.{public}", f"{value.__module__}.{value.__qualname__}"
    for file in (ROOT / "vineyard_arrow" / "integrations").glob("*.py"):
        # What workflow managers have in common is for them alone.
        for public in [] if file.stem == "outputs" else exported(file):
            yield (f"vineyard_arrow.integrations.{file.stem}.{public}",) * 2
    for member in dir(Client):
        if not member.startswith("_"):
            yield (f"vineyard_arrow.client.Client.{member}",) * 2
    for error in BY_CODE.values():
        yield (f"{error.__module__}.{error.__qualname__}",) * 2


def exported(file: Path) -> list[str]:
    """What a module exports, without importing the library that it is for."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def test_every_public_name_is_in_the_reference(reference: Any) -> None:
    documented, _ = reference
    names = list(public_names())
    assert len(names) > 150
    assert [name for name, made in names if not {name, made} & documented] == []


def test_the_command_line_is_in_the_reference(reference: Any) -> None:
    _, documented = reference
    parser = build_parser()
    common = set(parser._option_string_actions)
    expected = {(parser.prog, option) for option in common}
    [commands] = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for name, command in commands.choices.items():
        options = set(command._option_string_actions) - common - {"--ready-fd"}
        expected |= {(f"{parser.prog}-{name}", option) for option in options}
    assert {option for option in documented if option[1].startswith("-")} == expected

"""The packages that apt knows, and how they relate, as Arrow tables.

The relations are the nine of Debian's policy manual, chapter 7. It knows no store and no graph.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator

import pyarrow as pa

RELATIONS = (
    *("Depends", "Pre-Depends", "Recommends", "Suggests", "Enhances"),
    *("Breaks", "Conflicts", "Replaces", "Provides"),
)
# name, [:architecture], [(>= version)]
_TARGET = re.compile(r"\s*([^\s:(\[]+)(?::\w+)?\s*(?:\(([^)]*)\))?")
_FIELDS = {"Package", "Version", "Section", "Installed-Size", *RELATIONS}


def lines() -> list[str]:
    """What ``apt-cache dumpavail`` says; empty where there are no apt lists, or no apt."""
    if shutil.which("apt-cache") is None:
        return []
    done = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []


def tables(text: Iterable[str]) -> tuple[pa.Table, dict[str, pa.Table]]:
    """Packages, and for each relation its edges.

    Returns
    -------
    packages : pyarrow.Table
        ``oid`` (the name), ``version``, ``section``, ``installed_kib``; each name once.
    relations : dict of str to pyarrow.Table
        ``src``, ``dst`` (names; of virtual packages too, which ``packages`` lacks), ``version``
        (as ``>= 2.34``, or null), ``alternative``: of ``a | b`` the first is 0, the second 1.
    """
    packages: list[tuple[str, str, str, int]] = []
    edges: dict[str, list[tuple[str, str, str | None, int]]] = {each: [] for each in RELATIONS}
    seen = set()
    for fields in _stanzas(text):
        name = fields["Package"]
        if name in seen:  # a second version, say from the security archive
            continue
        seen.add(name)
        size = int(fields.get("Installed-Size", 0))
        packages.append((name, fields["Version"], fields.get("Section", ""), size))
        for relation in fields.keys() & edges.keys():
            edges[relation] += _targets(name, fields[relation])
    kinds = [pa.string(), pa.string(), pa.string(), pa.int64()]
    return (
        _table(packages, ["oid", "version", "section", "installed_kib"], kinds),
        {
            relation: _table(rows, ["src", "dst", "version", "alternative"], kinds)
            for relation, rows in edges.items()
        },
    )


def _stanzas(text: Iterable[str]) -> Iterator[dict[str, str]]:
    fields: dict[str, str] = {}
    for line in text:
        name, colon, value = line.partition(": ")
        if not line:
            yield fields
            fields = {}
        elif colon and name in _FIELDS:
            fields[name] = value
    if fields:
        yield fields


def _targets(package: str, value: str) -> Iterator[tuple[str, str, str | None, int]]:
    for group in value.split(","):
        for i, text in enumerate(group.split("|")):
            if found := _TARGET.match(text):
                yield package, found[1], found[2], i


def _table(rows: list[tuple], names: list[str], kinds: list[pa.DataType]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    return pa.table([pa.array(c, k) for c, k in zip(columns, kinds, strict=True)], names)

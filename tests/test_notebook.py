"""What notebooks show, and the notebook of the documentation."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conftest import Daemon

import vineyard_arrow
from vineyard_arrow import ObjectMeta, Part, dual_strings
from vineyard_arrow.client import Client
from vineyard_arrow.objects import Member
from vineyard_arrow.types.shared import shared_class
from vineyard_arrow.types.shared_parts import MEMBER

ROOT = Path(__file__).resolve().parents[1]
TABLE = pa.table({"a": [1, None, 3], "s": ["x", "<b>y</b>", "line\nbreak"]})


class Checked(HTMLParser):
    """The text of HTML whose tags match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1] != "style":
            self.words.append(data)


def text_of(value: Any) -> str:
    page = Checked()
    page.feed(value._repr_html_())
    page.close()
    assert not page.open
    known = {"style", "div", "span", "table", "tr", "th", "td", "code", "pre", "i"}
    assert page.tags <= known
    return " ".join(page.words)


# ---- clients


def test_a_client_shows_its_store(client: Client, daemon: Daemon) -> None:
    assert "newest" not in text_of(client)
    oids = client.put_many([np.arange(10_000)] * 12)
    last = client.put(TABLE, name="<script>last</script>")
    shown = text_of(client)
    for word in (str(daemon.socket), str(daemon.pid), f"{client.instance:06x}", "memfd"):
        assert word in shown
    assert "1 GiB" in shown
    assert "13" in shown
    assert "<script>last</script>" in shown  # as text
    assert "and 5 more objects" in shown
    newest = re.findall("o[0-9a-f]{16}", shown)
    assert newest == [str(oid) for oid in [last, *oids[:-8:-1]]]


def test_a_client_that_is_cut_off_shows_why(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon("--memory-limit", "64MiB")
    client = daemon.connect()
    handle = client.get_object(client.put(TABLE))
    meta = client.get_meta(handle.id)
    daemon.kill()
    assert "gone" in text_of(client)
    assert str(handle.id) in text_of(meta)
    client.close()
    assert "closed" in text_of(client)


# ---- objects


def test_metadata_shows_what_it_knows(client: Client) -> None:
    oid = client.put(TABLE.rename_columns(["<i>", "s"]), name="flights")
    client.label(oid, {"stage": "raw"})
    shown = text_of(client.get_meta(oid))
    for word in ("flights: table", str(oid), "3 in 1 batch", "int64", "string", "stage", "raw"):
        assert word in shown
    wide = client.get_meta(client.put(pa.table({f"c{i}": [i] for i in range(100)})))
    assert "and 84 more columns" in text_of(wide)
    draft = ObjectMeta("shop.draft", {"owner": "Ann"})
    draft.add_member("inner", ObjectMeta("shop.inner"))
    for word in ("shop.draft", "not sealed", "owner", "'Ann'", "shop.inner"):
        assert word in text_of(draft)


VALUES: dict[str, tuple[Any, list[str]]] = {
    "table": (TABLE, ["3 in 1 batch", "1, ", "null", "<b>y</b>", "line⏎break"]),
    "batch": (TABLE.to_batches()[0], ["first values"]),
    "pandas": (TABLE.to_pandas(), ["large_string", "first values"]),
    "polars": (pl.DataFrame(TABLE), ["string_view", "first values"]),
    "series": (pd.Series([1.5, 2.0], name="n"), ["1.5, 2"]),
    "array": (pa.array([1, 2, None]), ["1, 2, ", "null"]),
    "tensor": (np.arange(6.0).reshape(2, 3), ["2 x 3 of float64", "[3. 4. 5.]"]),
    "dual": (dual_strings(TABLE), ["first values", "arrow.views"]),
    "value": ({"a": 1}, ["python.value"]),
    "blob": (pa.py_buffer(b"abc"), ["blob", "3 B"]),
    "empty": (pa.table({}), ["table"]),
    "no rows": (TABLE.slice(0, 0), ["0 in"]),
}


@pytest.mark.parametrize("kind", VALUES)
def test_a_handle_shows_the_object(client: Client, kind: str) -> None:
    value, words = VALUES[kind]
    handle = client.get_object(client.put(value, name=f"of {kind}"))
    shown = text_of(handle)
    for word in (*words, str(handle.id), f"of {kind}"):
        assert word in shown
    assert kind in ("empty", "no rows") or "lies in segment" in " ".join(shown.split())
    client.delete(handle.id)
    assert str(handle.id) in text_of(handle)


NASTY: dict[str, tuple[Any, str]] = {
    "dates past datetime's": (pa.array([10**7], pa.date32()), "?"),
    "nanoseconds": (pa.array([1], pa.timestamp("ns")), "1970-01-01"),
    "no UTF-8": (
        pa.Array.from_buffers(pa.string(), 1, [None, pa.array([0, 2], "i4").buffers()[1],
                              pa.py_buffer(b"\xff!")]), "!"),
    "long text": (pa.array(["x" * 1_000_000]), "xxx…"),
    "long list": (pa.array([list(range(100_000))]), "[0, 1, 2, 3, 4, … 100,0"),
    "deep": (pa.array([{"a": [{"b": b"\0"}], "c": None}]), "{a: [{b: b'\\x00'}], c: "),
    "map": (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), "[{key: k, value: 1}]"),
    "views": (pa.array([[1]], pa.list_view(pa.int8())), "[1]"),
    "dictionary": (pa.array(["a", None]).dictionary_encode(), "a, "),
    "run-end": (pa.RunEndEncodedArray.from_arrays([2], ["a"]), "a, a"),
    "null": (pa.nulls(3), "null"),
    "uuid": (pa.array([b"0" * 16], pa.uuid()), "b'00"),
    "many axes": (np.zeros((3,) * 12), "3 x 3 x"),
    "no axes": (np.array(5.0), "one value of float64"),
    "records": (np.zeros(3, [("a", "i4"), ("<b>", "f8")]), "(0, 0.)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NASTY)
def test_previews_of_nasty_values(client: Client, kind: str) -> None:
    value, words = NASTY[kind]
    assert words in text_of(client.get_object(client.put(value)))
    if isinstance(value, pa.Array):
        assert words in text_of(client.get_object(client.put(pa.table({"x": value}))))


def test_a_handle_shows_members_and_values(client: Client) -> None:
    meta = ObjectMeta("shop.model", {"accuracy": 0.5})
    for i in range(20):
        meta.add_member(f"m{i}", client.put(i))
    shown = text_of(client.get_object(client.create_metadata(meta).id))
    for word in ("shop.model", "accuracy", "0.5", "m15", "and 4 more members"):
        assert word in shown


def test_strict_memory_is_told(client: Client) -> None:
    assert "sealed for good" in text_of(client.get_object(client.put(TABLE, seal="strict")))


def test_to_look_is_not_to_unpickle(client: Client) -> None:
    for value in (Bomb(), [Bomb()], pd.DataFrame({"a": [Bomb(), 1]}), np.array([Bomb()], "O")):
        text_of(client.get_object(client.put(value)))


class Bomb:
    def __reduce__(self) -> Any:
        return _explode, ()


def _explode() -> None:
    raise AssertionError("unpickled")


# ---- the notebook

RUN = """
import sys, nbclient, nbformat
page = nbformat.read(sys.argv[1], as_version=4)
nbformat.validate(page)
nbclient.NotebookClient(page, timeout=40, kernel_name="python3").execute()
nbformat.write(page, sys.argv[2])
"""


def test_the_notebook_runs(daemon: Daemon, tmp_path: Path) -> None:
    for needed in ("nbclient", "ipykernel", "duckdb"):
        pytest.importorskip(needed)
    source, result = ROOT / "docs" / "notebook.ipynb", tmp_path / "done.ipynb"
    written = json.loads(source.read_text())
    assert not any(cell.get("outputs") for cell in written["cells"])  # they would name a machine
    folders = ("HOME", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")
    env = os.environ | dict.fromkeys(folders, str(tmp_path))
    env |= {"VINEYARD_ARROW_SOCKET": str(daemon.socket), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(source), str(result)],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=55,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = [
        out for cell in json.loads(result.read_text())["cells"] for out in cell.get("outputs", ())
    ]
    pages = "".join("".join(out.get("data", {}).get("text/html", "")) for out in outputs)
    assert pages.count("<div class='va-box'>") == 3  # the store, the flights, the result
    assert "336,776" in pages
    printed = "".join("".join(out.get("text", "")) for out in outputs)
    assert printed.count("the same pages") == 4
    assert "a copy" not in printed
    assert "nothing copied" in printed
    assert daemon.status().names == 0


class Printed:
    """Leaves a trace when it is unpickled."""

    traces: ClassVar[list[int]] = []

    def __reduce__(self) -> Any:
        return Printed.traces.append, (1,)


@vineyard_arrow.shared(typename="test.limited")
@dataclasses.dataclass
class Limited:
    x: int = 0
    inner: Limited | vineyard_arrow.ObjectID | None = None

    def __post_init__(self) -> None:
        if self.x > 3:
            raise ValueError("x is too large")


def test_to_look_runs_nothing_of_members_and_never_raises(client: Client) -> None:
    pickled = client.put(Printed())
    form = shared_class(Limited)
    column = pa.array([{"x": 1, "inner": {"part": 1}}], form.type.storage_type)
    column = pa.ExtensionArray.from_storage(form.type, column)
    root = Part(
        "test.limited", form.schema, [pa.RecordBatch.from_arrays([column], schema=form.schema)]
    )
    stands_for = Part(MEMBER, pa.schema([]), [], {"member": "inner"})
    oid = client._put_parts([root, stands_for], {"inner": Member(pickled, "test.limited")})
    client.get_object(oid)._repr_html_()
    assert not Printed.traces
    limited = Limited(1)
    limited.x = 7
    handle = client.get_object(client.put(limited))
    assert "test.limited" in handle._repr_html_()
    fresh = client.get_object(pickled)
    client.close()
    assert "closed" in repr(fresh)
    assert "closed" in fresh._repr_html_()

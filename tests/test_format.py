"""docs/format.md is enough: objects decoded by pyarrow and the standard library alone."""

from __future__ import annotations

import contextlib
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vineyard_arrow import types
from vineyard_arrow.client import Client
from vineyard_arrow.ipc import protocol as p
from vineyard_arrow.objects import ObjectMeta
from vineyard_arrow.registry import builtin_registry

ROOT = Path(__file__).resolve().parents[1]
DECODE = ROOT / "docs" / "examples" / "decode.py"
DEADLINE_S = 60.0

# Runs in a process that could not import vineyard_arrow if it tried. `answer` is printed.
PRELUDE = """
import json, runpy, sys
sys.modules["vineyard_arrow"] = None
import pyarrow as pa
names = runpy.run_path(sys.argv[1])
store = names["Store"](sys.argv[2])
read_parts, members = names["read_parts"], names["members"]

def read(key):
    key = store.find_name(key) if isinstance(key, str) else key
    return read_parts(store, key, store.pin(key))

def is_mapped(column):
    ranges = [pa.py_buffer(s.memory) for s in store.segments.values()]
    return all(
        any(r.address <= b.address and b.address + b.size <= r.address + r.size for r in ranges)
        for chunk in column.chunks for b in chunk.buffers() if b is not None and b.size
    )
"""
EPILOGUE = """
ours = [m for m in sys.modules if m.startswith("vineyard_arrow.")]
assert not ours and sys.modules["vineyard_arrow"] is None
store.close()
print(json.dumps(answer))
"""


def decode(daemon: Any, code: str) -> Any:
    """What ``code`` leaves in ``answer``."""
    script = PRELUDE + code + EPILOGUE
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(DECODE), str(daemon.socket)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_how_it_is_called() -> None:
    done = subprocess.run(
        [sys.executable, str(DECODE)], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert (done.returncode, done.stderr) == (1, "usage: python decode.py SOCKET NAME_OR_ID\n")


def test_a_table(daemon: Any, client: Client) -> None:
    table = pa.table(
        {
            "i": pa.array(range(100_000)),
            "x": pa.array([i / 4 if i % 7 else None for i in range(100_000)]),
            "s": [f"text {i}" for i in range(100_000)],
            "l": [[i, i + 1] for i in range(100_000)],
        },
        metadata={"mine": "kept"},
    )
    client.put(table, name="t")
    code = """
((typename, params, t),) = read("t")
answer = [typename, params, t.schema.metadata[b"mine"].decode(), t.schema.names, t.num_rows]
answer += [t.slice(99_998).to_pylist(), sum(t["i"].to_pylist()), t["x"].null_count]
answer += [is_mapped(column) for column in t.columns]
"""
    assert decode(daemon, code) == [
        "vineyard.table",
        {},
        "kept",
        ["i", "x", "s", "l"],
        100_000,
        table.slice(99_998).to_pylist(),
        sum(range(100_000)),
        table["x"].null_count,
        *[True] * 4,
    ]


def test_slices_and_dictionaries(daemon: Any, client: Client) -> None:
    whole = pa.table({"i": pa.array(range(90_000), pa.int32()), "s": ["ab", "c", "d"] * 30_000})
    stored = client.get(client.put(whole))
    client.put(stored.slice(3, 45_001), name="odd")  # its values start off 8 bytes
    words = pa.chunked_array([pa.array(["x", "y", None] * 99).dictionary_encode()] * 2)
    client.put(pa.table({"w": words}), name="words")
    code = """
((_, _, odd),) = read("odd")
((_, _, words),) = read("words")
answer = [odd.num_rows, sum(odd["i"].to_pylist()), odd["s"].to_pylist()[-2:]]
answer += [str(words.schema.field("w").type), words["w"].to_pylist()[:4], words["w"].num_chunks]
"""
    assert decode(daemon, code) == [
        45_001,
        sum(range(3, 45_004)),
        ["d", "ab"],
        "dictionary<values=string, indices=int32, ordered=0>",
        ["x", "y", None, "x"],
        2,
    ]


def test_an_object_in_several_segments(daemon: Any, client: Client) -> None:
    more = client.get(client.put(pa.table({"j": pa.array(range(9, 20_009))})))
    code = (
        "import sys, pyarrow as pa, vineyard_arrow\n"
        "client = vineyard_arrow.connect(sys.argv[1])\n"
        "client.put(pa.table({'i': pa.array(range(20_000))}), name='theirs')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(daemon.socket)], check=True, timeout=150)
    client.put(client.get("theirs").append_column("j", more["j"]), name="both")
    code = """
((_, _, t),) = read("both")
answer = [len(store.segments), sum(t["i"].to_pylist()), sum(t["j"].to_pylist())]
"""
    assert decode(daemon, code) == [3, sum(range(20_000)), sum(range(9, 20_009))]


def test_a_tensor_by_its_descriptor(daemon: Any, client: Client) -> None:
    array = np.arange(600_000.0).reshape(300, 2000)
    client.put(array, name="a")
    code = """
((typename, params, t),) = read("a")
values = memoryview(t["data"].chunk(0).buffers()[1]).cast("B").cast("d", params["shape"])
answer = [typename, params, values.shape, values[299, 1999], values[1, 0], is_mapped(t["data"])]
"""
    described = {"shape": [300, 2000], "dtype": "<f8", "order": "C"}
    expected = ["vineyard.tensor", described, [300, 2000], array[-1, -1], array[1, 0], True]
    assert decode(daemon, code) == expected


def test_a_composite_object(daemon: Any, client: Client) -> None:
    inner = ObjectMeta("shop.box", {"size": 3})
    inner.add_member("items", client.put(pa.table({"i": [1, 2, 3]})))
    outer = ObjectMeta("shop.shelf", {"owner": "Ann"})
    outer.add_member("box", inner)
    outer.add_member("weights", client.put(np.arange(6.0)))
    client.create_metadata(outer, name="shelf")
    code = """
parts = read("shelf")
types = {f.name: f.metadata[b"ARROW:extension:metadata"].decode() for f in parts[-1].table.schema}
inside = members(parts)
box = read(inside["box"])
items, weights = read(members(box)["items"]), read(inside["weights"])
answer = [parts[0].typename, parts[0].params, types, box[0].params]
answer += [items[0].table.to_pydict(), sum(weights[0].table["data"].to_pylist())]
"""
    assert decode(daemon, code) == [
        "shop.shelf",
        {"vineyard.meta": {"owner": "Ann"}},
        {"box": "shop.box", "weights": "vineyard.tensor"},
        {"vineyard.meta": {"size": 3}},
        {"i": [1, 2, 3]},
        15.0,
    ]


def test_a_pin_of_the_decoder_holds(daemon: Any, client: Client) -> None:
    oid = client.put(pa.table({"i": pa.array(range(50_000))}), name="held")
    script = PRELUDE + (
        '((_, _, t),) = read("held")\n'
        'print("held", flush=True)\ninput()\n'
        'try: read("held")\n'
        'except LookupError: print(sum(t["i"].to_pylist()))\n'
        "store.close()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(DECODE), str(daemon.socket)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        client.delete(oid)
        assert client.status().deleted_pinned == 1
        client.put(pa.table({"i": pa.array([7] * 50_000)}))
        assert process.communicate("\n", timeout=DEADLINE_S)[0] == f"{sum(range(50_000))}\n"
    assert client.status().deleted_pinned == 0


def test_the_program_shows_any_object(daemon: Any, client: Client) -> None:
    oid = client.put({"frame": pa.table({"i": [1, 2]}), "n": 5}, name="mixed")
    shown = [
        subprocess.run(
            [sys.executable, str(DECODE), str(daemon.socket), key],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=True,
        ).stdout
        for key in ("mixed", str(oid))
    ]
    assert shown[0] == shown[1]
    assert "vineyard.python.value" in shown[0]
    assert "i: int64 [1, 2]" in shown[0]


def test_the_page_names_what_there_is() -> None:
    page = (ROOT / "docs" / "format.md").read_text()
    assert f"version {p.VERSION}" in page
    assert re.search(rf"^VERSION = {p.VERSION}\b", DECODE.read_text(), re.MULTILINE)
    for module in pkgutil.iter_modules(types.__path__, f"{types.__name__}."):
        with contextlib.suppress(ModuleNotFoundError):  # of a library that is not installed
            importlib.import_module(module.name)
    known = {re.sub(r"scipy\.\w+", "scipy.F_K", name) for name in builtin_registry._resolvers}
    assert not {name for name in known if f"`{name}`" not in page}

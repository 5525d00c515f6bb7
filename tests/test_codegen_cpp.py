"""Code generated in C++ reads what Python put, by the rules that Python has."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from cpp_harness import Reader, fleet
from cpp_harness import reader as reader

from vineyard_arrow.client import Client
from vineyard_arrow.codegen import cpp
from vineyard_arrow.codegen.model import PART
from vineyard_arrow.codegen.source import read_file
from vineyard_arrow.errors import AnnotationError
from vineyard_arrow.registry import Part

pytestmark = pytest.mark.timeout(600)  # the first of them compiles


# ---- objects that Python put


def track(client: Client, **fields: Any) -> Any:
    f = fleet()
    node = f.Node(1, f.Node(2), None, [f.Node(3), f.Node(4, f.Node(5))])
    values: dict[str, Any] = {
        "vehicle": f.Truck("bus 7", 6, 2.5),  # of a derived class
        "points": np.arange(15_000.0).reshape(5000, 3),
        "fixes": pa.table(
            {"lat": np.arange(9000.0), "at": pa.array(range(9000), pa.timestamp("us"))}
        ),
        "grid": np.asfortranarray(np.arange(20_000, dtype=np.int32).reshape(100, 200)),
        "whatever": np.array([("a", 1)], dtype="U3,i4"),
        "codes": pa.array(range(10_000)),
        "words": pa.chunked_array([["a", "b"], ["c"]], pa.large_string()),
        "batch": pa.record_batch({"k": [1, 2, 3]}),
        "frame": pl.DataFrame({"x": [1, 2], "s": ["a", "b"]}),
        "series": pl.Series("s", [1.0, 2.0, 3.0]),
        "stamps": np.array(["2026-01-01", "2026-01-02"], "M8[us]"),
        "flags": np.array([True, False]),
        "waves": np.array([1, 2 - 3j]),
        "color": f.Color.default,
        "born": dt.date(2001, 2, 3),
        "lunch": dt.time(12, 30, 0, 5),
        "lasts": dt.timedelta(days=1, microseconds=7),
        "seen": dt.datetime(2026, 5, 6, 7, 8, 9, 10),
        "sent": dt.datetime(2026, 5, 6, tzinfo=ZoneInfo("Europe/Berlin")),
        "raw": b"a\0b",
        "pairs": (7, "seven"),
        "counts": [1, 2, 3],
        "limits": {"x": 0.5, "y": 1.5},
        "by_day": {"mo": [np.zeros(2, np.float32), np.ones(3, np.float32)]},
        "tree": node,
        "parked": f.Truck("van 2", load=0.75),
    }
    return f.Track(**(values | fields))


def polynomial(buffers: list[Any]) -> int:
    """The checksum of native/reader.cpp."""
    total = 0
    for buffer in buffers:
        for byte in memoryview(buffer).cast("B") if buffer is not None and len(buffer) else b"":
            total = (total * 31 + byte) & ((1 << 64) - 1)
    return total


def checksum(value: Any) -> int:
    chunks = [chunk for column in value.fixes.columns for chunk in column.chunks]
    arrays = [memoryview(value.points).cast("B"), value.grid.tobytes("F")]
    return polynomial([*arrays, *(b for chunk in chunks for b in chunk.buffers())])


def test_every_kind_of_field(reader: Reader, daemon: Any, client: Client) -> None:
    put = track(client)
    client.put(put, name="t")
    stored = client.get("t")
    before = checksum(stored)
    lines = reader("track", daemon, "t")
    seen = dict(line.split(" ", 1) for line in lines)
    assert checksum(stored) == checksum(put) == before
    assert seen.pop("untouched") == f"1 {before}"
    micros = 1_000_000
    times = [
        (put.born - dt.date(1970, 1, 1)).days,
        (12 * 60 + 30) * 60 * micros + 5,
        86_400 * micros + 7,
        (put.seen - dt.datetime(1970, 1, 1)) // dt.timedelta(microseconds=1),
        int(put.sent.timestamp()) * micros,
    ]
    assert seen == {
        "vehicle": "bus 7 6",
        "points": f"{put.points.sum():.0f} 5000 3 5 mapped",
        "fixes": "9000 mapped",
        "grid": f"{put.grid.sum()} 1 200 mapped",
        "whatever": f"a record {put.whatever.nbytes}",
        "codes": "2 mapped",
        "words": "2 large_string",
        "batch": "3 k: int64",
        "frame": "2 2",
        "series": "3",
        "stamps": str(put.stamps[1].astype("i8")),
        "flags": "10",
        "waves": "2 -3",
        "color": "2",
        "times": " ".join(map(str, times)),
        "raw": "3",
        "pairs": "7 seven",
        "counts": "3 3",
        "limits": "2 0.5",
        "by_day": "2 3",
        "tree": "15",
        "parked": "van 2 0.75",
        "note": "none",
        "extra": "-1",
        "mood": "bad",
        "label": "0 1 0",
    }


def test_optional_fields_and_members(reader: Reader, daemon: Any, client: Client) -> None:
    van = client.put(fleet().Truck("van 9", load=4.5))
    more = {"note": "hello", "extra": pa.table({"a": [1]}), "mood": None, "stops": ["a", "b"]}
    oid = client.put(track(client, parked=van, **more), name="t")
    lines = reader("track", daemon, str(oid))
    assert {"parked van 9 4.5", "note hello", "extra 1", "mood none", "label 0 1 2"} <= set(lines)
    client.delete(van, force=True)
    (line,) = reader("track", daemon, "t")
    assert line.startswith(f"error not-found no object {van}")


def test_derived_and_other_classes(reader: Reader, daemon: Any, client: Client) -> None:
    client.put(fleet().Truck("van", 3), name="truck")
    client.put(fleet().Node(1), name="node")
    client.put(5, name="five")
    lines = reader("class", daemon, "Vehicle", "truck", "node", "five", "nothing")
    assert lines[0] == "van 3"
    assert lines[1].startswith("error invalid o")
    assert lines[1].endswith(" is a fleet.node, no Vehicle")
    assert lines[2].endswith(" is a vineyard.python.value, no Vehicle")
    assert lines[3].startswith("error not-found no name 'nothing' (hint: ")


def test_the_programs_of_the_page(reader: Reader, daemon: Any, client: Client) -> None:
    client.put(pa.table({"delay": [4.5, 11.0, 2.0]}), name="flights")
    assert reader("delays", daemon) == ["3 flights, 17.5 minutes late"]
    code = (
        "import sys, numpy as np, pyarrow as pa, vineyard_arrow, shop\n"
        "points = np.zeros((1000, 2))\npoints[7, 0] = 3.25\n"
        "prices = pa.table({'item': ['tea'], 'price': [2.5]}, shop.PRICES)\n"
        "route = shop.Route(points)\n"
        "order = shop.Order(number=7, state=shop.State.PAID, prices=prices, routes=[route])\n"
        "vineyard_arrow.connect(sys.argv[1]).put(order, name='order')\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(daemon.socket)], cwd=reader.folder, check=True, timeout=150
    )
    assert reader("order", daemon) == ["order 7, paid, 1 items, as far as 3.25"]


# ---- objects of earlier and later classes, and of nobody's


def root(typename: str, version: Any, fields: dict[str, tuple[pa.DataType, Any]]) -> Part:
    """A root as the class of another time and place would have written it."""
    struct = pa.struct([pa.field(name, type_) for name, (type_, _) in fields.items()])
    declared = {name: f"old {type_}" for name, (type_, _) in fields.items()}
    described = {"typename": typename, "version": version, "fields": declared}
    metadata = {
        "ARROW:extension:name": typename,
        "ARROW:extension:metadata": json.dumps(described),
    }
    schema = pa.schema([pa.field("object", struct, nullable=False, metadata=metadata)])
    row = {name: value for name, (_, value) in fields.items()}
    column = pa.array([row], struct)
    return Part(typename, schema, [pa.RecordBatch.from_arrays([column], schema=schema)])


def tensor(array: np.ndarray[Any, Any]) -> Part:
    schema = pa.schema([pa.field("data", pa.from_numpy_dtype(array.dtype), nullable=False)])
    params = {"shape": list(array.shape), "dtype": array.dtype.str, "order": "C"}
    return Part("vineyard.tensor", schema, [pa.record_batch([array], schema=schema)], params)


S, I8 = pa.string(), pa.int8()


@pytest.mark.parametrize(
    ("version", "fields", "seen"),
    [
        (1, {"name": (S, "x")}, "x 4"),
        (2, {"name": (S, "x"), "wheels": (I8, 3), "gone": (pa.int64(), 1)}, "x 3"),
        (2, {"wheels": (I8, 3), "name": (S, "x")}, "x 3"),
        (3, {"name": (S, "x")}, "a fleet.vehicle of version 3, and this class is of version 2"),
        (2, {"wheels": (I8, 3)}, "Vehicle.name: an object of version 2 has no such field, and the"),
        (2, {"name": (S, None)}, "Vehicle.name: found None in an object of version 2, wanted str"),
        (
            2,
            {"name": (S, "x"), "wheels": (pa.int16(), 3)},
            "Vehicle.wheels: found old int16 in an object of version 2, wanted int[int8]",
        ),
        (
            1,
            {"name": (pa.large_string(), "x")},
            "Vehicle.name: found old large_string in an object of version 1, wanted str",
        ),
        ("new", {"name": (S, "x")}, "a value is a text, which is not what was expected"),
    ],
    ids=["added", "removed", "order", "later", "missing", "null", "narrower", "text", "version"],
)
def test_evolution(
    reader: Reader, daemon: Any, client: Client, version: Any, fields: dict[str, Any], seen: str
) -> None:
    client._put_parts([root("fleet.vehicle", version, fields)], {}, "v")
    (line,) = reader("class", daemon, "Vehicle", "v")
    assert line.removeprefix("error invalid ").startswith(seen)


def defaults(**fields: tuple[pa.DataType, Any]) -> Part:
    return root("fleet.defaults", 1, {"rows": (PART, {"part": 1}), **fields})


def test_defaults_old_names_and_widening(reader: Reader, daemon: Any, client: Client) -> None:
    array = np.arange(10, dtype=np.float64)
    client._put_parts([defaults(), tensor(array)], {}, "bare")
    pairs = pa.struct([pa.field("0", pa.uint8(), False), pa.field("1", pa.int32(), False)])
    old = defaults(
        ratio=(pa.float16(), np.float16(0.5)),
        speed=(pa.uint16(), 60_000),
        least=(pa.int32(), -5),
        edge=(pa.list_(pa.int8()), [7]),
        corner=(pairs, {"0": 3, "1": -4}),
        halts=(pa.list_(S), ["a", "b"]),
    )
    client._put_parts([old, tensor(np.arange(5, dtype=np.float16))], {}, "old")
    client._put_parts([defaults(), tensor(np.arange(6, dtype=np.uint32))], {}, "ints")
    swapped = tensor(np.arange(7, dtype=np.int16).byteswap())
    swapped.params["dtype"] = ">i2"
    client._put_parts([defaults(), swapped], {}, "swapped")
    lines = reader("class", daemon, "Defaults", "bare", "old", "ints", "swapped")
    days = 20484  # from 1970 to 2026-01-31
    rest = f"{days} 43200000000 604800000000 {days * 86_400_000_000 + 43_200_000_000}"
    assert lines[0] == f"inf {2**64 - 1} {-(2**63)} 12 2 2 {rest} 0 45"
    assert lines[1] == f"0.5 60000 -5 12 1 -4 {rest} 2 10"
    assert lines[2].endswith(" 15")
    assert lines[3].endswith(" 21")


@pytest.mark.parametrize(
    ("array", "error"),
    [
        (np.arange(5), "found an array of dtype <i8 in an object of version 1, wanted ndarray[f"),
        (np.zeros((2, 2)), "found an array of shape (2, 2) in an object of version 1, wanted"),
    ],
    ids=["dtype", "shape"],
)
def test_arrays_that_do_not_fit(
    reader: Reader, daemon: Any, client: Client, array: Any, error: str
) -> None:
    part = tensor(array.ravel())
    part.params["shape"] = list(array.shape)
    client._put_parts([defaults(), part], {}, "d")
    (line,) = reader("class", daemon, "Defaults", "d")
    assert line.startswith("error invalid Defaults.rows: " + error)


def node(left: int, typename: str = "fleet.node") -> Part:
    return root(typename, 1, {"value": (pa.int64(), 1), "left": (PART, {"part": left})})


def test_objects_that_lie(reader: Reader, daemon: Any, client: Client) -> None:
    lying = tensor(np.arange(4.0))
    lying.params["shape"] = [1 << 62]
    objects = {
        "itself": [node(0)],
        "circle": [node(1), node(2), node(1)],
        "outside": [node(9)],
        "other": [node(1), tensor(np.arange(3.0))],
        "bare": [Part("fleet.node", pa.schema([]), [])],
        "table": [Part("fleet.node", pa.schema([("object", S)]), [])],
        "member": [node(1), Part("vineyard.shared.member", pa.schema([]), [], {"member": "x"})],
    }
    for name, parts in objects.items():
        client._put_parts(parts, {}, name)
    client._put_parts([defaults(), lying], {}, "lying")
    lines = reader("class", daemon, "Node", *objects)
    ends = ["0, and has 1", "1, and has 3", "9, and has 1", "wanted fleet.node | None"]
    ends += ["stored as a shared class", "stored as a shared class", "has no member 'x'"]
    assert all(line.startswith("error ") for line in lines)
    assert [line for line, end in zip(lines, ends, strict=True) if not line.endswith(end)] == []
    (line,) = reader("class", daemon, "Defaults", "lying")
    assert line.endswith("a vineyard.tensor whose shape does not fit its elements")


def test_a_long_chain_is_an_error(reader: Reader, daemon: Any, client: Client) -> None:
    client._put_parts([node(i + 1) for i in range(2000)], {}, "chain")
    (line,) = reader("class", daemon, "Node", "chain")
    assert line == "error invalid a fleet.node nests too deeply to be read"


# ---- what no code can be generated of

HEAD = """\
from dataclasses import dataclass, field
from typing import Annotated
import numpy as np, pandas as pd, pyarrow as pa
import vineyard_arrow
@vineyard_arrow.shared
@dataclass
class C:
"""


def generated(tmp_path: Path, fields: str) -> str:
    file = tmp_path / "some file.py"
    file.write_text(HEAD + "".join(f"    {line}\n" for line in fields.splitlines()))
    return cpp.generate(read_file(str(file)))


def test_what_has_no_code_in_cpp(tmp_path: Path) -> None:
    fields = """\
a: pd.DataFrame
b: list[pd.Series]
c: Annotated[np.ndarray, "U5"]
d: Annotated[np.ndarray, ">f8"]
e: Annotated[np.ndarray, "M8[25us]"]
new: int
new_: int
f: int = None
g: Annotated[int, pa.int8()] = 200
h: dict[str, int] = (1,)"""
    with pytest.raises(AnnotationError) as error:
        generated(tmp_path, fields)
    _, *lines = str(error.value).splitlines()
    assert [line.removeprefix(f"{tmp_path}/some file.py:") for line in lines] == [
        "8: C.a: C++ code has nothing for pandas.DataFrame; "
        "write pyarrow.Table, or polars.DataFrame",
        "9: C.b: C++ code has nothing for pandas.Series; "
        "write pyarrow.ChunkedArray, or polars.Series",
        *(
            f"{line}: C.{name}: C++ code has nothing for arrays of {dtype}; leave the dtype out,"
            " or write one of numbers or times in the machine's own byte order"
            for line, name, dtype in (
                (10, "c", "<U5 (<U5)"),
                (11, "d", ">f8 (>f8)"),
                (12, "e", "datetime64[25us] (<M8[25us])"),
            )
        ),
        "14: C.new_ and new are one name in C++; call one otherwise",
        "15: C.f: the default None is no int; give it one that is",
        "16: C.g: the default 200 is no int[int8]; give it one that is",
        "17: C.h: the default (1,) is no dict[str, int]; give it one that is",
    ]


def test_a_default_may_be_empty_or_none(tmp_path: Path) -> None:
    fields = "a: list[int] | None = field(default_factory=list)\nb: list[int] | None = None"
    code = generated(tmp_path, fields)
    assert "std::optional<std::vector<int64_t>> a = std::vector<int64_t>{};" in code
    assert "std::optional<std::vector<int64_t>> b = {};" in code


def test_names_and_texts_that_would_break_the_code(tmp_path: Path) -> None:
    code = generated(
        tmp_path,
        'class_: Annotated[pa.Table, pa.schema([("a\\n#error \\"\\\\", pa.int8())])]\n'
        'C: int = 5\nerrno: str = "??/\\n*/"\n',
    )
    assert "namespace some_file {" in code
    assert 'arrow::field("a\\012#error \\"\\\\", arrow::int8())' in code
    assert "int64_t C_ = 5;" in code
    assert 'std::string errno_ = "\\?\\?/\\012*/";' in code
    assert not any(line.startswith("#error") for line in code.splitlines())
    assert not any(line.endswith("\\") for line in code.splitlines())

"""docs/zero-copy.md, measured: each table of it is made anew here and compared.

Addresses tell. A value's memory is the list of its buffers, ``(address, nbytes)``; a put
is zero-copy if what the builder hands over lies in the value's memory, a get if the
value's memory lies in the store.
"""

from __future__ import annotations

import ctypes
import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from types_harness import encode, place_of

from vineyard_arrow import dual_strings
from vineyard_arrow.client import Client

DOCS = Path(__file__).parents[1] / "docs" / "zero-copy.md"
N = 1 << 19
# Descriptions, dictionaries and the like: not a matter of rows.
NOISE = 0.02
Memory = list[tuple[int, int]]

pytestmark = pytest.mark.filterwarnings(
    "ignore:Sparse .* tensor support is in beta",
    "ignore:Sparse invariant checks are implicitly disabled",
)


# -- where memory lies ----------------------------------------------------------------------


def arrow_memory(array: Any) -> Memory:
    chunks = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
    buffers = [b for chunk in chunks for b in chunk.buffers() if b is not None]
    return [(b.address, b.size) for b in buffers]


def addressable(value: Any) -> Any:
    """``value`` as something that tells its addresses; to be kept while they are compared.

    polars tells them by its export to Arrow, which copies what is not Arrow's.
    """
    if isinstance(value, pl.LazyFrame):
        value = value.collect()
    if isinstance(value, pl.Series):
        value = value.to_frame()
    if isinstance(value, pl.DataFrame):
        return value.to_arrow(compat_level=pl.CompatLevel.newest())
    return value


def memory_of(value: Any) -> Memory:
    """The buffers a value works on."""
    if isinstance(value, np.ma.MaskedArray):
        return memory_of(value.data) + memory_of(value.mask)
    if isinstance(value, ctypes.Array):
        return [(ctypes.addressof(value), ctypes.sizeof(value))]
    if isinstance(value, np.ndarray):
        begin, end = np.lib.array_utils.byte_bounds(value)
        return [(begin, end - begin)]
    if isinstance(value, (pa.Array, pa.ChunkedArray)):
        return arrow_memory(value)
    if isinstance(value, pa.Table):
        return [m for column in value.columns for m in arrow_memory(column)]
    if isinstance(value, pd.DataFrame):
        return [m for _, column in value.items() for m in pandas_memory(column.array)]
    if hasattr(value, "xindexes"):
        arrays = [value.variable] if hasattr(value, "variable") else value.data_vars.values()
        members = [array.values for array in arrays]
        members += [index.to_numpy() for index in value.indexes.values()]
        return [m for member in members for m in memory_of(member)]
    if getattr(value, "format", None) == "dok":
        return [(id(value._dict), sys.getsizeof(value._dict))]
    members = sparse_members(value) if hasattr(value, "nnz") else tensor_members(value)
    return [m for member in members for m in memory_of(member)]


def pandas_memory(array: Any) -> Memory:
    held = ("_pa_array", "_data", "_mask", "_ndarray", "_left", "_right", "sp_values")
    found = [getattr(array, name) for name in held if hasattr(array, name)]
    if isinstance(array, pd.arrays.SparseArray):
        found.append(array.sp_index.indices)
    return [
        m for one in found for m in (pandas_memory if hasattr(one, "_ndarray") else memory_of)(one)
    ]


def sparse_members(value: Any) -> list[Any]:
    coords = getattr(value, "coords", ())
    arrays = [a for a in vars(value).values() if isinstance(a, np.ndarray)]
    return [*arrays, *(coords if isinstance(coords, tuple) else ())]


def tensor_members(value: Any) -> list[Any]:
    import torch

    if isinstance(value, torch.nn.Module):
        value = value.state_dict()
    if isinstance(value, dict):
        return list(value.values())
    value = value.detach()
    if value.layout is torch.strided:
        held = value.untyped_storage()  # in bytes, whatever the dtype
        return [(ctypes.c_uint8 * held.nbytes()).from_address(held.data_ptr())]
    if value.layout is torch.sparse_coo:
        return [value._indices(), value._values()]
    return [value.crow_indices(), value.col_indices(), value.values()]


def handed_over(value: Any) -> Memory:
    """What the builder of ``value`` gives to the store."""
    columns = [c for part in encode(value) for batch in part.batches for c in batch.columns]
    return [m for column in columns for m in arrow_memory(column)]


def verdict(memory: Memory, inside: Callable[[int], bool], word: str = "shared") -> str:
    """What share of ``memory`` is inside, in the words of the document."""
    total = sum(nbytes for _, nbytes in memory)
    outside = sum(nbytes for address, nbytes in memory if not inside(address))
    if outside <= NOISE * N:
        return word
    if outside > 0.7 * total:
        return "copied"
    return f"{word}, but {outside / N:.2g} B a row"


def put_verdict(value: Any) -> str:
    kept = addressable(value)  # until the end: its memory must not be used again meanwhile
    own = memory_of(kept)

    def inside(address: int) -> bool:
        return any(begin <= address < begin + nbytes for begin, nbytes in own)

    return verdict(handed_over(value), inside)


def get_verdict(client: Client, value: Any, place: str = "store") -> str:
    word = "shared" if place == "store" else "shared until written"
    return verdict(
        memory_of(addressable(value)), lambda address: place_of(client, address) == place, word
    )


def test_the_measure_knows_copies(client: Client) -> None:
    array = np.arange(N)
    assert put_verdict(array) == "shared"
    assert put_verdict(array[::2]) == "copied"
    assert get_verdict(client, array) == "copied"
    stored = client.get(client.put(pa.table({"a": array})))
    assert get_verdict(client, stored) == "shared"
    both = stored.append_column("b", pa.array(array.astype("i4")))
    assert get_verdict(client, both) == "shared, but 4 B a row"


# -- columns --------------------------------------------------------------------------------


@functools.cache
def columns() -> dict[str, pa.ChunkedArray]:
    numbers = pa.array(np.arange(N))
    words = pa.array([f"a word of some length {i % 1000}" for i in range(N)])
    nulls = pa.array(np.arange(N), mask=np.arange(N) % 5 == 0)
    every = pa.array(np.arange(0, N + 1, 2, dtype="i8"))
    kinds = {
        "integers": numbers,
        "floats": pa.array(np.arange(N) / 2),
        "integers with nulls": nulls,
        "booleans": pa.array(np.arange(N) % 3 == 0),
        "decimals": pa.array(np.arange(N)).cast(pa.decimal128(21, 2)),
        "dates (date32)": pa.array(np.arange(N, dtype="i4")).cast(pa.date32()),
        "timestamps (us)": numbers.cast(pa.timestamp("us")),
        "timestamps (ns, time zone)": numbers.cast(pa.timestamp("ns", "UTC")),
        "string": words,
        "large_string": words.cast(pa.large_string()),
        "string_view": words.cast(pa.string_view()),
        "dictionary of strings": pa.array(np.arange(N, dtype="i4") % 7).cast(pa.string())
        .dictionary_encode(),
        "list": pa.ListArray.from_arrays(every.cast(pa.int32()), numbers),
        "large_list": pa.LargeListArray.from_arrays(every, numbers),
        "fixed-size list": pa.FixedSizeListArray.from_arrays(numbers, 2),
        "struct": pa.StructArray.from_arrays([numbers, nulls], ["a", "b"]),
    }  # fmt: skip
    return {name: pa.chunked_array([array]) for name, array in kinds.items()} | {
        "integers in two chunks": pa.chunked_array([numbers[: N // 2], numbers[N // 2 :]])
    }


def measured(rows: dict[str, list[str]], *head: str) -> str:
    lines = [head, ["---"] * len(head), *([name, *cells] for name, cells in rows.items())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def arrow_section(client: Client) -> str:
    rows = {}
    for name, column in columns().items():
        table = client.get(client.put(pa.table({"x": column})))
        values = [
            table,
            pl.from_arrow(table, rechunk=False),
            table.to_pandas(types_mapper=pd.ArrowDtype),
            table.to_pandas(split_blocks=True),
            table["x"].to_numpy(),
        ]
        rows[name] = [get_verdict(client, value) for value in values]
    return measured(rows, "column", "pyarrow", "polars", "pandas ArrowDtype", "pandas", "NumPy")


def dual_section(client: Client) -> str:
    rows = {}
    every = columns()
    for name in ("string", "large_string", "string with nulls", "string in two chunks"):
        column = every[name.split()[0]]
        if "nulls" in name:
            column = pa.chunked_array(
                [pc.if_else(every["booleans"].chunk(0), None, column.chunk(0))]
            )
        if "chunks" in name:
            column = pa.chunked_array([column.chunk(0)[: N // 2], column.chunk(0)[N // 2 :]])
        table = pa.table({"x": column})
        plain, dual = client.put_many([table, dual_strings(table)])
        mapped = client.get(dual)
        values = [
            mapped,
            client.get(dual, as_="polars"),
            client.get(dual, as_="pandas"),
            mapped.to_pandas(split_blocks=True),
        ]
        rows[name] = [get_verdict(client, value) for value in values]
        metas = [client.get_meta(key) for key in (dual, plain)]
        stored = [meta.copied + meta.gathered + meta.shared for meta in metas]
        rows[name].append(f"{(stored[0] - stored[1]) / N:.2g} B a row")
        client.delete([plain, dual])
    return measured(rows, "column", "pyarrow", "polars", "pandas ArrowDtype", "pandas", "cost")


def handles_section(client: Client) -> str:
    torch = pytest.importorskip("torch")
    from vineyard_arrow.integrations.torch import Dataset

    table = pa.table({"x": columns()["integers"]})
    keys = {"table": client.put(table), "column": client.put(table["x"])}
    keys["array"] = client.put(np.arange(N))
    keys["tensor"] = client.put(torch.arange(N))
    ways: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "`handle.to_arrow()`": ("table", lambda handle: handle.to_arrow()),
        "`handle.to_table()`": ("table", lambda handle: handle.to_table()),
        "`handle.to_reader()`": ("table", lambda handle: handle.to_reader().read_all()),
        "`pyarrow.table(handle)`": ("table", pa.table),
        "`polars.DataFrame(handle)`": ("table", pl.DataFrame),
        "`pyarrow.chunked_array(handle)`": ("column", pa.chunked_array),
        "`polars.Series(handle)`": ("column", pl.Series),
        "`numpy.asarray(handle)`": ("array", np.asarray),
        "`numpy.from_dlpack(handle)`": ("array", np.from_dlpack),
        "`torch.from_dlpack(handle)`": ("tensor", torch.from_dlpack),
        "`torch.Dataset(key)[:]`": ("table", lambda handle: Dataset(handle.id, None, client)[:]),
    }
    rows = {}
    for way, (kind, take) in ways.items():
        value = take(client.get_object(keys[kind]))
        place = "private map" if "torch" in way or "dlpack" in way else "store"
        rows[way] = [kind, get_verdict(client, value, place)]
    return measured(rows, "taken by", "of a", "memory")


def xarray_section(client: Client) -> str:
    xr = pytest.importorskip("xarray")
    data = np.arange(2.0 * N).reshape(N, 2)
    plain = xr.DataArray(data, dims=("x", "y"))
    values = {
        "DataArray": plain,
        "DataArray with an index": plain.assign_coords(x=np.arange(N) * 3),
        "Dataset": xr.Dataset({"a": plain, "b": plain + 1, "c": ("x", np.arange(N))}),
    }
    return own_section(client, values, "value")


def polars_section(client: Client) -> str:
    frames = {name: pl.DataFrame({"x": pl.from_arrow(c)}) for name, c in columns().items()}
    for name in ("large_string", "string_view", "large_list"):  # one type each in polars
        del frames[name]
    frames["integers in two chunks"] = pl.concat([frames["integers"]] * 2, rechunk=False)
    frames["enum"] = frames["dictionary of strings"].cast(pl.Enum(list("0123456")))
    return own_section(client, {**frames, "LazyFrame": frames["integers"].lazy()}, "column")


def pandas_section(client: Client) -> str:
    some = pd.Series(np.arange(N)).where(np.arange(N) % 5 != 0)
    words = pd.Series([f"a word of some length {i % 1000}" for i in range(N)])
    moments = pd.Series(np.arange(N).astype("M8[ns]"))
    frames = {
        "int64": pd.DataFrame({"x": np.arange(N)}),
        "float64, 8 columns in a block": pd.DataFrame(np.zeros((8, N)).T, copy=False),
        "bool": pd.DataFrame({"x": np.arange(N) % 3 == 0}),
        "datetime64[ns]": moments.to_frame(),
        "datetime64[ns, UTC]": moments.dt.tz_localize("UTC").to_frame(),
        "period": moments.dt.to_period("s").to_frame(),
        "Int64 with NA": some.astype("Int64").to_frame(),
        "boolean": (some % 2 == 0).astype("boolean").to_frame(),
        "str": words.to_frame(),
        "string[pyarrow]": words.astype(pd.StringDtype("pyarrow")).to_frame(),
        "string[python]": words.astype(pd.StringDtype("python")).to_frame(),
        "category": words.str[-1:].astype("category").to_frame(),
        "int32[pyarrow]": some.astype(pd.ArrowDtype(pa.int32())).to_frame(),
        "list[pyarrow]": pd.DataFrame({"x": pd.array(
            columns()["list"], dtype=pd.ArrowDtype(pa.list_(pa.int64())))}),
        "Sparse[float]": some.astype(pd.SparseDtype("float", np.nan)).to_frame(),
        "object": words.astype(object).to_frame(),
    }  # fmt: skip
    return own_section(client, frames, "dtype")


def numpy_section(client: Client) -> str:
    dtypes = ("int64", "float16", "bool", "complex64")
    square = np.arange(float(N)).reshape(1024, -1)
    arrays = {
        **{dtype: (np.arange(N) % 1000).astype(dtype) for dtype in dtypes},
        "big-endian": np.arange(N, dtype=">i4"),
        "datetime64": np.arange(N).astype("M8[s]"),
        "fixed-width text": np.full(N, "text"),
        "records": np.zeros(N, [("a", "i4"), ("b", "f8")]),
        "Fortran order": np.asfortranarray(square),
        "masked": np.ma.array(np.arange(N), mask=np.arange(N) % 2 == 0),
        "not contiguous": np.arange(2 * N)[::2],
        "StringDType": np.array(["a long enough text"] * N, np.dtypes.StringDType()),
        "objects": np.arange(N).astype(object),
    }
    return own_section(client, arrays, "array")


def scipy_section(client: Client) -> str:
    sp = pytest.importorskip("scipy.sparse")
    sparse = pytest.importorskip("sparse")
    matrix = sp.random_array((N, 64), density=1 / 64, format="csr", rng=np.random.default_rng(0))
    forms = {form: matrix.asformat(form) for form in ("csr", "csc", "coo", "bsr")}
    forms["dia"] = sp.dia_array((np.arange(2.0 * N).reshape(2, N), [0, 1]), shape=(N, N))
    forms |= {"lil": matrix[:10_000].tolil(), "dok": matrix[:10_000].todok()}
    values = {f"scipy.sparse {form}": value for form, value in forms.items()}
    coo = sparse.COO.from_scipy_sparse(matrix)
    values |= {"sparse.COO": coo, "sparse.GCXS": sparse.GCXS.from_coo(coo)}
    return own_section(client, values, "value")


def torch_section(client: Client) -> str:
    torch = pytest.importorskip("torch")
    floats = torch.arange(float(N))
    dtypes = ("float32", "bfloat16", "float8_e4m3fn", "bool", "complex64")
    linear = torch.nn.Linear(512, 1024)
    rows = torch.arange(N)
    values = {
        **{dtype: floats.to(getattr(torch, dtype)) for dtype in dtypes},
        "transposed": floats.reshape(1024, -1).t(),
        "Parameter": torch.nn.Parameter(floats),
        "state_dict": linear.state_dict(),
        "nn.Module": linear,
        "sparse COO": torch.sparse_coo_tensor(torch.stack([rows, rows]), floats, (N, N)),
        "sparse CSR": torch.sparse_csr_tensor(torch.arange(N + 1), rows, floats, (N, N)),
        "not contiguous": torch.arange(2 * N)[::2],
        "subclass of Tensor": floats.as_subclass(Tagged(torch)),
    }  # fmt: skip
    return own_section(client, values, "tensor", place="private map")


@functools.cache
def Tagged(torch: Any) -> type:
    made = type("TaggedTensor", (torch.Tensor,), {"__module__": __name__})
    globals()["TaggedTensor"] = made
    return made


def own_section(
    client: Client,
    values: dict[str, Any],
    what: str,
    place: str = "store",
) -> str:
    rows = {}
    for name, value in values.items():
        key = client.put(value)
        rows[name] = [put_verdict(value), get_verdict(client, client.get(key), place)]
        client.delete(key)
    return measured(rows, what, "put", "get")


# -- DuckDB ---------------------------------------------------------------------------------


def peak_growth(work: Callable[[], Any]) -> int:
    """How far the process's resident memory rises over its present size during ``work``."""

    def status(name: str) -> int:
        found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found is not None
        return int(found[1]) << 10

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status("VmRSS")
    work()
    return status("VmHWM") - before


def duckdb_section(client: Client) -> str:
    duckdb = pytest.importorskip("duckdb")
    rows = {}
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        for name, column in columns().items():
            table = client.get(client.put(pa.table({"x": column})))
            many = pa.concat_tables([table] * 16)
            connection.register("one", table)
            connection.register("many", many)

            def run(query: str) -> None:
                connection.execute(query).fetchall()

            run("SELECT max(hash(x)) FROM one")  # touches pages, makes DuckDB's own buffers
            limit = many.nbytes / 4
            grown = peak_growth(lambda: run("SELECT max(hash(x)) FROM many"))
            rows[name] = ["in place" if grown < limit else "copied"]
            if name == "integers":  # the measure knows copies
                assert peak_growth(lambda: run("CREATE TABLE t AS SELECT x FROM many")) > limit
            connection.unregister("one")
            connection.unregister("many")
    return measured(rows, "column", "scan")


# -- the document ---------------------------------------------------------------------------

SECTIONS = {
    "arrow": arrow_section,
    "dual": dual_section,
    "duckdb": duckdb_section,
    "polars": polars_section,
    "pandas": pandas_section,
    "numpy": numpy_section,
    "scipy": scipy_section,
    "torch": torch_section,
    "xarray": xarray_section,
    "handles": handles_section,
}


@pytest.mark.parametrize("name", SECTIONS)
def test_the_document_says_what_is_measured(
    client: Client, name: str, request: pytest.FixtureRequest
) -> None:
    table = SECTIONS[name](client)
    text = DOCS.read_text()
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->\n"
    before, rest = text.split(begin)
    written, after = rest.split(end)
    if request.config.getoption("--write-docs"):
        DOCS.write_text(f"{before}{begin}{table}{end}{after}")
    else:
        assert written == table

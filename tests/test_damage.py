"""Objects of which a piece is missing or another: a get gives a value or an error of ours.

Every typename of ours, with each parameter dropped and replaced, with other columns, and with
another's parts. The daemon knows no types, and takes all of it.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse as sp

import vineyard_arrow
from vineyard_arrow import Part, types
from vineyard_arrow.client import Client
from vineyard_arrow.composition import VALUES
from vineyard_arrow.errors import InvalidObjectError, VineyardArrowError
from vineyard_arrow.graph import Graph
from vineyard_arrow.graph.edge_cut import Fragment
from vineyard_arrow.graph.partition import partition
from vineyard_arrow.registry import Encoder, Registry, StoredObject, builtin_registry

pytestmark = pytest.mark.filterwarnings("ignore")  # libraries warn of nonsense, too

ROWS = 700
JUNK: list[Any] = [
    *(None, True, -1, 3, 1 << 40, -0.5, "", "nonsense", [], [0], [[]], [-1, 1 << 40], {}),
    *({"nonsense": 1}, ["a", 2, None], [["a", "b"], ["c"]]),
]
FORMATS = ("csr", "csc", "bsr", "coo", "dia", "dok", "lil")
TABLE = pa.table({"a": range(ROWS), "b": [f"text {i}" for i in range(ROWS)]})


def graph(client: Client) -> Graph:
    return Graph.from_edges({"src": [1, 2, 2], "dst": [2, 3, 1], "w": [1, 2, 3]}, client=client)


def examples(client: Client) -> list[Any]:
    index = pd.date_range("2024", periods=ROWS, tz="UTC", name="when")
    frame = pd.DataFrame({"x": np.arange(ROWS), "c": pd.Categorical(["a", "b"] * (ROWS // 2))})
    matrix = sp.random_array((50, 40), density=0.5, rng=np.random.default_rng(0))
    masked = np.ma.MaskedArray(np.arange(ROWS), np.arange(ROWS) % 2 == 0, fill_value=7)
    values = [
        *(TABLE, TABLE.to_batches()[0], TABLE["a"], TABLE["b"].chunk(0), pa.scalar(5)),
        *(TABLE.schema, TABLE.schema[0], pa.int8(), pa.array(["a", "b"]).dictionary_encode()),
        *(TABLE.to_reader(), pa.py_buffer(b"x" * ROWS), pa.compute.field("a")),
        *(np.arange(ROWS), np.array([None, "a", frame], object), masked, np.float32(2)),
        *(frame.set_index(index), frame["x"], index, pd.RangeIndex(5), frame["c"].array),
        *(pd.MultiIndex.from_product([range(ROWS), ["a"]]), pd.arrays.SparseArray([0, 1])),
        *(pl.from_arrow(TABLE), pl.Series("a", range(ROWS)), pl.LazyFrame({"a": [1]})),
        *({"a": [1, 2.5, (None, b"x"), {3}], "t": TABLE}, {1: complex(1, 2)}, print, [len, frame]),
        *(make(matrix).asformat(f) for make in (sp.coo_array, sp.coo_matrix) for f in FORMATS),
        graph(client),
        partition(graph(client), 2, by="segment", client=client)[0],
    ]
    with suppress(ImportError):
        import sparse

        coo = sparse.COO.from_scipy_sparse(matrix)
        values += [coo, sparse.GCXS(coo), sparse.DOK.from_coo(coo)]
    with suppress(ImportError):
        import xarray

        dataset = xarray.Dataset({"v": ("x", np.arange(3.0))}, {"x": [1, 2, 3]}, {"at": 1})
        values += [dataset, dataset["v"]]
    with suppress(ImportError):
        import duckdb

        values.append(duckdb.sql("SELECT 1::DECIMAL(5, 2) AS a, 'x' AS b"))
    with suppress(ImportError):
        import torch

        values += [torch.arange(ROWS), torch.eye(9).to_sparse(), torch.eye(9).to_sparse_csr()]
    return values


Whole = tuple[list[Part], dict[str, Any]]


def globals_(client: Client) -> Iterator[Whole]:
    """Global objects as objects of the store, which is how their metadata is read."""
    frame = pd.DataFrame({"x": [1, 2]})
    for meta in (
        client.create_global([TABLE, TABLE], key="a", bounds=[(0, 1), (2, 3)]),
        client.create_global([frame, frame]),
        client.create_global([np.eye(2), np.eye(2)]),
        client.create_global(partition(graph(client), 2, by="segment", client=client)),
    ):
        values = {key: meta[key] for key in meta}
        yield [Part(meta.typename, pa.schema([]), [], {VALUES: values})], dict(meta.members)


def wholes(client: Client) -> Iterator[Whole]:
    """Parts and members of each example."""
    yield from globals_(client)
    for value in examples(client):
        if isinstance(value, Graph | Fragment):
            members = client.get_meta(client.put(value)).members
            encoder = Encoder(Registry(), None, new_id=partial(next, iter(range(99))))
            encoder.add(value)
            yield encoder.parts, dict(members)
        else:
            encoder = Encoder(Registry())
            encoder.add(value)
            yield encoder.parts, {}


def altered(value: Any) -> Iterator[Any]:
    """A descriptor with each of its pieces left out, and each replaced."""
    yield from JUNK
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            less = value.copy()
            kept = less.pop(key)
            yield less
            for other in altered(kept):
                more = value.copy()
                more[key] = other
                yield more


def with_other_columns(part: Part) -> Iterator[Part]:
    tables = [pa.Table.from_batches(part.batches, part.schema)]
    whole = tables[0]
    tables += [whole.slice(0, n) for n in {0, 1, whole.num_rows // 2} if n < whole.num_rows]
    tables += [pa.concat_tables([whole, whole]), TABLE, TABLE.select([]), whole.select([])]
    for i, field in enumerate(whole.schema):
        tables.append(whole.remove_column(i))
        for values in (np.arange(whole.num_rows), [b"\xff"] * whole.num_rows, [[None]]):
            column = pa.array(values if len(values) == whole.num_rows else [None] * whole.num_rows)
            tables.append(whole.set_column(i, field.name, column))
            tables.append(whole.set_column(i, "other", column))
    for table in tables:
        yield Part(part.typename, table.schema, table.to_batches(), part.params)


def with_other_bytes(part: Part, rng: random.Random) -> Iterator[Part]:
    if part.schema.types != [pa.uint8()] or not part.batches or "pickle" in part.typename:
        return  # loading a pickle may do anything
    batch = part.batches[0]
    body = bytes(batch.column(0).buffers()[1])[: batch.num_rows] if batch.num_rows else b""
    for _ in range(60 if body else 0):
        data = bytearray(body)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(min(len(data), 400))] = rng.randrange(256)
        data = data[: rng.choice([len(data), rng.randrange(len(data))])]
        edited = pa.record_batch([pa.array(data, pa.uint8())], part.schema)
        yield Part(part.typename, part.schema, [edited, *part.batches[1:]], part.params)


def attempt(client: Client, parts: list[Part], members: dict[str, Any]) -> None:
    oid = client._put_parts(parts, members)
    try:
        client.get(oid)
    except VineyardArrowError:
        pass
    except Exception as error:
        root = parts[0]
        raise AssertionError(f"{root.typename} {root.params} {root.schema}") from error
    finally:
        client.delete(oid, deep=False)


def in_place(parts: list[Part], i: int, part: Part) -> list[Part]:
    return [*parts[:i], part, *parts[i + 1 :]]


def test_each_piece_missing_or_another(client: Client) -> None:
    rng = random.Random(0)
    for parts, members in wholes(client):
        for i, part in enumerate(parts):
            for params in altered(part.params):
                if isinstance(params, dict):
                    other = Part(part.typename, part.schema, part.batches, params)
                    attempt(client, in_place(parts, i, other), members)
            for other in (*with_other_columns(part), *with_other_bytes(part, rng)):
                attempt(client, in_place(parts, i, other), members)
        for i in range(1, len(parts)):
            attempt(client, parts[:i], members)
        if members:
            attempt(client, parts, {})
            for name in members:
                attempt(client, parts, members | {name: next(iter(members.values()))})


def test_parts_of_one_kind_by_the_name_of_another(client: Client) -> None:
    load_all()
    all_parts = [(parts, members) for parts, members in wholes(client)]
    for typename in sorted(ours()):
        for parts, members in all_parts:
            root = parts[0]
            if root.typename != typename and not {root.typename, typename} & {"vineyard.pickle"}:
                other = Part(typename, root.schema, root.batches, root.params)
                attempt(client, in_place(parts, 0, other), members)


def load_all() -> None:
    for path in Path(types.__file__).parent.glob("*.py"):
        with suppress(ImportError):
            importlib.import_module(f"vineyard_arrow.types.{path.stem}")


def ours() -> set[str]:
    return {name for name in builtin_registry._resolvers if name.startswith("vineyard.")}


def test_the_examples_are_of_every_kind(client: Client) -> None:
    load_all()
    seen = {part.typename for parts, _ in wholes(client) for part in parts}
    # Made of others' parts by what has tests of its own.
    assert ours() - seen <= {"vineyard.object", "vineyard.shared.member"}


# ---- what is translated, and what is not


def resolved_by(typename: str, error: BaseException) -> Registry:
    registry = Registry()

    @registry.resolver(typename)
    def resolve(part: Any, stored: StoredObject) -> Any:
        raise error

    return registry


@pytest.mark.parametrize("kind", [KeyError, IndexError, ValueError, TypeError, AttributeError])
def test_an_error_of_ours_tells_what_it_was(client: Client, kind: type[Exception]) -> None:
    stored = StoredObject([part_of("vineyard.x")], resolved_by("vineyard.x", kind("the reason")))
    with pytest.raises(InvalidObjectError, match=rf"vineyard.x: {kind.__name__}: .*reason") as got:
        stored.resolve()
    assert type(got.value.__cause__) is kind


@pytest.mark.parametrize(
    "error", [MemoryError(), KeyboardInterrupt(), RecursionError(), ImportError("x")], ids=repr
)
def test_what_says_nothing_of_the_object_passes(error: BaseException) -> None:
    stored = StoredObject([part_of("vineyard.x")], resolved_by("vineyard.x", error))
    with pytest.raises(type(error)) as got:
        stored.resolve()
    assert got.value is error


def test_errors_of_other_resolvers_come_as_they_are(client: Client) -> None:
    """Also of what our values hold of theirs."""
    error = ZeroDivisionError("of the shop")
    registry = resolved_by("shop.basket", error)

    @registry.resolver("vineyard.x")
    def resolve(part: Any, stored: StoredObject) -> Any:
        return [stored.resolve(1)]

    for names in (["shop.basket"], ["vineyard.x", "shop.basket"]):
        stored = StoredObject([part_of(name) for name in names], registry)
        with pytest.raises(ZeroDivisionError) as got:
            stored.resolve()
        assert got.value is error


def part_of(typename: str) -> Any:
    return vineyard_arrow.StoredPart(typename, {}, pa.table({}))

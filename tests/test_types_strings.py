"""Strings in the dual layout: exact for everybody, one text, views for polars."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from types_harness import assert_same, encode, place_of, roundtrip, run_other_process, store

import vineyard_arrow
from vineyard_arrow import Part, dual_strings
from vineyard_arrow.client import Client
from vineyard_arrow.errors import InvalidObjectError
from vineyard_arrow.types import strings

N = 20_000
WORDS = [f"a word of some length {i}" if i % 3 else "short" for i in range(N)]


def column(kind: str, type_: pa.DataType) -> pa.Array:
    if kind == "nulls":
        return pa.array([None if i % 7 == 0 else w for i, w in enumerate(WORDS)], type_)
    if kind == "empties":
        return pa.array(["" if i % 2 else w for i, w in enumerate(WORDS)], type_)
    if kind == "short":
        return pa.array(["inline"] * N, type_)
    if kind == "all-null":
        return pa.nulls(N, type_)
    if kind == "no-rows":
        return pa.array([], type_)
    if kind == "unicode":
        return pa.array(["Grüße, 世界, " * (i % 3) for i in range(N)], type_)
    whole = pa.array(WORDS, type_)
    return {"slice": whole[11 : N - 5], "head": whole[: N // 2]}.get(kind, whole)


KINDS = ["plain", "nulls", "empties", "short", "all-null", "no-rows", "unicode", "slice", "head"]
TYPES = (pa.string(), pa.large_string())


def text_buffers(values: pa.ChunkedArray | pa.Table) -> list[pa.Buffer]:
    values = values.column(0) if isinstance(values, pa.Table) else values
    return [b for chunk in values.chunks for b in chunk.buffers()[2:]]


@pytest.mark.parametrize("type_", TYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_types_are_exact(kind: str, type_: pa.DataType) -> None:
    strings_ = column(kind, type_)
    chunks = pa.chunked_array([strings_, strings_[3:]], type_)
    table = pa.table({"s": chunks, "n": np.arange(len(chunks)), "t": chunks})
    table = table.replace_schema_metadata({"k": "v"})
    batch = pa.record_batch([strings_], schema=pa.schema([pa.field("s", type_, True, {"a": "b"})]))
    for value in (table, batch, chunks, strings_):
        stored, _ = store(encode(dual_strings(value)))
        assert_same(value, stored.resolve())
        seen = stored.resolve(as_="polars")
        expected = pl.from_arrow(value)
        if isinstance(expected, pl.Series):
            expected = expected.alias("")
        assert_same(expected, seen)


@pytest.mark.parametrize("type_", TYPES, ids=str)
@pytest.mark.parametrize("kind", ["plain", "nulls", "slice", "head", "unicode"])
def test_offsets_and_views_are_over_one_text(client: Client, kind: str, type_: Any) -> None:
    table = pa.table({"s": column(kind, type_)})
    plain = client.put(table)
    oid = client.put(dual_strings(table))
    (text,) = text_buffers(client.get(oid))
    views = client.get(oid, as_="polars").to_arrow(compat_level=pl.CompatLevel.newest())
    assert views.schema.field("s").type == pa.string_view()
    assert [b.address for b in text_buffers(views)] == [text.address]
    assert place_of(client, text.address) == "store"
    assert place_of(client, views["s"].chunk(0).buffers()[1].address) == "store"
    dual, single = (m.copied + m.gathered for m in map(client.get_meta, (oid, plain)))
    more = 16 * table.num_rows + (N // 8 if table["s"].null_count else 0)
    if kind == "slice":  # whose offsets Arrow's writer makes in the store, and we elsewhere
        more += table.num_rows * (4 if type_ == pa.string() else 8)
    assert dual - single == pytest.approx(more, abs=64)  # of padding
    frame = client.get(oid, as_=pd.DataFrame)
    assert frame["s"].dtype == pd.ArrowDtype(type_)
    (seen,) = text_buffers(frame["s"].array.__arrow_array__())
    assert seen.address == text.address


def test_put_again_only_views_are_new(client: Client) -> None:
    table = pa.table({"s": WORDS, "n": np.arange(N)})
    first = client.get(client.put(table))
    meta = client.get_meta(client.put(dual_strings(first)))
    assert meta.copied + meta.gathered == 16 * N
    sliced = client.get_meta(client.put(dual_strings(first.slice(N // 2))))
    assert sliced.copied + sliced.gathered <= (16 + 4) * (N // 2) + 64


def test_memory_of_the_pool_is_shared(client: Client) -> None:
    with client.memory_pool:
        dual = dual_strings(pa.table({"s": pa.array(WORDS)}))
        oid = client.put(dual)
    meta = client.get_meta(oid)
    assert meta.copied + meta.gathered == 0
    assert client.get(oid)["s"].to_pylist() == WORDS
    assert client.get(oid, as_="polars")["s"].to_list() == WORDS


def test_sealed_for_good_the_text_is_stored_once(client: Client) -> None:
    table = pa.table({"s": WORDS})
    meta = client.get_meta(client.put(dual_strings(table), seal="strict"))
    assert meta.copied == pytest.approx(table.nbytes + 16 * N, abs=64)
    assert client.status().memory_used < table.nbytes + 16 * N + (64 << 10)
    (text,) = text_buffers(client.get(meta.id))
    seen = client.get(meta.id, as_="polars").to_arrow(compat_level=pl.CompatLevel.newest())
    assert [b.address for b in text_buffers(seen)] == [text.address]
    assert client.get(meta.id).equals(table)


def test_views_that_make_no_sense(client: Client) -> None:
    table = pa.table({"s": WORDS})
    for name, begin, index in (("0", 0, 5), ("0", 1, 1), ("7", 0, 1), ("x", 0, 1)):
        views = table.slice(begin).rename_columns([name])
        parts = [
            Part("vineyard.table", table.schema, table.to_batches(), {"views": index}),
            Part(strings.VIEWS, views.schema, views.to_batches()),
        ]
        stored, _ = store(parts)
        assert stored.resolve().equals(table)
        with pytest.raises(InvalidObjectError, match="make no sense"):
            stored.resolve(as_="polars")


def test_short_chunks_and_dictionaries_beside(client: Client) -> None:
    pieces = [WORDS[i : i + 7] for i in range(0, 70, 7)]
    table = pa.table(
        {
            "s": pa.chunked_array(pieces),
            "d": pa.chunked_array([pa.array(p).dictionary_encode() for p in pieces]),
            "nested": pa.chunked_array([[[w] for w in p] for p in pieces]),
        }
    ).unify_dictionaries()
    oid = client.put(dual_strings(table))
    assert_same(table, client.get(oid))
    assert_same(pl.from_arrow(table), client.get(oid, as_="polars"))


def test_private_and_copied_memory(client: Client) -> None:
    oid = client.put(dual_strings(pa.table({"s": WORDS})))
    for mode in ("cow", "copy"):
        assert client.get(oid, mode=mode, as_="polars")["s"].to_list() == WORDS
        assert client.get(oid, mode=mode)["s"].to_pylist() == WORDS


def test_every_way_to_get_it(client: Client) -> None:
    table = pa.table({"s": WORDS})
    oid = client.put({"deep": [dual_strings(table)]})
    assert_same(table, client.get(oid)["deep"][0])
    oid = client.put(dual_strings(table))
    assert client.get(oid, as_=pl.LazyFrame).collect()["s"].to_list() == WORDS
    assert client.get(oid, as_="duckdb").count("s").fetchall() == [(N,)]
    assert client.get(client.shallow_copy(oid), as_="polars")["s"].to_list() == WORDS
    assert client.get_object(oid).to_reader().read_all().equals(table)


def test_another_process_reads_both(client: Client) -> None:
    client.put(dual_strings(pa.table({"s": WORDS})), name="words")
    code = """
import sys, pyarrow as pa
from vineyard_arrow.client import connect
client = connect(sys.argv[1], autostart=False)
frame, table = client.get("words", as_="polars"), client.get("words")
assert frame["s"].to_list() == table["s"].to_pylist()
assert table.schema.field("s").type == pa.string()
print(frame.height)
"""
    assert run_other_process(client, code).strip() == str(N)


def test_text_beyond_the_reach_of_views_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strings, "_MAX_TEXT_NBYTES", 50_000)
    table = pa.table({"s": pa.array(WORDS, pa.large_string()), "n": range(N)})
    stored, _ = store(encode(dual_strings(table)))
    back = stored.resolve()
    assert back.equals(table)
    assert back["s"].num_chunks > 4
    assert stored.resolve(as_="polars").equals(pl.from_arrow(table))
    with pytest.raises(InvalidObjectError, match="as a table or a chunked array"):
        encode(dual_strings(table["s"].chunk(0)))
    monkeypatch.setattr(strings, "_MAX_TEXT_NBYTES", 10)
    with pytest.raises(InvalidObjectError, match="has no view"):
        encode(dual_strings(table))


def test_without_strings_nothing_is_added() -> None:
    table = pa.table({"a": [1], "v": pa.array(["x"], pa.string_view())})
    assert [part.typename for part in encode(dual_strings(table))] == ["vineyard.table"]
    assert_same(table, roundtrip(dual_strings(table)))


def test_what_has_no_strings_of_arrows_is_refused() -> None:
    for value in (pl.DataFrame({"s": ["x"]}), ["x"], None):
        with pytest.raises(InvalidObjectError, match="dual_strings takes"):
            dual_strings(value)
    assert "Table" in repr(vineyard_arrow.dual_strings(pa.table({})))

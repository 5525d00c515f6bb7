"""Registries: chains, contexts, other forms, entry points, and the errors they give."""

from __future__ import annotations

import asyncio
import contextvars
import shutil
import subprocess
import sys
import threading
import venv
from collections.abc import Callable
from pathlib import Path
from site import getsitepackages
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from types_harness import assert_same, encode, lies_within, store

import vineyard_arrow
from vineyard_arrow import Encoder, Part, Registry, StoredObject, StoredPart, plugins
from vineyard_arrow.client import Client
from vineyard_arrow.contexts import builder_context, current_registry, resolver_context
from vineyard_arrow.errors import (
    BuilderNotFoundError,
    InvalidObjectError,
    ResolverNotFoundError,
)
from vineyard_arrow.registry import _name, builtin_registry, default_registry


class Basket:
    """A class that nobody but the tests knows."""

    def __init__(self, owner: str, items: list[int]) -> None:
        self.owner = owner
        self.items = items


class Hamper(Basket):
    """One that is found by its base."""


BASKET = "shop.basket"


def build_basket(basket: Basket, encoder: Encoder) -> Part:
    table = pa.table({"item": basket.items})
    return Part(BASKET, table.schema, table.to_batches(), {"owner": basket.owner})


def resolve_basket(part: StoredPart, stored: StoredObject) -> Basket:
    return Basket(part.params["owner"], part.table["item"].to_pylist())


@pytest.fixture
def shop() -> Registry:
    """A site's registry."""
    registry = Registry()
    registry.builder(Basket)(build_basket)
    registry.resolver(BASKET)(resolve_basket)
    return registry


@pytest.fixture
def fresh_default(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """What a test registers by default goes with it."""
    for name in ("_builders", "_resolvers", "_forms"):
        monkeypatch.setattr(default_registry, name, {})
    yield default_registry
    monkeypatch.undo()
    Registry().builder()(build_basket)  # a change: nothing found so far holds


def kind_of(value: Any, registry: Registry) -> str:
    encoder = Encoder(current_registry(registry))
    encoder.add(value)
    return encoder.parts[0].typename


# ---- chains


def test_a_registry_adds_to_its_parents_without_copying(shop: Registry) -> None:
    child = Registry(shop)
    assert kind_of(Basket("ann", [1]), child) == BASKET
    assert kind_of(Hamper("ann", [1]), child) == BASKET
    assert kind_of(pa.table({}), child) == "vineyard.table"
    assert kind_of(Basket("ann", [1]), default_registry) == "vineyard.pickle"

    @shop.builder(Hamper)
    def build_hamper(hamper: Hamper, encoder: Encoder) -> Part:
        return Part("shop.hamper", pa.schema([]), [])

    assert kind_of(Hamper("ann", [1]), child) == "shop.hamper"
    assert kind_of(Basket("ann", [1]), child) == BASKET


def test_a_nearer_class_wins_over_a_nearer_registry(shop: Registry) -> None:
    child = Registry(shop)
    shop.builder(Hamper)(lambda v, e: Part("shop.hamper", pa.schema([]), []))
    child.builder(Basket)(lambda v, e: Part("child.basket", pa.schema([]), []))
    assert kind_of(Hamper("ann", []), child) == "shop.hamper"
    assert kind_of(Basket("ann", []), child) == "child.basket"
    assert kind_of(Basket("ann", []), shop) == BASKET


def test_ours_loaded_late_do_not_replace_a_programs_own() -> None:
    code = """
import polars, vineyard_arrow as va
from vineyard_arrow.registry import default_registry

@va.builder(polars.DataFrame)
def build(frame, encoder):
    raise NotImplementedError

@va.resolver("vineyard.polars.frame")
def resolve(part, stored):
    raise NotImplementedError

assert default_registry.builder_for(polars.Series([1])) is not build
assert default_registry.builder_for(polars.DataFrame()) is build
assert default_registry.resolver_for("vineyard.polars.frame") is resolve
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=150)


def test_clients_have_registries_of_their_own(daemon: Any, shop: Registry) -> None:
    with daemon.connect(registry=shop) as ours, daemon.connect() as other:
        oid = ours.put({"of": [Basket("ann", [1, 2])]})
        assert BASKET in [part.typename for part in ours.get_meta(oid).parts]
        assert ours.get(oid)["of"][0].items == [1, 2]
        oid = ours.put(Basket("ann", [1, 2]))
        assert ours.get_meta(oid).typename == BASKET
        assert ours.get(oid).items == [1, 2]
        with pytest.raises(ResolverNotFoundError, match=BASKET):
            other.get(oid)


def test_names_are_reachable_and_nothing_else(fresh_default: Registry) -> None:
    for name in vineyard_arrow.__all__:
        assert getattr(vineyard_arrow, name) is not None
    with pytest.raises(AttributeError, match="bilder"):
        _ = vineyard_arrow.bilder
    vineyard_arrow.builder(Basket)(build_basket)
    vineyard_arrow.resolver(BASKET)(resolve_basket)
    assert store(encode(Basket("bo", [3])))[0].resolve().owner == "bo"


def test_a_builder_that_returns_no_part_is_told() -> None:
    with (
        builder_context({Basket: lambda value, encoder: value.items}),
        pytest.raises(InvalidObjectError, match=r"Basket returned a builtins\.list"),
    ):
        kind_of(Basket("ann", []), default_registry)


# ---- contexts


def test_contexts_nest_and_end(client: Client) -> None:
    basket = Basket("ann", [1])
    with builder_context({Basket: build_basket}), resolver_context({BASKET: resolve_basket}):
        oid = client.put(basket)
        assert client.get(oid).owner == "ann"
        with resolver_context({BASKET: lambda part, stored: part.params}) as inner:
            assert client.get(oid) == {"owner": "ann"}
            inner.resolver(BASKET)(lambda part, stored: "later")
            assert client.get(oid) == "later"
            with builder_context() as innermost:
                innermost.builder(Basket)(lambda v, e: Part("innermost", pa.schema([]), []))
                assert client.get_meta(client.put(basket)).typename == "innermost"
            assert client.get_meta(client.put(basket)).typename == BASKET
        assert client.get(oid).owner == "ann"
    assert kind_of(basket, default_registry) == "vineyard.pickle"
    with pytest.raises(ResolverNotFoundError):
        client.get(oid)


def test_a_context_ends_with_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), builder_context({Basket: build_basket}):
        _ = 1 / 0
    assert current_registry(default_registry) is default_registry


def test_a_context_comes_before_a_clients_own(shop: Registry) -> None:
    with builder_context({Basket: lambda v, e: Part("nearer", pa.schema([]), [])}):
        assert kind_of(Basket("ann", []), shop) == "nearer"
        assert kind_of(pa.table({}), shop) == "vineyard.table"
    assert kind_of(Basket("ann", []), shop) == BASKET


def test_a_context_reaches_nested_values() -> None:
    with builder_context({Basket: build_basket}), resolver_context({BASKET: resolve_basket}):
        encoder = Encoder(current_registry(default_registry))
        encoder.add([Basket("ann", [1]), {"x": Basket("bo", [])}])
        assert [part.typename for part in encoder.parts].count(BASKET) == 2


def test_contexts_are_of_their_thread_and_task() -> None:
    def kinds() -> str:
        return kind_of(Basket("ann", []), default_registry)

    async def task(own: bool, here: asyncio.Barrier) -> str:
        if not own:
            await here.wait()
            return kinds()
        with builder_context({Basket: build_basket}):
            await here.wait()
            return kinds()

    async def both() -> list[str]:
        here = asyncio.Barrier(2)
        return await asyncio.gather(task(True, here), task(False, here))

    assert asyncio.run(both()) == [BASKET, "vineyard.pickle"]
    seen: list[str] = []
    with builder_context({Basket: build_basket}):
        inherited = contextvars.copy_context()
        threads = [
            threading.Thread(target=lambda: seen.append(kinds())),
            threading.Thread(target=lambda: seen.append(inherited.run(kinds))),
        ]
        for thread in threads:
            thread.start()
            thread.join()
    assert seen == ["vineyard.pickle", BASKET]


# ---- other forms

TABLE = pa.table({"a": [1, 2, 3], "f": [0.5, 1.5, 2.5]})
FRAMES: dict[str, Callable[[], Any]] = {
    "table": lambda: TABLE,
    "batch": lambda: TABLE.to_batches()[0],
    "reader": TABLE.to_reader,
    "pandas": lambda: TABLE.to_pandas(),
    "polars": lambda: pl.DataFrame({"a": [1, 2, 3], "f": [0.5, 1.5, 2.5]}),
}
COLUMNS: dict[str, Callable[[], Any]] = {
    "array": lambda: pa.array([1.0, 2.0]),
    "chunked": lambda: pa.chunked_array([[1.0], [2.0]]),
    "numpy": lambda: np.array([1.0, 2.0]),
    "pandas": lambda: pd.Series([1.0, 2.0], name="x"),
    "index": lambda: pd.Index([1.0, 2.0]),
    "masked": lambda: pd.array([1.0, 2.0], dtype="Float64"),
    "polars": lambda: pl.Series("x", [1.0, 2.0]),
}


def form(value: Any, as_: Any, writable: bool = False) -> Any:
    return store(encode(value), writable)[0].resolve(as_=as_)


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_in_every_form(kind: str) -> None:
    make = FRAMES[kind]
    for as_, type_, rows in [
        (pa.Table, pa.Table, lambda v: v.to_pylist()),
        (pa.RecordBatchReader, pa.RecordBatchReader, lambda v: v.read_all().to_pylist()),
        (pl.DataFrame, pl.DataFrame, lambda v: v.to_dicts()),
        ("polars", pl.DataFrame, lambda v: v.to_dicts()),
        (pd.DataFrame, pd.DataFrame, lambda v: v.to_dict("records")),
        ("pandas", pd.DataFrame, lambda v: v.to_dict("records")),
        ("duckdb", duckdb.DuckDBPyRelation, lambda v: v.to_arrow_table().to_pylist()),
    ]:
        value = form(make(), as_)
        assert isinstance(value, type_)
        assert rows(value) == TABLE.to_pylist()


@pytest.mark.parametrize("kind", COLUMNS)
def test_columns_in_every_form(kind: str) -> None:
    make = COLUMNS[kind]
    for as_, type_ in [
        (pa.ChunkedArray, pa.ChunkedArray),
        (pa.Array, pa.Array),
        ("numpy", np.ndarray),
        (np.ndarray, np.ndarray),
        (pl.Series, pl.Series),
        ("polars", pl.Series),
        (pd.Series, pd.Series),
    ]:
        value = form(make(), as_)
        assert isinstance(value, type_)
        assert list(value.to_pylist() if hasattr(value, "to_pylist") else value) == [1.0, 2.0]


@pytest.mark.parametrize("make", [*FRAMES.values(), *COLUMNS.values()])
def test_what_is_asked_for_as_it_was_put_comes_so(make: Callable[[], Any]) -> None:
    library = type(make()).__module__.partition(".")[0]
    library = "arrow" if library == "pyarrow" else library
    for as_ in (type(make()), library):
        back = form(make(), as_)
        if isinstance(back, pa.RecordBatchReader):
            assert back.read_all().equals(TABLE)
        else:
            assert_same(make(), back)


def test_forms_of_tensors_and_blobs() -> None:
    array = np.arange(6.0).reshape(2, 3)
    assert form(array, "arrow").to_numpy().tolist() == array.tolist()
    assert form(array, np.ndarray).shape == (2, 3)
    assert form(array[0], "arrow").equals(pa.array([0.0, 1.0, 2.0]))
    with pytest.raises(InvalidObjectError, match=r"\(2, 3\) is no column"):
        form(array, pl.Series)
    with pytest.raises(InvalidObjectError, match="no tensors of datetime64"):
        form(np.zeros((2, 2), "M8[s]"), "arrow")
    assert form(pa.py_buffer(b"ab"), "numpy").tolist() == [97, 98]
    column = form(pa.array([1, None]), "numpy")
    assert column[0] == 1
    assert np.isnan(column[1])


def test_private_memory_gives_writable_arrays() -> None:
    for make in (*COLUMNS.values(), FRAMES["pandas"], lambda: pa.py_buffer(b"ab")):
        assert form(make(), "numpy", writable=True).flags.writeable


def address_of(value: Any) -> int:
    if isinstance(value, pd.Series):
        value = pa.array(value)
    if isinstance(value, pl.Series):
        value = value.to_numpy()
    if isinstance(value, np.ndarray):
        return int(value.__array_interface__["data"][0])
    column = value.chunk(0) if isinstance(value, pa.ChunkedArray) else value
    return int(column.buffers()[1].address)


@pytest.mark.parametrize("as_", [pa.ChunkedArray, pa.Array, "numpy", "pandas", "polars"])
@pytest.mark.parametrize("kind", ["array", "numpy", "pandas", "polars"])
def test_numbers_are_not_copied(kind: str, as_: Any) -> None:
    values = np.arange(10_000.0)  # fewer are kept in the description of a pandas series
    make = {"array": pa.array, "numpy": np.array, "pandas": pd.Series, "polars": pl.Series}[kind]
    stored, buffers = store(encode(make(values)))
    assert lies_within(address_of(stored.resolve(as_=as_)), buffers)


def test_a_table_as_pandas_and_polars_is_not_copied() -> None:
    stored, buffers = store(encode(TABLE))
    for as_ in (pd.DataFrame, pl.DataFrame):
        assert lies_within(address_of(stored.resolve(as_=as_)["f"]), buffers)


def test_a_relation_as_what_a_table_can_be() -> None:
    relation = duckdb.sql("SELECT 'b'::ENUM('a', 'b') AS e, '101'::BIT AS b, 1 AS i")
    for as_, type_ in (("arrow", pa.Table), ("polars", pl.DataFrame), ("pandas", pd.DataFrame)):
        value = form(relation, as_)
        assert isinstance(value, type_)
        assert pa.table(value).to_pylist() == [{"e": "b", "b": "101", "i": 1}]


@pytest.mark.parametrize("chunks", [1, 2])
def test_pandas_works_on_texts_of_polars(chunks: int) -> None:
    words = pl.DataFrame({"s": ["b", None, "a"], "i": [1, 2, 3]}).with_columns(
        c=pl.col("s").cast(pl.Categorical), e=pl.col("s").cast(pl.Enum(["a", "b"]))
    )
    frame = form(pl.concat([words] * chunks, rechunk=False), "pandas")
    assert frame.columns.tolist() == ["s", "i", "c", "e"]
    assert frame.sort_values("s")["i"].tolist()[:chunks] == [3] * chunks
    for name in ("s", "c", "e"):
        assert (frame[name] == "a").sum() == chunks
        assert frame[name].isna().sum() == chunks
    assert frame["e"].dtype.pyarrow_dtype.ordered
    series = form(words["s"], "pandas")
    assert series.str.upper().dropna().tolist() == ["B", "A"]


def test_an_index_is_not_lost() -> None:
    frame = pd.DataFrame({"a": [1]}, index=pd.Index(["x"], name="key"))
    assert form(frame, "polars").to_dicts() == [{"a": 1, "key": "x"}]


def test_what_arrow_cannot_say_is_told() -> None:
    with pytest.raises(InvalidObjectError, match=r"no type for .* column a"):
        form(pd.DataFrame({"a": [1, "x", object]}), "polars")
    with pytest.raises(InvalidObjectError, match=r"columns of this .*: 'z'"):
        form(pl.DataFrame({"z": pl.Series([1], dtype=pl.Int128)}), pa.Table)


def test_a_type_that_can_be_had_as_a_table_can_be_had_as_what_a_table_can(shop: Registry) -> None:
    shop.resolver(BASKET, as_=pa.Table)(lambda part, stored: part.table)
    encoder = Encoder(shop)
    encoder.add(Basket("ann", [1, 2]))
    parts = [
        StoredPart(p.typename, p.params, pa.Table.from_batches(p.batches)) for p in encoder.parts
    ]
    stored = StoredObject(parts, shop)
    assert stored.resolve(as_="polars")["item"].to_list() == [1, 2]
    assert stored.resolve(as_=Basket).owner == "ann"
    shop.resolver(BASKET, as_=list)(lambda part, stored: part.table["item"].to_pylist())
    assert stored.resolve(as_=list) == [1, 2]
    with pytest.raises(ResolverNotFoundError) as caught:
        stored.resolve(as_=dict)
    assert BASKET in str(caught.value)
    for name in ("builtins.dict", "Basket (as stored)", "builtins.list", "polars.DataFrame"):
        assert name in str(caught.value)


def test_a_form_that_there_is_not_says_what_there_is(client: Client) -> None:
    table = client.put(pa.table({"a": [1]}))
    with pytest.raises(ResolverNotFoundError) as caught:
        client.get(table, as_="numpy")
    said = "'arrow', 'duckdb', 'pandas', 'polars', pyarrow.Table (as stored)"
    assert said in str(caught.value)
    assert "a column can be had as numpy, and integrations.torch.Dataset" in str(caught.value)
    for word in ("arrow", "duckdb", "pandas", "polars"):
        assert client.get(table, as_=word) is not None


def test_a_type_is_called_as_the_package_that_has_it_says() -> None:
    from vineyard_arrow.graph import Graph

    assert _name(Graph) == "vineyard_arrow.graph.Graph"
    assert [_name(t) for t in (pa.Table, pl.DataFrame, dict, Basket)] == [
        "pyarrow.Table",
        "polars.DataFrame",
        "builtins.dict",
        f"{__name__}.Basket",
    ]


def test_get_takes_a_form_or_a_resolver(client: Client) -> None:
    oid = client.put(TABLE)
    assert isinstance(client.get(oid, as_="polars"), pl.DataFrame)
    assert client.get(oid, resolver=lambda part, stored: part.table.num_rows) == 3
    array = client.get(client.put(np.arange(3.0)), as_=pa.Array)
    assert array.to_pylist() == [0.0, 1.0, 2.0]
    with pytest.raises(InvalidObjectError, match="not both"):
        client.get(oid, as_="polars", resolver=resolve_basket)
    with pytest.raises(InvalidObjectError, match="neither a type nor"):
        client.get(oid, as_=3)
    with pytest.raises(ResolverNotFoundError, match=r"'vineyard.table' as 'numpy'.*polars"):
        client.get(oid, as_="numpy")
    with pytest.raises(ResolverNotFoundError, match="as 'nowhere'"):
        client.get(oid, as_="nowhere")


# ---- errors


def test_a_missing_resolver_names_the_nearest_and_the_package(shop: Registry) -> None:
    with pytest.raises(ResolverNotFoundError) as caught:
        shop.resolver_for("shop.baskte")
    assert "'shop.baskte'" in caught.value.message
    assert "'shop.basket'" in caught.value.hint
    assert "perhaps 'shop'" in caught.value.hint
    with pytest.raises(ResolverNotFoundError, match=r"'vineyard.table'.*another release"):
        builtin_registry.resolver_for("vineyard.tabel")


def test_a_missing_builder_is_named_with_the_nearest(shop: Registry) -> None:
    class Baskets:
        def __reduce__(self) -> Any:
            raise TypeError("never")

    encoder = Encoder(shop)
    with pytest.raises(BuilderNotFoundError, match=r"Baskets cannot be stored: never") as caught:
        encoder.add(Baskets())
    assert "register a builder" in caught.value.hint
    nearest = caught.value.hint.partition("nearest with a builder: ")[2]
    assert f"{__name__}.Basket" in nearest.split(", ")  # and what other tests have
    with pytest.raises(BuilderNotFoundError, match=r"value\[0\]: .*Baskets cannot be stored"):
        encoder.add([np.array([Baskets()], dtype=object)])
    assert isinstance(caught.value, (TypeError, ValueError))


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    monkeypatch.delitem(sys.modules, "vineyard_arrow.types.duckdb", raising=False)
    with pytest.raises(ResolverNotFoundError, match=r"duckdb is needed.*pip install duckdb"):
        form(TABLE, "duckdb")
    monkeypatch.setitem(sys.modules, "pandas.api.internals", None)
    monkeypatch.delitem(sys.modules, "vineyard_arrow.types.pandas", raising=False)
    with pytest.raises(ResolverNotFoundError) as caught:
        form(TABLE, "pandas")
    assert caught.value.hint == "pip install pandas"


# ---- entry points

PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "va-test-types"
version = "1"
[tool.setuptools]
packages = ["va_test_types"]
[project.entry-points."vineyard_arrow.types"]
stack = "va_test_types.by_module"
pair = "va_test_types.by_call:register"
broken = "va_test_types.broken"
"""
MODULES = {
    "__init__": """
class Stack:
    def __init__(self, items): self.items = items
    def __reduce__(self): raise TypeError("not by pickle")

class Pair(Stack): pass
""",
    "by_module": """
import pyarrow as pa
from va_test_types import Stack
from vineyard_arrow import Part, builder, resolver

@builder(Stack)
def build(value, encoder):
    table = pa.table({"items": value.items})
    return Part("va_test_types.stack", table.schema, table.to_batches())

@resolver("va_test_types.stack")
def resolve(part, stored):
    return Stack(part.table["items"].to_pylist())
""",
    "by_call": """
import pyarrow as pa
from va_test_types import Pair
from vineyard_arrow import Part

def register(registry):
    @registry.builder(Pair)
    def build(value, encoder):
        first, second = map(encoder.add, value.items)
        return Part("va_test_types.pair", pa.schema([]), [], {"of": [first, second]})

    @registry.resolver("va_test_types.pair")
    def resolve(part, stored):
        return Pair([stored.resolve(i) for i in part.params["of"]])
""",
    "broken": "raise RuntimeError('out of order')\n",
}
WRITE = """
import sys, warnings
warnings.simplefilter("ignore")
import pyarrow as pa, va_test_types as v
from vineyard_arrow.client import connect
client = connect(sys.argv[1], autostart=False)
client.put(pa.table({"a": [1]}), name="t")
client.put([1, {"a": b"b"}], name="l")
assert "va_test_types.by_module" not in sys.modules and "importlib.metadata" not in sys.modules
client.put(v.Stack([1, 2]), name="stack")
client.put(v.Pair([v.Stack([3]), "x"]), name="pair")
"""
READ = """
import sys, warnings
from vineyard_arrow.client import connect
client = connect(sys.argv[1], autostart=False)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    stack, pair = client.get("stack"), client.get("pair")
assert type(stack).__name__ == "Stack" and stack.items == [1, 2]
assert type(pair).__name__ == "Pair" and pair.items[1] == "x" and pair.items[0].items == [3]
print([str(w.message) for w in caught])
"""


def scratch_environment(folder: Path) -> Path:
    """The interpreter of a fresh environment that also sees what this one has."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    seen = [str(Path(vineyard_arrow.__file__).parents[1]), *getsitepackages()]
    (site / "seen.pth").write_text("\n".join(seen))
    return folder / "bin" / "python"


def run(python: Path, code: str, *arguments: str) -> str:
    done = subprocess.run(
        [python, "-c", code, *arguments], capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_package_registers_by_entry_points(daemon: Any, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "va_test_types").mkdir(parents=True)
    (source / "pyproject.toml").write_text(PYPROJECT)
    for name, text in MODULES.items():
        (source / "va_test_types" / f"{name}.py").write_text(text)
    python = scratch_environment(tmp_path / "scratch")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    options = ["--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, *options, source], check=True, timeout=150, capture_output=True)
    shutil.rmtree(source)  # it is installed, not looked at
    socket = str(daemon.socket)
    run(python, WRITE, socket)
    warned = run(python, READ, socket)
    assert "'broken'" in warned
    assert "out of order" in warned
    assert warned.count("skipped") == 1
    with daemon.connect() as here, pytest.raises(ResolverNotFoundError, match="va_test_types"):
        here.get("stack")  # this environment has no such package


def test_a_plugin_may_look_something_up_as_it_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    class Entry:
        name, value = "self", "here"

        def load(self) -> Any:
            loaded.append(default_registry.builder_for(Basket("ann", [])))

    monkeypatch.setattr(plugins, "_states", {})
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [Entry()])
    with pytest.raises(ResolverNotFoundError):
        default_registry.resolver_for("nobody.knows")
    with pytest.raises(ResolverNotFoundError):
        default_registry.resolver_for("nobody.knows")
    assert len(loaded) == 1

"""Shared classes: round trips, memory, layout, checks, evolution, hostile objects."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import shared_classes as examples
from conftest import Daemon
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from shared_classes import Base, Derived, Leaf, Nest, Plain
from types_harness import (
    check_in_other_process,
    encode,
    place_of,
    roundtrip,
    run_other_process,
    store,
    typenames,
)

from vineyard_arrow import ObjectID, Part, ResolverNotFoundError, shared
from vineyard_arrow.client import Client
from vineyard_arrow.codegen.model import PART, text_of
from vineyard_arrow.errors import AnnotationError, InvalidObjectError, ObjectNotFoundError
from vineyard_arrow.registry import Encoder, default_registry
from vineyard_arrow.types.pickling import pickle_part
from vineyard_arrow.types.shared import SharedType, shared_class
from vineyard_arrow.types.shared_parts import widens

LARGE = 100_000  # bytes and more: not gathered with others by a put
MADE = "test.made"


def make(*fields: Any, version: int = 1, typename: str = MADE, name: str = "Made") -> Any:
    """A shared class by the name of the last one made, as if its module had been edited."""
    cls = dataclasses.make_dataclass(name, fields, namespace={"__module__": __name__})
    return shared(typename=typename, version=version)(cls)


def of(hint: Any, value: Any) -> Any:
    """An object of a class that has one field."""
    return make(("x", hint))(value)


# ---- round trips


@pytest.mark.parametrize(("name", "value"), examples.VALUES, ids=[n for n, _ in examples.VALUES])
@pytest.mark.parametrize("writable", [False, True])
def test_comes_back_as_it_was(name: str, value: Callable[[], Any], writable: bool) -> None:
    examples.assert_same(value(), roundtrip(value(), writable))
    assert "vineyard.pickle" not in typenames(value())


def test_is_got_in_another_process(client: Client) -> None:
    check_in_other_process(client, "shared_classes")


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        Plain,
        count=st.integers(-(2**63), 2**63 - 1),
        small=st.integers(-128, 127),
        large=st.integers(0, 2**64 - 1),
        instant=st.datetimes(dt.datetime(1900, 1, 2), timezones=st.just(dt.UTC)),
        clock=st.times(),
        span=st.timedeltas(dt.timedelta(days=-(10**8)), dt.timedelta(days=10**8)),
        moment=st.datetimes(),
        text=st.text(),
        share=st.floats(allow_nan=False),
        pair=st.tuples(st.integers(-9, 9), st.text()),
        maybe=st.none() | st.integers(-(2**63), 2**63 - 1),
    )
)
def test_any_plain_values(value: Plain) -> None:
    back = roundtrip(value)
    assert back == value
    assert all(
        type(getattr(back, f.name)) is type(getattr(value, f.name))
        for f in dataclasses.fields(value)
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.dictionaries(st.text(), st.lists(st.none() | st.tuples(st.booleans(), st.text()))))
)
def test_any_nest_of_plain_values(value: Any) -> None:
    assert roundtrip(of(list[dict[str, list[tuple[bool, str] | None]]], value)).x == value


def test_a_get_calls_the_class() -> None:
    @shared(typename="test.called")
    @dataclass
    class Called:
        a: int
        double: int = field(default=0, init=False)

        def __post_init__(self) -> None:
            self.double = 2 * self.a

    value = Called(4)
    value.double = 7
    assert roundtrip(value).double == 8


def test_a_derived_object_stays_one() -> None:
    back = roundtrip(Nest("n", Leaf(), Derived(1, named="x", length=2.0)))
    assert type(back.base) is Derived
    assert back.base == Derived(1, named="x", length=2.0)


def test_a_derived_class_that_is_not_shared_is_refused() -> None:
    class Bare(Base):
        pass

    with pytest.raises(
        InvalidObjectError, match=r"Bare is not stored as the Base .*@vineyard_arrow"
    ):
        encode(Bare(1))


def test_classes_refer_to_later_ones_and_to_themselves() -> None:
    assert shared_class(Nest).model.fields[-2].name == "below"
    nested = roundtrip(Nest("a", Leaf(), Base(1), below=[Nest("b", Leaf(), Base(2))]))
    assert nested.below[0].name == "b"


@shared(typename="test.dangling")
@dataclass
class Dangling:
    x: NowhereToBeFound  # noqa: F821


def test_a_name_that_is_never_defined_is_told_at_the_first_use() -> None:
    with pytest.raises(AnnotationError, match=r"Dangling.*'NowhereToBeFound' is not defined"):
        encode(Dangling(1))


def test_forms() -> None:
    value = examples.leaf()
    stored, _ = store(encode(value))
    assert stored.resolve(0, Leaf) == value
    with pytest.raises(ResolverNotFoundError, match=r"no resolver gives 'test.leaf' as 'polars'"):
        stored.resolve(0, "polars")


# ---- memory


def address_of(array: Any) -> int:
    if isinstance(array, np.ndarray):
        return int(array.__array_interface__["data"][0])
    return int(array.buffers()[1].address)


@shared(typename="test.memory")
@dataclass
class Memory:
    array: NDArray[np.float64]
    column: pa.Array
    table: pa.Table
    nested: list[Memory]


def payload(memory: Memory) -> list[int]:
    own = [memory.array, memory.column, memory.table.column("t").chunk(0)]
    return [*map(address_of, own), *(a for m in memory.nested for a in payload(m))]


def test_payload_is_shared_both_ways(client: Client) -> None:
    with client.memory_pool:  # what is built in the store ...
        column, other = (pa.array(range(i, LARGE)) for i in (0, 1))
    table = pa.table({"t": column})
    inner = Memory(np.frombuffer(other.buffers()[1]), other, pa.table({"t": other}), [])
    oid = client.put(Memory(np.frombuffer(column.buffers()[1]), column, table, [inner]))
    meta = client.get_meta(oid)
    assert meta.copied == 0  # ... is taken as it lies,
    assert meta.gathered < 1000
    got = client.get(oid)
    assert {place_of(client, address) for address in payload(got)} == {"store"}
    assert not got.array.flags.writeable
    again = client.put(Memory(got.array, got.column, got.table, got.nested))
    assert client.get_meta(again).copied == 0  # and so is what was got.
    assert payload(client.get(again)) == payload(got)
    assert client.get(oid, mode="cow").array.flags.writeable


def test_params_do_not_differ_from_object_to_object() -> None:
    first, second = encode(examples.nest()), encode(Nest("x", Leaf(), Base(1)))
    assert first[0].params == second[0].params == {}
    assert first[0].schema.equals(second[0].schema, check_metadata=True)


# ---- the layout


def test_layout_is_seen_without_our_types(client: Client) -> None:
    value = examples.nest()
    client.put(value, name="nest")
    code = """
import json, sys, pyarrow as pa
from vineyard_arrow.client import connect
client = connect(sys.argv[1], autostart=False)
table = client.get("nest", resolver=lambda part, stored: part.table)
print(json.dumps([str(table.schema.field(0).type), table.column(0).to_pylist()[0],
    {k.decode(): v.decode() for k, v in table.schema.field(0).metadata.items()},
    [part.typename for part in client.get_meta("nest").parts]]))
"""
    type_, row, metadata, parts = json.loads(run_other_process(client, code))
    assert type_ == str(shared_class(Nest).type.storage_type)
    assert row["name"] == "root"
    assert row["deep"] == [[["a", [1, None]], ["b", []]], []]
    assert parts[row["leaf"]["part"]] == "test.leaf"
    assert parts[row["base"]["part"]] == "test.derived"
    assert [parts[each["part"]] for each in row["leaves"]] == ["test.leaf"] * 3
    assert row["by_name"][1] == ["", None]
    assert metadata["ARROW:extension:name"] == "test.nest"
    described = json.loads(metadata["ARROW:extension:metadata"])
    assert (described["typename"], described["version"]) == ("test.nest", 1)
    assert described["fields"]["leaves"] == "list[test.leaf]"
    assert described["fields"]["deep"] == "list[dict[str, list[int | None]]]"


def test_the_extension_type_is_registered(client: Client) -> None:
    oid = client.put(examples.plain())
    type_ = client.get_meta(oid).schema.field("object").type
    assert isinstance(type_, SharedType)
    assert type_ == shared_class(Plain).type
    assert type_.fields["instant"] == "datetime[timestamp[us, tz=Europe/Berlin]]"
    assert type_.version == 3


def test_storage_types() -> None:
    found = {f.name: (f.type, f.nullable) for f in shared_class(Plain).type.storage_type}
    assert found["count"] == (pa.int64(), False)
    assert found["maybe"] == (pa.int64(), True)
    assert found["large"] == (pa.uint64(), False)
    assert found["color"] == (pa.string(), False)
    assert found["one"][0] == pa.struct([pa.field("0", pa.int64(), nullable=False)])
    assert shared_class(Leaf).type.storage_type == pa.struct([("values", PART)])


def test_is_read_by_a_class_that_was_not_known_when_it_was_mapped() -> None:
    parts = encode(examples.leaf())
    try:
        pa.unregister_extension_type("test.leaf")
        stored, _ = store(parts)
    finally:
        pa.register_extension_type(shared_class(Leaf).type)
    assert pa.types.is_struct(stored.parts[0].table.schema.field(0).type)
    assert stored.resolve() == examples.leaf()


# ---- members by id


def test_a_stored_object_becomes_a_member(daemon: Daemon, client: Client) -> None:
    leaf = client.put(examples.leaf())
    make(("other", Leaf | ObjectID))
    oid = client.put(Nest("n", Leaf(), Base(1), other=leaf))
    assert client.get_meta(oid).members["other"].id == leaf
    assert client.get_object(oid).other.get() == examples.leaf()
    with daemon.connect() as other:
        assert other.get(oid).other == examples.leaf()
    several = make(("others", list[Leaf | ObjectID]))
    oid = client.put(several([leaf, Leaf(), leaf]))
    assert list(client.get_meta(oid).members) == ["others", "others_2"]
    assert client.get(oid).others == [examples.leaf(), Leaf(), examples.leaf()]
    client.delete(leaf, force=True)
    with pytest.raises(ObjectNotFoundError, match=r"'others'.*gone"):
        client.get(oid)


def test_members_are_of_the_class(client: Client) -> None:
    holder = make(("x", Base | ObjectID))
    derived, table = client.put(Derived(1)), client.put(pa.table({"a": [1]}))
    assert client.get(client.put(holder(derived))).x == Derived(1)
    with pytest.raises(InvalidObjectError, match=r"Made.x: found o\w+, a vineyard.table, wanted"):
        client.put(holder(table))
    with pytest.raises(InvalidObjectError, match=r"found .*ObjectID.*declare it Base \| ObjectID"):
        client.put(of(Base, derived))


# ---- values that are not what was declared

Text3 = Annotated[np.ndarray, "U3"]
Three = Annotated[NDArray[np.float64], (None, 3)]
AB = pa.schema([pa.field("a", pa.int64(), nullable=False), pa.field("b", pa.string())])


class Kind(enum.Enum):
    A = 1


@pytest.mark.parametrize(
    ("hint", "value", "found", "hinted"),
    [
        (int, True, "bool, wanted int", ""),
        (int, 1.0, "float", ""),
        (int, 2**63, "9223372036854775808, wanted int", "uint64"),
        (Annotated[int | None, pa.uint8()], 256, r"256, wanted int\[uint8\]", ""),
        (Annotated[int, pa.uint8()], -1, r"-1, wanted int\[uint8\]", ""),
        (bool, 1, "int, wanted bool", ""),
        (float, 2**53 + 1, "int, wanted float", ""),
        (float, "1", "str", ""),
        (str, b"x", "bytes, wanted str", ""),
        (str, None, "None, wanted str", "declare it str | None"),
        (int, np.int64(1), "numpy.int64, wanted int", ".item()"),
        (str, Kind.A, "Kind", ""),
        (str, "\ud800", "cannot be stored|surrogates", ""),
        (Kind, "A", r"str, wanted Kind\[A\]", ""),
        (dt.date, dt.datetime(2026, 1, 1), "datetime, wanted date", ""),
        (dt.datetime, dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "datetime", "with a zone"),
        (
            Annotated[dt.datetime, pa.timestamp("us", "UTC")],
            dt.datetime(2026, 1, 1),
            "datetime",
            "with a zone",
        ),
        (dt.datetime, pd.Timestamp(0), "pandas.Timestamp", ""),
        (dt.timedelta, dt.timedelta.max, "cannot be stored", ""),
        (dt.time, dt.time(1, tzinfo=dt.UTC), "time", "no zone"),
        (list[int], (1, 2), r"tuple of 2, wanted list\[int\]", ""),
        (list[int], [1, "2"], r"str, wanted int", ""),
        (tuple[int, str], (1,), r"tuple of 1, wanted tuple\[int, str\]", ""),
        (dict[str, int], {1: 2}, r"a key of int, wanted dict\[str, int\]", ""),
        (np.ndarray, [1.0], "list of 1, wanted ndarray", ""),
        (np.ndarray, np.array([object()]), "ndarray.object.*numpy.objects", "Arrow has a type"),
        (NDArray[np.float64], np.zeros(2, "f4"), r"float32, \(2,\)\], wanted", "astype"),
        (Three, np.zeros((2, 4)), r"\(2, 4\)\], wanted ndarray\[float64, \(None, 3\)\]", ""),
        (Three, np.zeros(3), r"\(3,\)\]", ""),
        (Three, np.ma.masked_array(np.zeros((1, 3))), "MaskedArray", ""),
        (np.ndarray, pa.array([1]), r"pyarrow.Array\[int64\], wanted ndarray", ""),
        (pa.Array, pa.chunked_array([[1]]), r"ChunkedArray\[int64\], wanted pyarrow.Array", ""),
        (
            Annotated[pa.Array, pa.int32()],
            pa.array([1]),
            r"Array\[int64\], wanted pyarrow.Array\[int32\]",
            "",
        ),
        (pa.Table, pl.DataFrame({"a": [1]}), "polars.DataFrame, wanted pyarrow.Table", ""),
        (pl.DataFrame, pa.table({"a": [1]}), r"Table\[a: int64\], wanted polars.DataFrame", ""),
        (Annotated[pa.Table, AB], pa.table({"a": [1]}), r"\[a: int64\], wanted", "missing: b"),
        (Annotated[pa.Table, AB], pa.table({"b": ["x"], "a": [1]}), "wanted", "another order"),
        (Annotated[pa.Table, AB], pa.table({"a": [1], "b": [2]}), "b: int64.*, wanted", ""),
        (Annotated[pa.Table, AB], pa.table({"a": [None], "b": ["x"]}, AB), "nulls in 'a'", ""),
        (pd.DataFrame, pd.DataFrame({"x": [object()]}), "pandas.*pickled", "Arrow has a type"),
        (Leaf, Base(1), "Base, wanted test.leaf", ""),
        (Leaf | None, 0, "int, wanted test.leaf", ""),
    ],
)
def test_what_is_not_as_declared_is_refused(hint: Any, value: Any, found: str, hinted: str) -> None:
    with pytest.raises(InvalidObjectError, match=rf"Made\.x.*({found})") as raised:
        encode(of(hint, value))
    assert hinted in (raised.value.hint or "")


def test_where_in_a_field() -> None:
    value = of(dict[str, list[tuple[int, Leaf | None]]], {"k": [(1, None), (2, Base(1))]})
    with pytest.raises(InvalidObjectError, match=r"Made\.x\['k'\]\[1\]\[1\]: found Base, wanted"):
        encode(value)


def test_nothing_is_kept_of_what_is_refused(client: Client) -> None:
    with pytest.raises(InvalidObjectError, match=r"Leaf\.values: found ndarray\[float64"):
        client.put([Leaf(np.zeros(LARGE, "i8")), Leaf(np.zeros(LARGE))])
    assert client.status().memory_used == 0


def test_a_value_that_contains_itself_is_refused() -> None:
    value = Nest("n", Leaf(), Base(1))
    value.below.append(value)
    with pytest.raises(InvalidObjectError, match="contains itself"):
        encode(value)


def test_numbers_that_are_exact_pass() -> None:
    assert roundtrip(of(float, 3)).x == 3.0
    assert type(roundtrip(of(float, np.float64(1.5))).x) is float


# ---- annotations that no field can have


Scalar = TypeVar("Scalar", bound=np.generic)


def test_aliases_are_looked_through() -> None:
    # As NumPy's NDArray is one from Python 3.12 on.
    alias_of = pytest.importorskip("typing_extensions").TypeAliasType
    Arrays = alias_of("Arrays", list[np.ndarray[Any, np.dtype[Scalar]]], type_params=(Scalar,))
    Number = alias_of("Number", int)
    made = make(("x", Arrays[np.int8]), ("y", Arrays), ("z", Number))
    types = [text_of(f.type) for f in shared_class(made).model.fields]
    assert types == ["list[ndarray[int8]]", "list[ndarray]", "int"]


def test_details_for_others_are_left_to_them() -> None:
    made = make(("x", Annotated[np.ndarray, None, "f8", 3]), ("y", Annotated[int | None, "km"]))
    types = [text_of(f.type) for f in shared_class(made).model.fields]
    assert types == ["ndarray[float64]", "int | None"]


class Pair(NamedTuple):
    a: int


@pytest.mark.parametrize(
    ("hint", "message", "instead"),
    [
        (Any, "Any cannot be a field", "write the type itself"),
        (list, "list cannot be a field", r"list\[T\]"),
        (set[int], r"set\[int\] cannot be a field", r"list\[T\]"),
        (dict[int, str], r"dict\[int, str\]: keys are str", r"dict\[str, T\]"),
        (int | str, "is several types", r"T \| None"),
        (int | ObjectID, "only objects of a shared class", "leave ObjectID out"),
        (Literal["a"], "Literal", "enum.Enum"),
        (complex, "complex", "complex128"),
        (np.float64, "float64 cannot be a field", "float"),
        (pa.Int64Array, "Int64Array", r"Annotated\[pa.Array, type\]"),
        (pl.LazyFrame, "LazyFrame", "collect"),
        (Pair, "Pair", r"list\[T\]"),
        (enum.Flag("F", ["A"]), "F cannot be a field", "int for flags"),
        (enum.Enum("E", {"A": []}), r"value of E.A is a list", "int or str"),
        (dataclasses.make_dataclass("D", []), "D cannot be a field", "decorate D with"),
        (type("C", (), {}), "C cannot be a field", "dataclass with @vineyard_arrow.shared"),
        (Annotated[pa.Array, AB], "cannot be annotated with", "Annotated.pa.Array, pa.int64"),
        (Annotated[pa.Table, pa.int64()], "cannot be annotated with", "schema"),
        (Annotated[int, pa.string()], "int cannot be stored as string", "pa.int32"),
        (Annotated[dt.datetime, pa.timestamp("ns")], "cannot be stored as", "'us'"),
        (Annotated[str, pa.large_string()], "str cannot be stored as", "leave it out"),
        (Annotated[np.ndarray, object], "arrays of object", "numbers"),
        (Annotated[np.ndarray, "what"], "no dtype", "np.float64"),
        (Annotated[NDArray[np.int8], np.int16], "two dtypes", "one"),
        (Annotated[np.ndarray, str], "no length", "'U16'"),
        (Annotated[np.ndarray, "M8"], "no unit", "'M8"),
        (Annotated[np.ndarray, (1.5,)], "no shape", r"\(None, 3\)"),
        (Annotated[np.ndarray, (2,), (2, 2)], "other dimensions", "one"),
    ],
)
def test_annotations_that_cannot_be(hint: Any, message: str, instead: str) -> None:
    with pytest.raises(AnnotationError, match=rf"(?s)Made\.x: .*{message}.*\(hint: .*{instead}"):
        make(("x", hint))


def test_classes_that_cannot_be() -> None:
    with pytest.raises(AnnotationError, match="int is not a dataclass"):
        shared(int)
    with pytest.raises(AnnotationError, match=r"Bare is not a dataclass.*above @dataclass"):
        shared(type("Bare", (Leaf,), {}))  # only its base is one
    with pytest.raises(AnnotationError, match=r"'vineyard.x' is no typename"):
        make(typename="vineyard.x")
    with pytest.raises(AnnotationError, match="version 0"):
        make(version=0)
    make()
    with pytest.raises(AnnotationError, match=r"'test.made' is the typename of .*Made already"):
        make(name="Other")
    with pytest.raises(AnnotationError, match="'a', which is a field too"):
        make(("a", int), ("b", int, field(metadata={"renamed_from": "a"})))
    with pytest.raises(AnnotationError, match="renamed_from is 3"):
        make(("a", int, field(metadata={"renamed_from": 3})))

    @dataclass
    class WithInitVar:
        a: int
        b: InitVar[int]

    with pytest.raises(AnnotationError, match="takes 'b', which is no field"):
        shared(typename="test.with_init_var")(WithInitVar)

    @dataclass(init=False)
    class WithoutInit:
        a: int

    with pytest.raises(AnnotationError, match="does not take a"):
        shared(typename="test.without_init")(WithoutInit)
    pa.register_extension_type(_Foreign(pa.int8(), "test.foreign"))
    with pytest.raises(InvalidObjectError, match=r"another extension type 'test\.foreign'"):
        make(typename="test.foreign")
    pa.unregister_extension_type("test.foreign")


class _Foreign(pa.ExtensionType):
    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, _: bytes) -> _Foreign:
        return cls(storage, "test.foreign")


def test_the_usual_typename_is_the_path() -> None:
    @shared
    @dataclass
    class Usual:
        a: int = 1

    assert shared_class(Usual).typename == f"{__name__}.{Usual.__qualname__}"
    with pytest.raises(TypeError, match="int is not a shared class"):
        shared_class(int)


# ---- evolution


def written(*fields: Any, version: int = 1, **values: Any) -> list[Part]:
    return encode(make(*fields, version=version)(**values))


def read(parts: list[Part], *fields: Any, version: int = 1) -> Any:
    make(*fields, version=version)
    return store(parts)[0].resolve()


def test_fields_are_added_and_removed() -> None:
    old = written(("a", int), ("gone", list[Leaf]), a=1, gone=[Leaf()])
    new = read(old, ("a", int), ("b", list[str], field(default_factory=list)), version=2)
    assert (new.a, new.b) == (1, [])
    with pytest.raises(InvalidObjectError, match=r"Made\.b: an object of version 1 has no such"):
        read(old, ("b", int), version=2)


def test_fields_are_renamed() -> None:
    renamed = field(metadata={"renamed_from": ("newer", "a")})
    assert read(written(("a", int), a=1), ("b", int, renamed), version=2).b == 1
    assert read(written(("newer", int), newer=1), ("b", int, renamed), version=2).b == 1
    both = written(("b", int), ("a", int), b=1, a=2)  # its own name comes first
    assert read(both, ("b", int, renamed)).b == 1


def test_a_later_version_is_refused() -> None:
    old, new = (written(("a", int), a=v, version=v) for v in (1, 2))
    assert read(old, ("a", int), version=2).a == 1
    with pytest.raises(InvalidObjectError, match=r"a test.made of version 2, and this class is of"):
        read(new, ("a", int), version=1)


def test_objects_remember_their_version(client: Client) -> None:
    oids = [client.put(make(("a", int), version=v)(v)) for v in (1, 2, 3)]
    types = [client.get_meta(oid).schema.field("object").type for oid in oids]
    assert [type_.version for type_ in types] == [1, 2, 3]
    assert [client.get(oid).a for oid in oids] == [1, 2, 3]


@pytest.mark.parametrize(
    ("before", "value", "now", "wanted"),
    [
        (Annotated[int, pa.int8()], 3, int, 3),
        (Annotated[int, pa.uint32()], 3, float, 3.0),
        (int, 3, int | None, 3),
        (int | None, 3, int, 3),
        (list[int], [1], tuple[int, ...], (1,)),
        (list[Annotated[int, pa.int8()]], [1], list[int | None], [1]),
        (Kind, Kind.A, str, "A"),
        (str, "A", Kind, Kind.A),
        (NDArray[np.float32], np.ones(2, "f4"), NDArray[np.float64], np.ones(2)),
        (Text3, np.array(["ab"], "U3"), Annotated[np.ndarray, "U5"], np.array(["ab"], "U5")),
        (np.ndarray, np.ones(2, "c8"), NDArray[np.complex128], np.ones(2, "c16")),
        (np.ndarray, np.ones(2, ">i4"), NDArray[np.float64], np.ones(2)),
        (NDArray[np.uint8], np.ones(2, "u1"), np.ndarray, np.ones(2, "u1")),
        (np.ndarray, np.ones((2, 3)), Three, np.ones((2, 3))),
        (pa.Array, pa.array([1], pa.int8()), Annotated[pa.Array, pa.int32()], pa.array([1], "i4")),
        (pa.Array, pa.array([1]), pa.ChunkedArray, pa.chunked_array([[1]])),
        (pa.RecordBatch, pa.record_batch({"a": [1]}), pa.Table, pa.table({"a": [1]})),
        (
            pa.Table,
            pa.table({"a": pa.array([1], pa.int32()), "b": ["x"]}),
            Annotated[pa.Table, AB],
            pa.table({"a": [1], "b": ["x"]}, AB),
        ),
        (Derived, Derived(1), Base, Derived(1)),
    ],
)
def test_types_are_widened(before: Any, value: Any, now: Any, wanted: Any) -> None:
    found = read(written(("x", before), x=value), ("x", now)).x
    examples.assert_same(wanted, found)


@pytest.mark.parametrize(
    ("before", "value", "now", "message"),
    [
        (int, 3, Annotated[int, pa.int8()], r"found int in .* version 1, wanted int\[int8\]"),
        (int, 3, float, "found int in .*, wanted float"),
        (int, 3, str, "found int in .*, wanted str"),
        (str, "3", int, "found str in .*, wanted int"),
        (str, "B", Kind, r"found 'B' in .*, wanted Kind\[A\]"),
        (int | None, None, int, "found None in .*, wanted int"),
        (list[int | None], [None], list[int], r"Made\.x\[0\]: found None in .*, wanted int"),
        (list[int], [1], dict[str, int], r"found list\[int\] in .*, wanted dict\[str, int\]"),
        (tuple[int, int], (1, 2), tuple[int], r"found tuple\[int, int\] in .*, wanted tuple"),
        (dt.date, dt.date(2026, 1, 1), dt.datetime, "found date in .*, wanted datetime"),
        (int, 1, pa.Table, "found int in .*, wanted pyarrow.Table"),
        (Leaf, Leaf(), int, "found test.leaf in .*, wanted int"),
        (Leaf, Leaf(), Base, "found Leaf in .*, wanted test.base"),
        (Leaf, Leaf(), np.ndarray, "found test.leaf in .*, wanted ndarray"),
        (np.ndarray, np.ones(1), Leaf, "found vineyard.tensor in .*, wanted test.leaf"),
        (np.ndarray, np.ones(1), NDArray[np.float32], r"ndarray\[float64, .*, wanted .*float32"),
        (Annotated[np.ndarray, "U5"], np.array(["abcde"]), Text3, r"ndarray\[<U5, .*<U3"),
        (np.ndarray, np.ones(1, "g"), NDArray[np.float64], "longdouble|float128"),
        (np.ndarray, np.ones(1, "M8[s]"), Annotated[np.ndarray, "M8[ms]"], r"datetime64\[s\]"),
        (np.ndarray, np.ones(1), Three, r"found ndarray\[float64, \(1,\)\] in .*\(None, 3\)"),
        (pa.Array, pa.array([1]), Annotated[pa.Array, pa.int8()], r"Array\[int64\] in .*int8"),
        (pa.ChunkedArray, pa.chunked_array([[1]]), pa.Array, "vineyard.chunked_array in"),
        (pa.Table, pa.table({"a": [1]}), Annotated[pa.Table, AB], r"Table\[a: int64\] in"),
        (pl.DataFrame, pl.DataFrame({"a": [1]}), pd.DataFrame, "vineyard.polars.frame in"),
    ],
)
def test_other_types_are_refused(before: Any, value: Any, now: Any, message: str) -> None:
    with pytest.raises(InvalidObjectError, match=message):
        read(written(("x", before), x=value), ("x", now))


NUMBERS = [
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32()),
    *(pa.uint64(), pa.float16(), pa.float32(), pa.float64()),
]


def extremes(type_: pa.DataType) -> pa.Array:
    """Values of a type of numbers that others have, or only just have not."""
    if pa.types.is_floating(type_):
        info = np.finfo(type_.to_pandas_dtype())
        return pa.array([info.max, info.tiny, np.nextafter(info.dtype.type(1), 2)], type_)
    info = np.iinfo(type_.to_pandas_dtype())
    near = (2**n + d for n in (11, 24, 53) for d in (-1, 0, 1))
    return pa.array([info.min, info.max, *(n for n in near if n <= info.max)], type_)


@pytest.mark.parametrize(("found", "wanted"), list(itertools.product(NUMBERS, NUMBERS)))
def test_widening_is_exact(found: pa.DataType, wanted: pa.DataType) -> None:
    values = extremes(found)
    try:
        exact = [v.as_py() for v in values] == [
            v.as_py() for v in pc.cast(pc.cast(values, wanted), found)
        ] and [int(v.as_py()) for v in values] == [int(v.as_py()) for v in pc.cast(values, wanted)]
    except pa.ArrowInvalid:
        exact = False
    except OverflowError:  # a float that became infinite
        exact = False
    assert widens(found, wanted) == exact


# ---- hostile objects


def hostile(row: dict[str, Any], *parts: Part, cls: Any = None) -> Any:
    """An object whose root says ``row``, read."""
    made = shared_class(cls or Nest)
    root = {f.name: None for f in made.type.storage_type} | row
    column = pa.ExtensionArray.from_storage(made.type, pa.array([root], made.type.storage_type))
    batch = pa.RecordBatch.from_arrays([column], schema=made.schema)
    return store([Part(made.typename, made.schema, [batch]), *parts])[0].resolve()


def test_references_lead_to_parts() -> None:
    for index in (0, 1, 7, 2**32 - 1):
        with pytest.raises(InvalidObjectError, match=f"refers to part {index}, and has 1"):
            hostile({"values": {"part": index}}, cls=Leaf)
    with pytest.raises(InvalidObjectError, match=r"Nest\.name: found None in an object"):
        hostile({})


def test_references_in_a_circle_are_refused() -> None:
    circle = encode(Nest("n", Leaf(), Base(1), below=[Nest("n", Leaf(), Base(1))]))
    inner = next(i for i, part in enumerate(circle) if i and part.typename == "test.nest")
    row = circle[inner].batches[0].column(0).storage.to_pylist()[0] | {"below": [{"part": inner}]}
    type_ = shared_class(Nest).type
    column = pa.ExtensionArray.from_storage(type_, pa.array([row], type_.storage_type))
    batch = pa.RecordBatch.from_arrays([column], schema=shared_class(Nest).schema)
    circle[inner] = Part("test.nest", batch.schema, [batch])
    with pytest.raises(InvalidObjectError, match="nests too deeply"):
        store(circle)[0].resolve()


class Bomb:
    def __reduce__(self) -> Any:
        return explode, ()


def explode() -> None:
    raise AssertionError("it was unpickled")


def test_a_pickle_in_the_place_of_something_else_is_not_loaded() -> None:
    bomb = pickle_part(Bomb(), Encoder(default_registry))
    for cls, row in ((Leaf, {"values": {"part": 1}}), (Nest, {"name": "", "leaf": {"part": 1}})):
        with pytest.raises(InvalidObjectError, match=r"found vineyard\.pickle in"):
            hostile(row, bomb, cls=cls)


def test_roots_that_are_none() -> None:
    schema = shared_class(Leaf).schema
    [batch] = encode(Leaf())[0].batches
    twice = pa.concat_batches([batch, batch])
    table = pa.record_batch({"x": [1]})
    bare = pa.record_batch([batch.column(0).storage], ["object"])
    for rows in ([], [twice], [table], [bare]):
        part = Part("test.leaf", rows[0].schema if rows else schema, rows)
        with pytest.raises(InvalidObjectError, match=r"test\.leaf was not stored as a shared"):
            store([part])[0].resolve()


def test_metadata_that_makes_no_sense(client: Client) -> None:
    field = pa.field(
        "object",
        pa.struct([("values", PART)]),
        metadata={"ARROW:extension:name": "test.leaf", "ARROW:extension:metadata": "{"},
    )
    oid = client._put_parts([Part("test.leaf", pa.schema([field]), [])], {})
    with pytest.raises(InvalidObjectError, match="cannot be read"):
        client.get(oid)


# ---- the package


def test_is_loaded_when_it_is_asked_for() -> None:
    code = (
        "import sys, vineyard_arrow; assert 'vineyard_arrow.registry' not in sys.modules;"
        "vineyard_arrow.shared; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert not {"polars", "duckdb", "torch"} & set(done.stdout.split())

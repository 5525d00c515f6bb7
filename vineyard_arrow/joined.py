"""Global tables, frames, tensors and graphs are made here, of partitions on several instances.

What a partition elsewhere is, its metadata tells: no payload moves. Its owner is asked only if
this instance has not heard of it, or if only the data tells. How the whole is described is in
`types.distributed` and `types.fragments`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .composition import create_global
from .contexts import current_registry
from .describing import parts_of
from .distributed import GlobalDataFrame, GlobalTable, GlobalTensor, Place
from .errors import InvalidObjectError, ObjectNotFoundError
from .graph.edge_cut import Fragment
from .graph.global_graph import check_fragments
from .ipc import protocol as p
from .objects import ObjectID, ObjectMeta
from .partitions import GlobalObject
from .types.distributed import described
from .types.facts import Facts, facts_of, facts_told
from .types.fragments import described_graph

if TYPE_CHECKING:
    from .client import Client

__all__ = ["await_known", "create_of_partitions", "same_kind"]


@dataclass(slots=True)
class _Given:
    """A partition as it was given: a value, or an object of some store."""

    facts: Facts
    value: Any = None
    id: ObjectID | None = None
    nbytes: int = 0


def create_of_partitions(
    client: Client,
    partitions: Sequence[Any],
    *,
    key: str | None,
    bounds: Sequence[tuple[Any, Any]] | None,
    offsets: Sequence[Sequence[int]] | None,
    name: str | None,
    labels: Mapping[str, str],
    timeout_s: float,
) -> ObjectMeta:
    """See `Client.create_global`."""
    if isinstance(partitions, GlobalObject):
        ids = enumerate(partitions.object_ids)
        partitions = [partitions[i] if each is None else each for i, each in ids]
    if isinstance(partitions, str | int) or not isinstance(partitions, Sequence) or not partitions:
        raise InvalidObjectError("a global object of no partitions", "give a list of them")
    for what, given in (("bounds", bounds), ("offsets", offsets)):
        if given is not None and len(given) != len(partitions):
            raise InvalidObjectError(
                f"{len(given)} {what} for {len(partitions)} partitions", "give one for each"
            )
    found = _looked_at(client, partitions, timeout_s)
    kind, empty = _same([each.facts for each in found]), found[0].facts.empty
    if kind == "fragment":
        if (key, bounds, offsets) != (None, None, None):
            raise InvalidObjectError(
                "key, bounds and offsets of a graph", "they are of tables, frames and arrays"
            )
        check_fragments([each.facts.shape for each in found])
    else:
        _check_key(empty, kind, key, bounds)
        _whole(kind, found, empty, key, bounds, offsets)  # checks that they fit
    new = [each for each in found if each.id is None]
    made = client.put_many([each.value for each in new])
    try:
        for each, object_id in zip(new, made, strict=True):
            each.id, each.nbytes = object_id, client.get_meta(object_id).nbytes
        if kind == "fragment":
            meta = described_graph([each.facts.figures for each in found])
        else:
            meta = described(client, _whole(kind, found, empty, key, bounds, offsets))
        for i, each in enumerate(found):
            assert each.id is not None
            meta.add_member(str(i), each.id)
        return create_global(client, meta, name, labels, timeout_s)
    except BaseException:
        if made:
            client.delete(made)
        raise


def _whole(
    kind: str, found: Sequence[_Given], empty: Any, key: str | None, bounds: Any, offsets: Any
) -> Any:
    """The table, frame or tensor of these; InvalidObjectError if they make none."""
    places, start = [], 0
    for i, each in enumerate(found):
        shape = each.facts.shape
        offset = (start, *[0] * (len(shape) - 1)) if offsets is None else tuple(offsets[i])
        both: Any = None if bounds is None else tuple(bounds[i])
        places.append(Place(each.nbytes, shape, offset, both))
        start += shape[0]
    cls = {"table": GlobalTable, "numpy": GlobalTensor}.get(kind, GlobalDataFrame)
    return cls.of([each.id or ObjectID(0) for each in found], places, empty, key, None)


# ---- looking at partitions


def _looked_at(client: Client, partitions: Sequence[Any], timeout_s: float) -> list[_Given]:
    out = []
    with contextlib.ExitStack() as stack:
        owners = _Owners(client, stack)
        for i, given in enumerate(partitions):
            if isinstance(given, Fragment) and given.origin is not None:
                given = given.origin.id
            if not isinstance(given, int | str):
                out.append(_Given(facts_of(given), given))
                continue
            try:
                out.append(_stored(owners, ObjectID(client._resolve(given)), timeout_s))
            except ObjectNotFoundError as error:
                raise ObjectNotFoundError(f"partition {i}: {error.message}", error.hint) from None
    return out


class _Owners:
    """Clients of the instances that partitions live on, made when they are needed."""

    def __init__(self, client: Client, stack: contextlib.ExitStack) -> None:
        self.client, self._stack = client, stack
        self._clients = {client.instance: client}

    def of(self, object_id: ObjectID) -> Client:
        from .fetching import owner_of, reached

        number = object_id.instance
        if number not in self._clients:
            info = owner_of(self.client, object_id)
            self._clients[number] = self._stack.enter_context(reached(self.client, info))
        return self._clients[number]


def _stored(owners: _Owners, object_id: ObjectID, timeout_s: float) -> _Given:
    """What the cluster knows of an object; its data is looked at if nothing else tells."""
    client = owners.client
    try:
        info, _ = client._a.request(p.Describe(object_id))
    except ObjectNotFoundError:
        await_known(client, owners.of(object_id).get_meta(object_id), timeout_s)
        info, _ = client._a.request(p.Describe(object_id))
    if info.is_global:
        raise InvalidObjectError(f"{object_id} is a global object itself", "use its partitions")
    facts = facts_told(parts_of(client._a, info), current_registry(client._registry))
    if facts is None:
        facts = facts_of(owners.of(object_id).get(object_id))
    return _Given(facts, None, object_id, info.nbytes)


def await_known(client: Client, meta: ObjectMeta, timeout_s: float) -> None:
    """Until this instance has heard of a partition that another has persisted."""
    assert meta.id is not None
    if not meta.persisted:
        raise ObjectNotFoundError(
            f"{meta.id} is on instance {meta.id.instance:06x}, which has not persisted it",
            "persist it there first: persist(id) of a client of that instance",
        )
    with contextlib.suppress(ObjectNotFoundError):  # known, but not here
        client._a.ask(p.Find(int(meta.id), None, timeout_s), timeout_s)


def _check_key(
    empty: Any, kind: str, key: str | None, bounds: Sequence[tuple[Any, Any]] | None
) -> None:
    """Raise unless bounds are of something that the partitions have."""
    if bounds is None:
        if key is not None:
            raise InvalidObjectError(f"no bounds of {key!r}", "give both bounds and key")
        return
    if key is None:
        if kind != "pandas":
            raise InvalidObjectError("bounds are of a column", "name it by key")
        return
    names = list(empty.schema.names if kind == "table" else getattr(empty, "columns", ()))
    if key not in names and not (kind == "pandas" and key == empty.index.name):
        raise InvalidObjectError(
            f"the partitions have no column {key!r}", f"bounds are of one of {names}"
        )


# ---- whether they are alike


def same_kind(values: Sequence[Any]) -> str:
    """The kind of values that may be partitions of one whole; InvalidObjectError if they differ."""
    return _same([facts_of(value) for value in values])


def _same(facts: Sequence[Facts]) -> str:
    """The kind of all of them; InvalidObjectError if they differ."""
    first = facts[0]
    for i, each in enumerate(facts):
        if each.kind != first.kind:
            raise InvalidObjectError(
                f"partition {i} is of another kind than the first: {each.kind}, not {first.kind}",
                "make all of them tables, frames of one library, arrays, or fragments of a graph",
            )
        difference = _difference(first.kind, first.empty, each.empty)
        if difference:
            what, hint = difference
            raise InvalidObjectError(
                f"partition {i} is of another schema than the first: {what}", hint
            )
    return first.kind


def _difference(kind: str, first: Any, other: Any) -> tuple[str, str] | None:
    """What differs, and what to do about it."""
    if kind == "numpy":
        if other.ndim != first.ndim:
            return f"{other.ndim} dimensions, not {first.ndim}", "reshape it, and put it again"
        if other.dtype != first.dtype:
            hint = f"put it again as array.astype({first.dtype.str!r})"
            return f"{other.dtype}, not {first.dtype}", hint
        return None
    if kind == "fragment":
        same = other == first
        hint = "give the fragments of one partition"
        return None if same else ("its graph has other labels", hint)
    if kind == "table":
        if other.schema.equals(first.schema):
            return None
        mine, theirs = ([(f.name, f.type) for f in each.schema] for each in (first, other))
        hint = "put it again as table.select(names).cast(schema), by the first one's"
    elif kind == "pandas":
        if other.dtypes.equals(first.dtypes):
            return None
        mine, theirs = (list(each.dtypes.items()) for each in (first, other))
        hint = "put it again as frame[columns].astype(dtypes), by the first one's"
    else:
        if other.schema == first.schema:
            return None
        mine, theirs = (list(each.schema.items()) for each in (first, other))
        hint = "put it again as frame.select(names).cast(schema), by the first one's"
    return _columns_differ(mine, theirs), hint


def _columns_differ(first: list[tuple[Any, Any]], other: list[tuple[Any, Any]]) -> str:
    names, others = ([name for name, _ in each] for each in (first, other))
    if names != others:
        return f"columns {others}, not {names}"
    for (name, type_), (_, another) in zip(first, other, strict=True):
        if type_ != another:
            return f"{name!r} is {another}, not {type_}"
    return "which columns may have nulls"

"""Plans for graphs: fragments by `graph.partition`, on the instances where they are to be."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..client import Client
from ..errors import ConfigError, InvalidGraphError
from ..graph.balance import check_number
from ..graph.fragments import vertex_weights
from ..graph.global_graph import GlobalGraph
from ..graph.graph import Graph
from ..graph.partition import By, owners_of, partition
from ..graph.vertex_map import MAX_FRAGMENTS
from ..objects import ObjectID
from .placing import placed
from .plan import Plan, PlannedPartition
from .reach import Reach, numbers_of
from .rows import named

__all__ = ["GraphPlan", "plan_graph"]


def plan_graph(
    client: Client,
    source: Any,
    *,
    n: int | None = None,
    how: Any = None,
    balance: str = "edges",
    over: Any = None,
    whole: bool = False,
) -> GraphPlan:
    """What fragments come of a graph, or of other fragments; see `Client.partition`.

    Of fragments it is not known before which can stay: the plan says that all are copied.
    """
    instances = numbers_of(over)
    with Reach(client) as reach:
        for number in instances or ():
            reach.client(number)
        value, home, nbytes = _opened(reach, source, client)
        if isinstance(value, Graph):
            if n is None:
                raise InvalidGraphError("how many fragments?", "give n")
            k, by = check_number(n, MAX_FRAGMENTS), _by(how)
            weights, vertices = _sizes(value, k, by)
            what = f"{k} fragments of {value!r}, by {getattr(how, '__name__', how or 'hash')}"
        else:
            if how is not None:
                raise ConfigError(
                    "fragments are cut anew to be even alone", "concat them, and partition that"
                )
            k, by = check_number(value.fnum if n is None else n, MAX_FRAGMENTS), "hash"
            if balance not in ("edges", "vertices"):
                raise InvalidGraphError(f"balance={balance!r} is not one of 'edges', 'vertices'")
            weights = np.full(k, 1)
            vertices = np.diff([value.num_vertices() * i // k for i in range(k + 1)])
            what = f"one graph of {value!r}" if whole else f"{k} fragments of {value!r}"
    if whole:
        k, weights, vertices = 1, np.ones(1), np.array([value.num_vertices()])
    sizes = (nbytes * weights / max(1, weights.sum())).astype(np.int64).tolist()
    places = placed([{home: size + 1} for size in sizes], instances or [home])
    partitions = [PlannedPartition(number) for number in places]
    for part, rows, size in zip(partitions, vertices.tolist(), sizes, strict=True):
        part.add("copied" if part.instance == home else "moved", rows, size)
    plan = GraphPlan(client, what, partitions)
    plan._source, plan._by, plan._balance, plan._whole = source, by, balance, whole
    plan._warn_of_skew()
    return plan


def _by(how: Any) -> By:
    if how in (None, "hash"):
        return "hash"
    if how == "range":
        return "segment"
    if not callable(how):
        raise InvalidGraphError(f"how={how!r} is not 'hash', 'range' or a function")
    return how  # type: ignore[no-any-return]


def _sizes(graph: Graph, k: int, by: By) -> tuple[Any, Any]:
    """What each fragment weighs, and how many vertices it owns."""
    weights, vertices = np.zeros(k), np.zeros(k, np.int64)
    for label in graph.schema.vertices:
        owners = owners_of(graph, label.name, k, by)
        weights += np.bincount(owners, vertex_weights(graph, label.name), k)
        vertices += np.bincount(owners, minlength=k)
    return weights, vertices


def _opened(reach: Reach, source: Any, client: Client) -> tuple[Any, int, int]:
    """The graph or fragments, where they lie, and their bytes."""
    value, home = source, client.instance
    if isinstance(source, int | str):
        object_id = ObjectID(client._resolve(source))
        home = object_id.instance
        value = reach.get(object_id)
    origin = value.origin
    nbytes = 0 if origin is None else _nbytes(reach.client(home), origin.id)
    if isinstance(value, GlobalGraph):
        at = reach.client(home)
        ids = [each for each in value.object_ids if each is not None]
        local = [each for each in ids if each.instance == home]
        nbytes = sum(_nbytes(at, each) for each in local) * len(ids) // max(1, len(local))
    return value, home, nbytes


def _nbytes(client: Client, object_id: int) -> int:
    """Of an object with all its members, which share what they share."""
    seen: dict[int, int] = {}
    line = [object_id]
    while line:
        meta = client.get_meta(line.pop())
        seen[int(meta.id or 0)] = meta.nbytes
        line += [m.id for m in meta.members.values() if m.id is not None and m.id not in seen]
    return sum(seen.values())


class GraphPlan(Plan):
    """See `Plan`."""

    unit = "vertices"
    _source: Any
    _by: By
    _balance: Any
    _whole: bool

    def _made(self, reach: Reach, name: str | None, labels: dict[str, str]) -> ObjectID:
        value, home, _ = _opened(reach, self._source, self._client)
        places = [each.instance for each in self.partitions]
        at = reach.client(home)
        if isinstance(value, GlobalGraph):
            for fid, object_id in enumerate(value.object_ids):
                if object_id is not None and object_id.instance != home:
                    reach.borrow(object_id, home)
                value.fragment(fid, fetch=True)
        if self._whole:
            graph = value if isinstance(value, Graph) else value.to_graph(client=at)
            return named(reach, reach.put(places[0], [graph])[0], name, labels)
        if isinstance(value, Graph):
            made = partition(value, len(places), self._by, client=at)
        else:
            made = value.repartition(len(places), balance=self._balance, client=at)
        ids = [self._put(reach, made, fid, places[fid]) for fid in range(len(places))]
        meta = self._client.create_global(ids, name=name, labels=labels)
        assert meta.id is not None
        return meta.id

    def _put(self, reach: Reach, made: GlobalGraph, fid: int, number: int) -> ObjectID:
        """A fragment where it is to be: one that is there already stays."""
        object_id = made.object_ids[fid]
        if object_id is None or object_id.instance != number:
            return reach.put(number, [made.fragment(fid)])[0]
        return reach.placed(object_id, number)

"""The mappings that a networkx graph consists of, read from an index when they are asked.

networkx makes its own views of subgraphs in this way: graphs of its classes over other mappings
than dictionaries, frozen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array
from ..graph import Graph
from ..schema import Triple
from .common import chosen, imported
from .networkx import class_of, edge_columns, node_columns, node_keys

__all__ = ["view_of"]

nx = imported("networkx")
Key = Any
"""What networkx knows a node by."""


def view_of(
    graph: Graph, keys: str, multigraph: bool, triples: Iterable[Triple | str] | None
) -> Any:
    """See `networkx_view`."""
    made = class_of(graph.directed, multigraph)()
    labels, taken = chosen(graph, triples)
    names = _Names(graph, labels, keys)
    made._node = _Nodes(
        names, {label: node_columns(graph, label, keys, labels) for label in labels}
    )
    columns = {triple: edge_columns(graph, triple, taken) for triple in taken}
    sides: dict[str, list[_Side]] = {label: [] for label in labels}
    back: dict[str, list[_Side]] = {label: [] for label in labels}
    for triple in taken:
        a, (src, label, dst) = graph.adjacency(triple), triple
        prefix = label if len(taken) > 1 else None
        sides[src].append(
            _Side(a.out_indptr, a.out_indices, a.edge_ids, dst, prefix, columns[triple])
        )
        back[dst].append(
            _Side(a.in_indptr, a.in_indices, a.in_edge_ids, src, prefix, columns[triple])
        )
    if graph.directed:
        made._succ = _Rows(names, sides, multigraph)  # networkx has _adj follow
        made._pred = _Rows(names, back, multigraph)
    else:
        made._adj = _Rows(names, sides, multigraph)
    return nx.freeze(made)


class _Side(NamedTuple):
    """Rows of one triple in one direction."""

    indptr: Array
    indices: Array
    edge_ids: Array | None
    label: str
    """Of the neighbours."""
    prefix: str | None
    """Edge label, if keys of edges need it."""
    columns: Mapping[str, Any]

    def edge_id(self, position: int) -> int:
        return position if self.edge_ids is None else int(self.edge_ids[position])

    def attributes(self, position: int) -> _Attributes:
        return _Attributes(self.columns, self.edge_id(position))


Run = tuple[_Side, int, int]
"""Positions of edges: where they begin and end."""


class _Names:
    """Vertices by the keys that networkx has for them."""

    def __init__(self, graph: Graph, labels: tuple[str, ...], keys: str) -> None:
        self.of: dict[str, Any] = {}
        self._only = labels[0] if keys == "id" and len(labels) == 1 else None
        self._places: dict[Key, tuple[str, int]] = {}
        if self._only is not None:
            self.of[self._only] = range(graph.num_vertices(self._only))
            return
        for label in labels:
            own = self.of[label] = node_keys(graph, label, keys, labels)
            self._places.update(zip(own, zip(repeat(label), range(len(own))), strict=False))

    def place(self, key: Key) -> tuple[str, int] | None:
        """Label and id of a vertex."""
        if self._only is None:
            return self._places.get(key)
        if isinstance(key, int | np.integer) and 0 <= key < len(self.of[self._only]):
            return self._only, int(key)
        hash(key)  # as a dictionary would; networkx relies on the TypeError
        return None

    def __iter__(self) -> Iterator[Key]:
        for keys in self.of.values():
            yield from keys

    def __len__(self) -> int:
        return sum(map(len, self.of.values()))


class _Attributes(Mapping[str, Any]):
    """A row of a table, without its nulls."""

    __slots__ = ("_columns", "_row")

    def __init__(self, columns: Mapping[str, Any], row: int) -> None:
        self._columns = columns
        self._row = row

    def __getitem__(self, name: str) -> Any:
        value = self._columns[name][self._row].as_py()
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return (name for name, column in self._columns.items() if column[self._row].is_valid)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return repr(dict(self))

    def copy(self) -> dict[str, Any]:
        return dict(self)

    def __deepcopy__(self, memo: Any) -> dict[str, Any]:
        return deepcopy(dict(self), memo)

    def _frozen(self, *args: Any, **options: Any) -> None:
        raise nx.NetworkXError("Frozen graph can't be modified")

    __setitem__ = __delitem__ = update = setdefault = pop = popitem = clear = _frozen


class _Nodes(Mapping[Key, _Attributes]):
    """Nodes and their attributes."""

    def __init__(self, names: _Names, columns: Mapping[str, Mapping[str, Any]]) -> None:
        self._names = names
        self._columns = columns

    def __getitem__(self, key: Key) -> _Attributes:
        place = self._names.place(key)
        if place is None:
            raise KeyError(key)
        return _Attributes(self._columns[place[0]], place[1])

    def __contains__(self, key: object) -> bool:
        return self._names.place(key) is not None

    def __iter__(self) -> Iterator[Key]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _Rows(Mapping[Key, "_Row"]):
    """Neighbours of each node, in one direction."""

    def __init__(self, names: _Names, sides: Mapping[str, list[_Side]], multigraph: bool) -> None:
        self.names = names
        self.sides = sides
        self.multigraph = multigraph

    def __getitem__(self, key: Key) -> _Row:
        place = self.names.place(key)
        if place is None:
            raise KeyError(key)
        return _Row(self, *place)

    def __contains__(self, key: object) -> bool:
        return self.names.place(key) is not None

    def __iter__(self) -> Iterator[Key]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class _Row(Mapping[Key, Any]):
    """Neighbours of one node: attributes of the edge to each, or a mapping of parallel edges."""

    __slots__ = ("_known", "_label", "_rows", "_v")

    def __init__(self, rows: _Rows, label: str, v: int) -> None:
        self._rows = rows
        self._label = label
        self._v = v
        self._known: dict[Key, list[Run]] | None = None

    def _runs(self) -> Iterator[Run]:
        for side in self._rows.sides[self._label]:
            yield side, int(side.indptr[self._v]), int(side.indptr[self._v + 1])

    def _neighbours(self) -> dict[Key, Any]:
        """Each neighbour once."""
        if self._known is not None:
            return self._known
        found: dict[Key, Any] = {}
        for side, begin, end in self._runs():
            names = self._rows.names.of[side.label]
            found |= dict.fromkeys(map(names.__getitem__, side.indices[begin:end].tolist()))
        return found

    def _by_neighbour(self) -> dict[Key, list[Run]]:
        """The parallel edges to each neighbour, by edge label."""
        if self._known is None:
            self._known = {}
            for side, begin, end in self._runs():
                names = self._rows.names.of[side.label]
                # Of equal neighbours, which are in a row, the last position stays.
                row = side.indices[begin:end].tolist()
                for v, stop in dict(zip(row, range(begin + 1, end + 1), strict=True)).items():
                    self._known.setdefault(names[v], []).append((side, begin, stop))
                    begin = stop
        return self._known

    def _to(self, key: Key) -> list[Run]:
        """The parallel edges to one neighbour: a binary search for each edge label."""
        if self._known is not None:
            return self._known.get(key, [])
        place = self._rows.names.place(key)
        found = []
        if place is not None:
            label, v = place
            for side, begin, end in self._runs():
                if side.label == label:
                    row, wanted = side.indices[begin:end], side.indices.dtype.type(v)
                    i, j = (int(row.searchsorted(wanted, way)) for way in ("left", "right"))
                    if i < j:
                        found.append((side, begin + i, begin + j))
        return found

    def _value(self, runs: list[Run]) -> Any:
        if self._rows.multigraph:
            return _Parallel(runs)
        side, _, end = runs[-1]
        return side.attributes(end - 1)

    def __getitem__(self, key: Key) -> Any:
        runs = self._to(key)
        if not runs:
            raise KeyError(key)
        return self._value(runs)

    def __contains__(self, key: object) -> bool:
        return bool(self._to(key))

    def __iter__(self) -> Iterator[Key]:
        return iter(self._neighbours())

    def __len__(self) -> int:
        return len(self._neighbours())

    def items(self) -> Any:
        return {key: self._value(runs) for key, runs in self._by_neighbour().items()}.items()

    def values(self) -> Any:
        return {key: self._value(runs) for key, runs in self._by_neighbour().items()}.values()


class _Parallel(Mapping[Any, _Attributes]):
    """Edges from one node to another, by their keys."""

    __slots__ = ("_runs",)

    def __init__(self, runs: list[Run]) -> None:
        self._runs = runs

    def __getitem__(self, key: Any) -> _Attributes:
        for side, begin, end in self._runs:
            label, eid = (None, key) if side.prefix is None else _pair(key)
            if label != side.prefix or not isinstance(eid, int | np.integer):
                continue
            at = int(eid)
            if side.edge_ids is not None and 0 <= at < len(side.edge_ids):
                ids = side.edge_ids[begin:end]  # ascending among parallel edges
                at = begin + int(ids.searchsorted(ids.dtype.type(at)))
            if begin <= at < end and side.edge_id(at) == eid:
                return side.attributes(at)
        raise KeyError(key)

    def __iter__(self) -> Iterator[Any]:
        for side, begin, end in self._runs:
            for position in range(begin, end):
                eid = side.edge_id(position)
                yield eid if side.prefix is None else (side.prefix, eid)

    def __len__(self) -> int:
        return sum(end - begin for _, begin, end in self._runs)


def _pair(key: Any) -> tuple[Any, Any]:
    return key if isinstance(key, tuple) and len(key) == 2 else (None, None)

"""Graphs made of graphs: with less, in another order, the other way round.

Every method gives a new graph and leaves the old one as it is. What a change does not touch is
the same array in both, and one object in a store that has both. New arrays lie in the pool of a
client; `rewrite.py` makes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InvalidGraphError, LabelNotFoundError, VertexNotFoundError
from .arrays import Array, as_array, as_ids, combined, memory_of
from .edges import Edges
from .extend import Extensible
from .rewrite import renumbered, reversed_edges, undirected
from .schema import Triple, VertexLabel
from .vertices import Vertices

if TYPE_CHECKING:
    from ..client import Client

__all__ = ["Derivable"]


class Derivable(Extensible):
    """The methods of `Graph` that give another graph.

    Those that make arrays raise StoreFullError if the pool has no room; they take the client
    whose pool it is, by default the default client.
    """

    def project(
        self,
        labels: Iterable[str | Triple] | None = None,
        properties: Mapping[str | Triple, Sequence[str]] | None = None,
    ) -> Self:
        """Only some labels, triples and properties.

        Copies nothing. A vertex table of fewer columns is a new object over the same buffers.

        Parameters
        ----------
        labels : iterable of str or triple, optional
            Vertex labels, and triples (also by their edge label alone, if no vertices have it).
            Triples bring the labels of their ends. Of vertex labels alone, all triples between
            them are kept. All by default.
        properties : mapping of str or triple to sequence of str, optional
            Properties to keep of a label or triple, in the order they are in; the columns of the
            oid are kept anyway. Labels and triples that are not named keep all.

        Raises
        ------
        LabelNotFoundError
            If there is no such label, triple or property.
        InvalidGraphError
            If properties are named of what is not kept.
        """
        vertices, edges = self._kept(labels)
        for name, wanted in (properties or {}).items():
            part = self.schema.part(name)
            for each in wanted:
                _check_property(part.schema, each, name)
            if isinstance(part, VertexLabel):
                if part.name in vertices:
                    vertices[part.name] = _projected(vertices[part.name], wanted)
                    continue
            elif part.triple in edges:
                old = edges[part.triple]
                columns = {name: each for name, each in old.columns.items() if name in wanted}
                edges[part.triple] = replace(old, columns=columns)
                continue
            raise InvalidGraphError(f"properties of {name!r}, which is not kept")
        return self._derived(vertices, edges)

    def subgraph(self, vertices: Any, *, client: Client | None = None) -> Self:
        """Only some vertices, and the edges between them.

        Vertices keep their order and their oids, and are numbered anew from 0; so are the edges.
        Copies the vertex tables of these labels, and all of the triples with an end there; oid
        indices are new. Labels of which all vertices stay, and triples between such, are shared.

        Parameters
        ----------
        vertices : mapping of label to array_like, or array_like
            A mask with a value for each vertex (null counts as false), or vertex ids in any
            order. Labels that are not named keep all. Where there is one label it need not be
            named.

        Raises
        ------
        LabelNotFoundError
            If there is no such label, or there are several and none is named.
        VertexNotFoundError
            If an id is outside its label.
        InvalidGraphError
            If a mask has another length, or the array is neither mask nor ids.
        """
        if not isinstance(vertices, Mapping):
            vertices = {self.schema.vertex().name: vertices}
        rows = {}
        for label, selection in vertices.items():
            mask = _mask_of(selection, self.schema.vertex(label))
            if not mask.all():
                rows[label] = np.flatnonzero(mask)
        return self._rearranged(rows, client)

    def sort_by(
        self,
        column: str,
        label: str | None = None,
        *,
        descending: bool = False,
        client: Client | None = None,
    ) -> Self:
        """Vertices of a label in the order of one of their properties: they are numbered anew.

        Equal ones keep their order, null ones come last. Rows stay sorted by neighbour, so edges
        are numbered anew too. Copies the label's vertex table and all of the triples with an
        end there; its oid index is new. All else is shared.

        Raises
        ------
        LabelNotFoundError
            If there is no such label or property.
        InvalidGraphError
            If the property's values have no order.
        """
        vertices = self._vertices[self.schema.vertex(label).name]
        _check_property(vertices.table.schema, column, vertices.label)
        values = vertices.table.column(column)
        if pa.types.is_string_view(values.type):  # which Arrow does not sort
            values = values.cast(pa.large_string())
        try:
            order = pc.sort_indices(
                combined(values, pa.default_memory_pool()),
                sort_keys=[("", "descending" if descending else "ascending")],
            )
        except (pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            raise InvalidGraphError(f"{column!r} is {values.type}: {error}") from None
        return self._rearranged({vertices.label: order.to_numpy()}, client)

    def reverse(self, *, client: Client | None = None) -> Self:
        """Each edge the other way round; the triple (a, label, b) becomes (b, label, a).

        Edge ids are places among the out-edges, so they become those of the in-edges. Copies the
        properties of edges; ``in.edge_ids`` are new. Rows change places (``in.indptr`` is now
        ``out.indptr`` and so on) and are shared, as are vertices. An undirected graph shares
        everything.
        """
        if not self.directed:
            return self._derived(self._vertices, self._edges)
        with memory_of(client) as pool:
            made = [reversed_edges(edges, pool) for edges in self._edges.values()]
        return self._derived(self._vertices, {edges.triple: edges for edges in made})

    def to_undirected(self, *, client: Client | None = None) -> Self:
        """Each edge in the rows of both its ends, under one id; none are merged.

        Copies all of the triples, edges are numbered anew. Vertices are shared. An undirected
        graph shares everything.

        Raises
        ------
        InvalidGraphError
            If a triple joins two labels.
        """
        if not self.directed:
            return self._derived(self._vertices, self._edges)
        made = {}
        with memory_of(client) as pool:
            for triple, edges in self._edges.items():
                if triple[0] != triple[2]:
                    raise InvalidGraphError(
                        f"undirected edges between two labels: {triple}",
                        "project to triples between vertices of one label",
                    )
                made[triple] = undirected(edges, self._vertices[triple[0]].count, pool)
        return self._derived(self._vertices, made, directed=False)

    # ---- making them

    def _kept(
        self, labels: Iterable[str | Triple] | None
    ) -> tuple[dict[str, Vertices], dict[Triple, Edges]]:
        if labels is None:
            return dict(self._vertices), dict(self._edges)
        if isinstance(labels, str):
            raise InvalidGraphError(f"labels={labels!r} is one text", f"use [{labels!r}]")
        names, triples = set(), set()
        for part in map(self.schema.part, labels):
            if isinstance(part, VertexLabel):
                names.add(part.name)
            else:
                triples.add(part.triple)
        if not triples:
            triples = {each for each in self._edges if {each[0], each[2]} <= names}
        names |= {end for src, _, dst in triples for end in (src, dst)}
        return (
            {label: each for label, each in self._vertices.items() if label in names},
            {triple: each for triple, each in self._edges.items() if triple in triples},
        )

    def _rearranged(self, rows: Mapping[str, Array], client: Client | None) -> Self:
        """With these vertices of some labels, in this order."""
        if not rows:
            return self._derived(self._vertices, self._edges)
        vertices, edges, maps = dict(self._vertices), dict(self._edges), {}
        with memory_of(client) as pool:
            for label, order in rows.items():
                maps[label] = np.full(vertices[label].count, -1, np.int64)
                maps[label][order] = np.arange(len(order))
                vertices[label] = vertices[label].taken(order.astype(np.uint64), pool)
            for triple, old in edges.items():
                ends = triple[0], triple[2]
                if not maps.keys().isdisjoint(ends):
                    src, dst = (maps.get(label) for label in ends)
                    counts = vertices[ends[0]].count, vertices[ends[1]].count
                    edges[triple] = renumbered(old, (src, dst), counts, pool)
        return self._derived(vertices, edges)


def _check_property(schema: pa.Schema, name: str, part: str | Triple) -> None:
    if schema.get_field_index(name) < 0:
        raise LabelNotFoundError(
            f"{part!r} has no property {name!r}", f"it has {', '.join(schema.names) or 'none'}"
        )


def _projected(vertices: Vertices, wanted: Sequence[str]) -> Vertices:
    names = [n for n in vertices.table.column_names if n in wanted or n in vertices.key]
    if len(names) == vertices.table.num_columns:
        return vertices
    return replace(vertices, table=vertices.table.select(names))


def _mask_of(selection: Any, label: VertexLabel) -> Array:
    """A mask of the vertices that a mask or ids select."""
    is_arrow = isinstance(selection, pa.Array | pa.ChunkedArray)
    if is_arrow and pa.types.is_boolean(selection.type):
        selection = np.asarray(selection.fill_null(False))
    elif not is_arrow:
        selection = as_array(selection)
    if isinstance(selection, np.ndarray) and selection.dtype == bool:
        if selection.shape != (label.count,):
            raise InvalidGraphError(
                f"a mask of shape {selection.shape} for the {label.count} vertices"
                f" of {label.name!r}"
            )
        return selection
    ids = as_ids(selection)
    outside = np.flatnonzero((ids < 0) | (ids >= label.count))
    if len(outside):
        raise VertexNotFoundError(
            f"no vertex {ids[outside[0]]} in {label.name!r}, which has {label.count}"
            f" ({len(outside)} of {len(ids)} ids are outside)"
        )
    mask = np.zeros(label.count, bool)
    mask[ids] = True
    return mask

"""Graphs made of graphs: with less, with more, in another order, the other way round.

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
from .arrays import Array, as_ids, as_table, combined, memory_of
from .build import Columns, Missing, build
from .edges import Edges
from .parts import GraphParts
from .rewrite import fitting, grown, merged, renumbered, reversed_edges, undirected
from .schema import Triple, VertexLabel
from .vertices import Vertices, none_of

if TYPE_CHECKING:
    from ..client import Client

__all__ = ["Derivable"]

_EXAMPLES = 5


class Derivable(GraphParts):
    """The methods of `Graph` that give another graph.

    ``client`` says in whose pool new arrays lie, the default client's if it is not given; the
    store is full: StoreFullError, and nothing is kept.
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
                old = vertices.get(part.name)
                keep = {*wanted, *part.primary_key}
                if old is not None and len(keep) < old.table.num_columns:
                    names = [each for each in old.table.column_names if each in keep]
                    vertices[part.name] = replace(old, table=old.table.select(names))
            else:
                old = edges.get(part.triple)
                if old is not None:
                    columns = {k: v for k, v in old.columns.items() if k in wanted}
                    edges[part.triple] = replace(old, columns=columns)
            if old is None:
                raise InvalidGraphError(f"properties of {name!r}, which is not kept")
        return self._derived(vertices, edges)

    def add_columns(
        self, part: str | Triple, columns: Any, *, client: Client | None = None
    ) -> Self:
        """More properties of the vertices of a label, or of the edges of a triple.

        Copies nothing: columns are taken as they lie, those of several chunks are joined in the
        pool. What lies outside of the store is copied by a put.

        Parameters
        ----------
        part : str or triple
            A vertex label, or a triple, also by its edge label if no vertices have it.
        columns : mapping of str to array_like, or table
            A value for each vertex or edge id; for edges see `edge_columns`.

        Raises
        ------
        LabelNotFoundError
            If there is no such label or triple.
        InvalidGraphError
            If lengths differ, or a name is taken; `project` leaves properties out.
        """
        where = self.schema.part(part)
        kind = "vertices" if isinstance(where, VertexLabel) else "edges"
        with memory_of(client) as pool:
            try:
                table = as_table(columns, pool)
            except (pa.ArrowInvalid, TypeError) as error:
                raise InvalidGraphError(f"columns for {part!r}: {error}") from None
            if table.num_columns and table.num_rows != where.count:
                raise InvalidGraphError(
                    f"{table.num_rows} values for the {where.count} {kind} of {part!r}"
                )
            arrays = {name: combined(table.column(name), pool) for name in table.column_names}
        for name in arrays:
            if where.schema.get_field_index(name) >= 0:
                raise InvalidGraphError(
                    f"the {kind} of {part!r} have a property {name!r} already",
                    "leave it out first: project(properties=...)",
                )
        vertices, edges = dict(self._vertices), dict(self._edges)
        if isinstance(where, VertexLabel):
            more = vertices[where.name].table
            for field in table.schema:
                more = more.append_column(field, arrays[field.name])
            vertices[where.name] = replace(vertices[where.name], table=more)
        else:
            old = edges[where.triple]
            edges[where.triple] = replace(old, columns={**old.columns, **arrays})
        return self._derived(vertices, edges)

    def add_vertices(self, label: str, table: Any, *, client: Client | None = None) -> Self:
        """More vertices of a label, after those there are: these keep their ids.

        Copies the label's vertex table, and the row offsets (``indptr``) of the triples that end
        there; its oid index is new. Neighbours, edge ids and properties of edges are shared,
        but for neighbours that need 64 bits from now on.

        Parameters
        ----------
        label : str
        table
            Anything with Arrow columns: the oid's, and properties of the label. Those it lacks
            are null.

        Raises
        ------
        LabelNotFoundError
            If there is no such label, the oid lacks a column, or there is no such property.
        InvalidGraphError
            If oids are null, repeated or there already, or a column is of another type.
        """
        old = self._vertices[self.schema.vertex(label).name]
        with memory_of(client) as pool:
            rows = as_table(table, pool)
            for name in old.key:
                if rows.schema.get_field_index(name) < 0:
                    raise LabelNotFoundError(
                        f"the new vertices of {label!r} have no column {name!r} for the oid",
                        f"they have {', '.join(rows.column_names)}",
                    )
            given = {name: rows.column(name) for name in rows.column_names}
            columns = fitting(given, len(rows), old.table.schema, f"the vertices of {label!r}")
            rows = pa.Table.from_arrays([*columns.values()], schema=old.table.schema)
            if not len(rows):
                return self._derived(self._vertices, self._edges)
            _check_new(old, rows)
            return self._grown({**self._vertices, old.label: old.with_rows(rows, pool)}, {}, pool)

    def add_edges(
        self,
        triple: Triple | str,
        table: Any,
        *,
        src: Columns = "src",
        dst: Columns = "dst",
        missing: Missing = "error",
        client: Client | None = None,
    ) -> Self:
        """More edges of a triple.

        Copies the triple: rows, edge ids and properties are new. Vertices are shared, unless
        ``missing="add"`` adds some, see `add_vertices`.

        Edge ids are places in sorted rows, so those behind a new edge change. The old edges stay
        in their order, before new ones between the same vertices; a property that says which
        they were, such as ``add_columns(triple, {"was": numpy.arange(n)})``, is null for the new
        ones. `orig_row` is not kept.

        Parameters
        ----------
        triple : triple or str
        table
            Anything with Arrow columns: the ends', and properties of the triple. Those it lacks
            are null.
        src, dst, missing
            As for `Graph.from_tables`.

        Raises
        ------
        LabelNotFoundError
            If there is no such triple, no column for an end, or no such property.
        InvalidGraphError
            If ends are null or name no vertex, or a column is of another type.
        """
        old = self._edges_of(triple)
        with memory_of(client) as pool:
            vertices, made = self._build({}, {old.triple: table}, "oid", src, dst, missing, pool)
            more = made[old.triple]
            counts = vertices[old.triple[0]].count, vertices[old.triple[2]].count
            edges = merged(grown(old, counts, pool), more, counts, pool)
            return self._grown(vertices, {old.triple: edges}, pool)

    def add_label(
        self,
        vertices: Mapping[str, Any] | None = None,
        edges: Mapping[Triple, Any] | None = None,
        *,
        oid: Columns | Mapping[str, Columns] = "oid",
        src: Columns | Mapping[Triple, Columns] = "src",
        dst: Columns | Mapping[Triple, Columns] = "dst",
        missing: Missing = "error",
        client: Client | None = None,
    ) -> Self:
        """New vertex labels, and new triples between these and those there are.

        Copies nothing of the graph, unless ``missing="add"`` adds vertices to its labels, see
        `add_vertices`.

        Parameters
        ----------
        vertices : mapping of label to table, optional
        edges : mapping of triple to table, optional
        oid, src, dst, missing
            As for `Graph.from_tables`, which this is like.

        Raises
        ------
        InvalidGraphError
            If a label or triple is there already, or as `Graph.from_tables` raises it.
        LabelNotFoundError
            If a label has no table, or a table lacks a column.
        """
        vertices, edges = vertices or {}, edges or {}
        for label in vertices:
            if label in self._vertices:
                raise InvalidGraphError(f"there is a label {label!r} already", "use add_vertices")
        for triple in edges:
            if triple in self._edges:
                raise InvalidGraphError(f"there is a triple {triple} already", "use add_edges")
        with memory_of(client) as pool:
            return self._grown(*self._build(vertices, edges, oid, src, dst, missing, pool), pool)

    def subgraph(self, vertices: Any, *, client: Client | None = None) -> Self:
        """Only some vertices, and the edges between them.

        Vertices keep their order and their oids, and are numbered anew from 0; so are the edges.
        Copies the vertex tables of these labels, and all of the triples that end there; oid
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
        are numbered anew too. Copies the label's vertex table and all of the triples that end
        there; its oid index is new. All else is shared.

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

    def _derived(
        self,
        vertices: Mapping[str, Vertices],
        edges: Mapping[Triple, Edges],
        directed: bool | None = None,
    ) -> Self:
        directed = self.directed if directed is None else directed
        return type(self)(vertices, edges, directed, self._stored)

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

    def _build(
        self,
        vertices: Mapping[str, Any],
        edges: Mapping[Triple, Any],
        oid: Any,
        src: Any,
        dst: Any,
        missing: Missing,
        pool: Any,
    ) -> tuple[dict[str, Vertices], dict[Triple, Edges]]:
        return build(
            vertices,
            edges,
            oid=oid,
            src=src,
            dst=dst,
            directed=self.directed,
            missing=missing,
            orig_row=False,
            pool=pool,
            threads=0,
            progress=None,
            known=self._vertices,
        )

    def _grown(
        self, vertices: Mapping[str, Vertices], edges: Mapping[Triple, Edges], pool: Any
    ) -> Self:
        """With these vertices, which are at least as many, and these edges in place of others."""
        made = {
            triple: grown(each, (vertices[triple[0]].count, vertices[triple[2]].count), pool)
            for triple, each in {**self._edges, **edges}.items()
        }
        return self._derived(vertices, made)

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


def _check_new(vertices: Vertices, rows: pa.Table) -> None:
    """Raise InvalidGraphError unless rows make more vertices, by themselves and beside these."""
    Vertices.build(vertices.label, rows, vertices.key, pa.default_memory_pool())
    columns = [rows.column(name) for name in vertices.key]
    ids = vertices.find(columns, f"oids for {vertices.label!r}")
    found = np.flatnonzero(ids != none_of(ids.dtype))
    if len(found):
        some = ", ".join(
            f"{vertices.oids(int(ids[row]), 'raise')!r} (row {row})" for row in found[:_EXAMPLES]
        )
        raise InvalidGraphError(
            f"{len(found)} of the oids are in {vertices.label!r} already: {some}",
            "an oid names one vertex; drop these rows",
        )


def _mask_of(selection: Any, label: VertexLabel) -> Array:
    """A mask of the vertices that a mask or ids select."""
    is_arrow = isinstance(selection, pa.Array | pa.ChunkedArray)
    if is_arrow and pa.types.is_boolean(selection.type):
        selection = np.asarray(selection.fill_null(False))
    elif not is_arrow:
        selection = np.asarray(selection)
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

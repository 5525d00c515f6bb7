"""Graphs made of graphs: with more vertices, edges, properties or labels.

As in `derive.py`, the old graph stays as it is, and what is not touched is shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa

from ..errors import InvalidGraphError, LabelNotFoundError
from .arrays import as_table, combined, memory_of
from .build import Columns, Missing, build
from .edges import Edges
from .parts import GraphParts
from .rewrite import fitting, grown, merged
from .schema import Triple, VertexLabel
from .vertices import Vertices, none_of

if TYPE_CHECKING:
    from ..client import Client

__all__ = ["Extensible"]

_EXAMPLES = 5


class Extensible(GraphParts):
    """The methods of `Graph` that give a graph with more; see `Derivable`."""

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
            except InvalidGraphError as error:
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

        Copies the label's vertex table, and the row offsets (``indptr``) on its side of the
        triples with an end there; its oid index is new. Neighbours, edge ids and properties of
        edges are shared, but for neighbours that need 64 bits from now on.

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

"""How a graph shows itself in a notebook: its schema as a table, a neighbourhood as a drawing."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

from ..errors import InvalidGraphError

if TYPE_CHECKING:
    from .graph import Graph
    from .schema import Triple

__all__ = ["neighbourhood_svg", "schema_html"]

_RING, _RADIUS = 85, 17
_FILLS = ("#2f6f8f", "#7fb2c9", "#c9dfe8", "#e8f1f5")
_INKS = ("#ffffff", "#10303d", "#10303d", "#10303d")


def schema_html(graph: Graph) -> str:
    """Labels and triples with counts and properties."""

    def cell(value: object) -> str:
        return html.escape(str(value)) or "&mdash;"

    def fields(schema: Any, skip: tuple[str, ...] = ()) -> str:
        return ", ".join(f"{f.name}: {f.type}" for f in schema if f.name not in skip)

    rows = [
        (
            "vertices",
            each.name,
            f"{each.count:,}",
            ", ".join(f"{name}: {each.schema.field(name).type}" for name in each.primary_key),
            fields(each.schema, each.primary_key),
        )
        for each in graph.schema.vertices
    ]
    arrow = "→" if graph.directed else "-"
    rows += [
        ("edges", f"{e.src} -{e.label}{arrow} {e.dst}", f"{e.count:,}", "", fields(e.schema))
        for e in graph.schema.edges
    ]
    kind = "directed" if graph.directed else "undirected"
    head = "".join(f"<th>{each}</th>" for each in ("", "label", "count", "oid", "properties"))
    body = "".join(
        "<tr>" + "".join(f"<td>{cell(value)}</td>" for value in row) + "</tr>" for row in rows
    )
    return (
        f"<table class='vineyard-graph'><caption>{kind} graph, {graph.nbytes:,} bytes</caption>"
        f"<tr>{head}</tr>{body}</table>"
    )


def neighbourhood_svg(
    graph: Graph, v: int, hops: int, limit: int, triple: Triple | str | None
) -> str:
    """See `Graph.neighbourhood_svg`."""
    if hops < 0 or limit < 1:
        raise InvalidGraphError(f"a drawing of {hops} hops and {limit} vertices")
    src, _, dst = graph.schema.edge(triple).triple
    if src != dst:
        hops = min(hops, 1)  # who is farther away is of the first label again
    rings, edges, left_out = _around(graph, v, hops, limit, triple, same=src == dst)
    places, away = _places(rings)
    span = round(max(away + 3 * _RADIUS, 6 * _RADIUS))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{-span} {-span} {2 * span}'
        f' {2 * span + 24}" width="{2 * span}" font-family="sans-serif" font-size="11">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7"'
        ' markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#8a979d"/></marker></defs>',
    ]
    tip = ' marker-end="url(#tip)"' if graph.directed else ""
    parts += [_line(places[a], places[b], count, tip) for (a, b), count in edges.items()]
    for (ring, vertex), place in places.items():
        label = src if ring == 0 else dst
        name = graph.oids(label, vertex)
        parts.append(_circle(place, ring, name, label, vertex))
    note = f"{len(places)} vertices, {sum(edges.values())} edges"
    if left_out:
        note += f"; {left_out} more neighbours not drawn"
    parts.append(
        f'<text x="0" y="{span + 12}" text-anchor="middle" fill="#5b676d">{note}</text></svg>'
    )
    return "".join(parts)


_Vertex = tuple[int, int]  # its ring (0 or more), its id


def _around(
    graph: Graph, v: int, hops: int, limit: int, triple: Any, *, same: bool
) -> tuple[list[list[int]], dict[tuple[_Vertex, _Vertex], int], int]:
    """Vertices by distance along out-edges, edges between them with how many, how many are left."""
    graph.degree(v, triple)  # is it there?
    rings, left_out = [[int(v)]], set()
    edges: dict[tuple[_Vertex, _Vertex], int] = {}
    ring_of = {int(v): 0} if same else {}
    drawn = 1
    for ring in range(hops):
        following: list[int] = []
        for u in rings[ring]:
            for w in graph.neighbors(u, triple).tolist():
                if w not in ring_of:
                    if drawn == limit:
                        left_out.add(w)
                        continue
                    ring_of[w] = ring + 1
                    following.append(w)
                    drawn += 1
                ends = (ring, u), (ring_of[w], w)
                if graph.directed or ends[0] <= ends[1]:
                    edges[ends] = edges.get(ends, 0) + 1
        if not following:
            break
        rings.append(following)
    return rings, edges, len(left_out)


def _places(rings: list[list[int]]) -> tuple[dict[_Vertex, tuple[float, float]], float]:
    """Where each vertex is, and how far out the last ring."""
    out, away = {}, 0.0
    for ring, members in enumerate(rings):
        if ring:  # as wide as its circles need
            away = max(away + _RING, len(members) * 2.4 * _RADIUS / (2 * math.pi))
        for i, vertex in enumerate(members):
            turn = 2 * math.pi * (i + 0.5 * (ring % 2)) / len(members) - math.pi / 2
            out[ring, vertex] = (away * math.cos(turn), away * math.sin(turn))
    return out, away


def _line(a: tuple[float, float], b: tuple[float, float], count: int, tip: str) -> str:
    width = min(1 + 0.5 * (count - 1), 4)
    style = f'stroke="#8a979d" stroke-width="{width:g}" fill="none"{tip}'
    if a == b:  # a self-loop
        x, y = a
        r = _RADIUS
        return (
            f'<path d="M{x - r * 0.6:.1f} {y - r * 0.8:.1f}C{x - r * 1.8:.1f} {y - r * 2.6:.1f}'
            f' {x + r * 1.8:.1f} {y - r * 2.6:.1f} {x + r * 0.6:.1f} {y - r * 0.8:.1f}" {style}/>'
        )
    away = math.dist(a, b)
    dx, dy = (b[0] - a[0]) / away * _RADIUS, (b[1] - a[1]) / away * _RADIUS
    return (
        f'<line x1="{a[0] + dx:.1f}" y1="{a[1] + dy:.1f}" x2="{b[0] - dx:.1f}"'
        f' y2="{b[1] - dy:.1f}" {style}/>'
    )


def _circle(place: tuple[float, float], ring: int, name: Any, label: str, vertex: int) -> str:
    text = str(name)
    short = text if len(text) <= 6 else text[:5] + "…"
    x, y = place
    shade = min(ring, len(_FILLS) - 1)
    title = html.escape(f"{label} {text} (id {vertex})")
    return (
        f'<g><title>{title}</title><circle cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS}"'
        f' fill="{_FILLS[shade]}" stroke="#2f6f8f"/><text x="{x:.1f}" y="{y + 4:.1f}"'
        f' text-anchor="middle" fill="{_INKS[shade]}">{html.escape(short)}</text></g>'
    )

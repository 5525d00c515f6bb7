"""Tables, frames, arrays and graphs in partitions: see `partitioning`, which plans and makes them.

An object is given as its id, so that a plan reads it where it lies; a global one opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .registry import Request, driver

if TYPE_CHECKING:
    from ..partitioning import Plan

__all__: list[str] = []


def _source(request: Request) -> Any:
    is_global = request.typename is not None and request.typename.startswith("vineyard.global_")
    return request.value() if is_global or request.key is None else request.key


@driver("repartition", typename="vineyard.global_table")
@driver("repartition", typename="vineyard.global_dataframe")
@driver("partition", typename="vineyard.table")
@driver("partition", typename="vineyard.record_batch")
@driver("partition", typename="vineyard.pandas.dataframe")
@driver("partition", typename="vineyard.polars.frame")
def partition_rows(
    request: Request,
    *,
    n: int | None = None,
    by: Any = None,
    how: Any = None,
    bounds: Any = None,
    balance: str = "rows",
    over: Any = None,
) -> Plan:
    """Rows of tables and frames, by hash, range, values, in turn, in order or by a function."""
    from ..partitioning.rows import plan_rows

    options = {"n": n, "by": by, "how": how, "bounds": bounds, "balance": balance, "over": over}
    return plan_rows(request.client, _source(request), **options)


@driver("repartition", typename="vineyard.global_tensor")
@driver("partition", typename="vineyard.tensor")
def partition_blocks(
    request: Request,
    *,
    n: int | None = None,
    axis: int = 0,
    chunks: Any = None,
    over: Any = None,
) -> Plan:
    """Chunks of arrays: ``n`` along an axis, or of the shape ``chunks``."""
    from ..partitioning.blocks import plan_blocks

    source = _source(request)
    return plan_blocks(request.client, source, n=n, axis=axis, chunks=chunks, over=over)


@driver("partition", typename="vineyard.graph")
def partition_graph(
    request: Request, *, n: int | None = None, how: Any = None, over: Any = None
) -> Plan:
    """Fragments of a graph: vertices by hash, in ranges of even edges, or by a function."""
    from ..partitioning.graphs import plan_graph

    return plan_graph(request.client, _whole(request), n=n, how=how, over=over)


@driver("repartition", typename="vineyard.global_graph")
def repartition_graph(
    request: Request, *, n: int | None = None, balance: str = "edges", over: Any = None
) -> Plan:
    """Fragments of about the same size, moving as few vertices as need be."""
    from ..partitioning.graphs import plan_graph

    return plan_graph(request.client, _whole(request), n=n, balance=balance, over=over)


@driver("concat", typename="vineyard.global_graph")
def concat_graph(request: Request, *, over: Any = None) -> Plan:
    """The graph that was cut into fragments."""
    from ..partitioning.graphs import plan_graph

    return plan_graph(request.client, _whole(request), over=over, whole=True)


def _whole(request: Request) -> Any:
    return request.value() if request.key is None else request.key


@driver("concat", typename="vineyard.global_table")
@driver("concat", typename="vineyard.global_dataframe")
@driver("concat", typename="vineyard.table")
@driver("concat", typename="vineyard.record_batch")
@driver("concat", typename="vineyard.pandas.dataframe")
@driver("concat", typename="vineyard.polars.frame")
def concat_rows(request: Request, *, over: Any = None) -> Plan:
    """All rows in one object."""
    from ..partitioning.rows import plan_rows

    over = request.client.instance if over is None else over
    return plan_rows(request.client, _source(request), n=1, over=over, whole=True)


@driver("concat", typename="vineyard.global_tensor")
@driver("concat", typename="vineyard.tensor")
def concat_blocks(request: Request, *, axis: int = 0, over: Any = None) -> Plan:
    """All chunks, or several arrays along an axis, in one array."""
    from ..partitioning.blocks import plan_blocks

    over = request.client.instance if over is None else over
    return plan_blocks(request.client, _source(request), axis=axis, over=over, whole=True)

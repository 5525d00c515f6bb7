"""What a partition of a global object is: of a value, or told by the metadata of an object.

Metadata tells it of tables, record batches, arrays, polars' frames and fragments of graphs,
wherever they are. Pandas' frames say it in their data alone, and so do columns that Arrow has no
type for. This module knows neither instances nor how metadata comes from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ..distributed import kind_of, shape_of
from ..errors import InvalidGraphError
from ..graph.edge_cut import Figures, Fragment
from ..graph.global_graph import kinds_of
from ..registry import Registry, StoredObject, StoredPart
from .fragments import FRAGMENT
from .numpy import TENSOR, dtype_of

__all__ = ["Facts", "facts_of", "facts_told"]

_COLUMNAR = ("vineyard.table", "vineyard.record_batch", "vineyard.polars.frame")


@dataclass(frozen=True, slots=True)
class Facts:
    """What has to be known of a partition to make a whole of several.

    Attributes
    ----------
    kind : str
        "table", "numpy", "pandas", "polars" or "fragment".
    empty
        A value without rows, of its type and schema; of a fragment, the labels of its graph.
    shape : tuple of int
        Its rows; of an array, its extent in each dimension; of a fragment, its number and how
        many there are.
    figures : Figures or None
        Of a fragment.
    """

    kind: str
    empty: Any
    shape: tuple[int, ...]
    figures: Figures | None = None


def facts_of(value: Any) -> Facts:
    """Of a value; InvalidObjectError if it is no partition."""
    if isinstance(value, Fragment):
        labels = kinds_of(value.graph.schema)
        return Facts("fragment", labels, (value.fid, value.fnum), value.figures())
    kind = kind_of(value)
    empty: Any
    if kind == "table":
        empty = value.schema.empty_table()
    elif kind == "numpy":
        empty = np.empty((0,) * value.ndim, value.dtype)
    else:
        empty = value.iloc[:0].copy() if kind == "pandas" else value.clear()
    return Facts(kind, empty, shape_of(value))


def facts_told(parts: Sequence[tuple[Any, ...]], registry: Registry) -> Facts | None:
    """Of an object's parts as metadata has them; None if only its data tells.

    Parameters
    ----------
    parts : sequence of (typename, schema, rows, batches, params)
        The root first.
    """
    typename, _, num_rows, _, params = parts[0]
    try:
        if typename == FRAGMENT:
            figures = Figures(*map(int, params["figures"]))
            return Facts("fragment", params["kinds"], (params["fid"], params["fnum"]), figures)
        if typename == TENSOR:
            shape = tuple(map(int, params["shape"]))
            empty = np.empty((0,) * len(shape), dtype_of(params["dtype"]))
            return Facts(kind_of(empty), empty, shape) if "class" not in params else None
        if typename in _COLUMNAR and not {"schema", "aside"} & params.keys():
            hollow = [StoredPart(name, more, s.empty_table()) for name, s, _, _, more in parts]
            told = facts_of(StoredObject(hollow, registry).resolve())
            return Facts(told.kind, told.empty, (num_rows,))
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
        if typename == FRAGMENT:
            raise InvalidGraphError(
                f"the description of this fragment makes no sense: {error!r}", "put it anew"
            ) from None
    return None

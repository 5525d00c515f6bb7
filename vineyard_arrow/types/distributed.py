"""Global tables, frames and tensors: a table of partitions, and a value without rows."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from ..distributed import GlobalDataFrame, GlobalTable, GlobalTensor, Place
from ..errors import InvalidObjectError, VineyardArrowError
from ..registry import Encoder, Part, StoredObject, StoredPart, builtin_registry
from .partitions import prefix_of, put_partitions, stored_partitions

__all__: list[str] = []

_CLASSES: dict[str, type[Any]] = {
    "vineyard.global_table": GlobalTable,
    "vineyard.global_dataframe": GlobalDataFrame,
    "vineyard.global_tensor": GlobalTensor,
}
_EXTENT = pa.list_(pa.int64())
_SCHEMA = pa.schema(
    [("object", pa.uint64()), ("nbytes", pa.int64()), ("shape", _EXTENT), ("offset", _EXTENT)]
)


def _build(value: Any, encoder: Encoder) -> Part:
    """The table of partitions; those that are in no store yet are put."""
    params: dict[str, Any] = dict(prefix_of(encoder))
    ids = put_partitions(value, encoder, params.get("prefix", ""))
    params["empty"] = encoder.add(value.empty)
    columns = {
        "object": pa.array(ids, pa.uint64()),
        "nbytes": pa.array([p.nbytes for p in value.places], pa.int64()),
        "shape": pa.array([p.shape for p in value.places], _EXTENT),
        "offset": pa.array([p.offset for p in value.places], _EXTENT),
    }
    if value.key is not None:
        params["key"] = value.key
        try:
            for i, name in enumerate(("lower", "upper")):
                columns[name] = pa.array([p.bounds[i] for p in value.places])
        except pa.ArrowException as error:
            raise InvalidObjectError(f"these bounds cannot be stored: {error}") from None
    batch = pa.RecordBatch.from_pydict(columns)
    typename = next(name for name, cls in _CLASSES.items() if cls is type(value))
    return Part(typename, batch.schema, [batch], params)


for _class in _CLASSES.values():
    builtin_registry.builder(_class)(_build)


@builtin_registry.resolver(*_CLASSES)
def _resolve(part: StoredPart, stored: StoredObject) -> Any:
    """The table of partitions; none of them is opened."""
    table, params = part.table, part.params
    columns = {name: table[name].to_pylist() for name in table.column_names}
    try:
        if [*columns][:4] != _SCHEMA.names or not table.num_rows or stored.source is None:
            raise InvalidObjectError(f"the description of this {part.typename} makes no sense")
        bounds: list[Any] = [None] * table.num_rows
        if "key" in params:
            bounds = list(zip(columns["lower"], columns["upper"], strict=True))
        rows = zip(columns["nbytes"], columns["shape"], columns["offset"], bounds, strict=True)
        places = [Place(nbytes, tuple(s), tuple(o), both) for nbytes, s, o, both in rows]
        ids, open_ = stored_partitions(columns["object"], stored, params.get("prefix", ""))
        return _CLASSES[part.typename].of(
            ids, places, stored.resolve(params["empty"]), params.get("key"), open_=open_
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, VineyardArrowError):
            raise
        raise InvalidObjectError(
            f"the description of this {part.typename} makes no sense: {error!r}"
        ) from None

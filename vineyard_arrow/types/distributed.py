"""Global tables, frames and tensors: in metadata alone, which the cluster keeps.

Values of the object say where and how large its partitions are, as plain JSON. Bounds, which may
be of any type, are an Arrow stream in it, and so is a value without rows. Partitions are members.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from ..composition import VALUES
from ..contexts import current_registry
from ..distributed import GlobalDataFrame, GlobalTable, GlobalTensor, Place
from ..errors import InvalidObjectError, VineyardArrowError
from ..objects import ObjectID, ObjectMeta
from ..registry import Encoder, StoredObject, StoredPart, builtin_registry
from .partitions import opener, refuse

if TYPE_CHECKING:
    from ..client import Client

__all__ = ["described"]

_CLASSES: dict[str, type[Any]] = {
    "vineyard.global_table": GlobalTable,
    "vineyard.global_dataframe": GlobalDataFrame,
    "vineyard.global_tensor": GlobalTensor,
}


def described(client: Client, whole: Any) -> ObjectMeta:
    """Metadata of a global object, but for its members."""
    meta = ObjectMeta(next(name for name, cls in _CLASSES.items() if cls is type(whole)))
    meta["partitions"] = {
        "nbytes": [p.nbytes for p in whole.places],
        "shape": [list(map(int, p.shape)) for p in whole.places],
        "offset": [list(map(int, p.offset)) for p in whole.places],
    }
    if whole.places[0].bounds is not None:
        try:
            columns = [_column([p.bounds[i] for p in whole.places]) for i in range(2)]
        except pa.ArrowException as error:
            raise InvalidObjectError(f"these bounds cannot be stored: {error}") from None
        batch = pa.RecordBatch.from_arrays(columns, ["lower", "upper"])
        meta["bounds"], meta["key"] = _text(batch.schema, [batch]), whole.key
    encoder = Encoder(current_registry(client._registry))
    encoder.add(whole.empty)
    meta["empty"] = [
        {
            "typename": part.typename,
            "params": msgspec.json.encode(part.params).decode(),
            "data": _text(part.schema, part.batches),
        }
        for part in encoder.parts
    ]
    return meta


def _column(bounds: list[Any]) -> pa.Array:
    try:
        return pa.array(bounds)
    except OverflowError:  # it takes the first for an int64
        return pa.array(bounds, pa.uint64())


def _text(schema: pa.Schema, batches: Sequence[pa.RecordBatch]) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return base64.b64encode(sink.getvalue()).decode()


def _table(text: str) -> pa.Table:
    return pa.ipc.open_stream(base64.b64decode(text)).read_all()


for _class in _CLASSES.values():
    builtin_registry.builder(_class)(refuse)


@builtin_registry.resolver(*_CLASSES)
def _resolve(part: StoredPart, stored: StoredObject) -> Any:
    """What metadata tells; no partition is opened."""
    try:
        values = part.params[VALUES]
        rows = values["partitions"]
        ids = [ObjectID(stored.composed_of[str(i)][0]) for i in range(len(rows["nbytes"]))]
        if not ids:
            raise InvalidObjectError(f"a {part.typename} of no partitions")
        bounds: list[Any] = [None] * len(ids)
        if "bounds" in values:
            table = _table(values["bounds"])
            bounds = list(zip(*(table[n].to_pylist() for n in ("lower", "upper")), strict=True))
        each = zip(rows["nbytes"], rows["shape"], rows["offset"], bounds, strict=True)
        places = [Place(nbytes, tuple(s), tuple(o), both) for nbytes, s, o, both in each]
        return _CLASSES[part.typename].of(
            ids, places, _empty(values["empty"], stored), values.get("key"), opener(stored)
        )
    except (KeyError, TypeError, ValueError, msgspec.MsgspecError, pa.ArrowException) as error:
        if isinstance(error, VineyardArrowError):
            raise
        raise InvalidObjectError(
            f"the description of this {part.typename} makes no sense: {error!r}"
        ) from None


def _empty(parts: list[dict[str, str]], stored: StoredObject) -> Any:
    """The value without rows; a pickle in it is trusted as one in the object would be."""
    described = [
        StoredPart(each["typename"], msgspec.json.decode(each["params"]), _table(each["data"]))
        for each in parts
    ]
    return StoredObject(
        described, stored.registry, stored.source, stored.id, "ro", stored.trusted, stored.uid
    ).resolve()

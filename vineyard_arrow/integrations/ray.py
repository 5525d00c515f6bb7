"""Global objects as Ray's data sets, and back.

Tasks read partitions from the instance beside them, which is that of their own default client
(``VINEYARD_ARROW_SOCKET``), without copying. A task on a node of another instance fetches what it
is given. Scheduling is Ray's. Handles pass to tasks and actors by themselves, see `handles`.
See docs/distributed.md, also for what Ray copies.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .. import default_client
from ..distributed import Partition
from ..errors import (
    ConfigError,
    ConnectionLostError,
    InvalidObjectError,
    LibraryNotFoundError,
    VineyardArrowError,
)
from ..fetching import reached
from ..objects import ObjectID

try:
    import ray
    import ray.data
    from ray.data.block import BlockAccessor, BlockMetadata
    from ray.data.datasource import Datasink, Datasource, ReadTask
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ModuleNotFoundError as error:
    raise LibraryNotFoundError(
        "ray is needed for this, but it is not installed", "pip install 'vineyard-arrow[ray]'"
    ) from error

if TYPE_CHECKING:
    from ..client import Client, Key

__all__ = ["from_global", "to_global"]

# What a write has put, so that it is found on any instance when the write fails.
WRITE = "vineyard.write"
PROBE_S = 60.0


def from_global(key: Key, *, client: Client | None = None) -> ray.data.Dataset:
    """A global table or frame as a data set of Ray, a block for each of its partitions.

    Nothing is read before the data set is. Partitions are read in place, on nodes beside them if
    there are any, and copied once, to Ray's object store, where later stages find them.

    Parameters
    ----------
    key : ObjectID, int or str
        Of a `GlobalTable` or `GlobalDataFrame`. Partitions that are polars frames become Arrow
        blocks; those of pandas stay what they are.
    client : Client, optional
        That has the object; the default client, if not given.

    Returns
    -------
    ray.data.Dataset
        Of partitions beside several nodes it is a union: they come in no given order.

    Raises
    ------
    InvalidObjectError
        If the object is another.
    """
    from ..distributed import GlobalDataFrame, GlobalTable, GlobalTensor

    client = default_client() if client is None else client
    whole = client.get(key)
    if not isinstance(whole, GlobalTable | GlobalDataFrame):
        hint = "create_global makes one of tables or frames"
        if isinstance(whole, GlobalTensor):
            hint = "pass handles of its partitions to tasks"
        raise InvalidObjectError(
            f"{key} is a {type(whole).__name__}, not a global table or frame", hint
        )
    schema = whole.schema if isinstance(whole, GlobalTable) else _schema(whole.empty)
    nodes = _nodes()
    groups: dict[str | None, list[Partition]] = {}
    for each in whole.partitions:
        groups.setdefault(nodes.get(each.instance), []).append(each)
    sets = [_read_on(node, group, schema) for node, group in groups.items()]
    return sets[0].union(*sets[1:]) if sets[1:] else sets[0]


def to_global(
    dataset: ray.data.Dataset, *, name: str | None = None, client: Client | None = None
) -> ObjectID:
    """Compute a data set; put its blocks where they are computed, or none of them.

    Blocks become partitions as they are, tables or pandas frames; empty ones are left out. Each
    is copied once, from Ray's object store.

    Parameters
    ----------
    dataset : ray.data.Dataset
    name : str, optional
        As in `Client.put`.
    client : Client, optional
        Who makes the object that ties the partitions; the default client, if not given.

    Returns
    -------
    ObjectID
        Of a `GlobalTable` or `GlobalDataFrame`.

    Raises
    ------
    InvalidObjectError
        If there are no rows, or blocks of several schemas.
    """
    client = default_client() if client is None else client
    sink = _GlobalDatasink()
    ids: list[ObjectID] = []
    try:
        dataset.write_datasink(sink)
        ids = [each for _, several in sorted(sink.written) for each in several]
        made = client.create_global(ids, name=name)
    except BaseException as error:
        try:
            _settle(client, sink.write_id, ())
        except VineyardArrowError as second:
            error.add_note(f"what was put stays, labelled {WRITE}={sink.write_id}: {second}")
        raise
    with contextlib.suppress(VineyardArrowError):  # the write itself has succeeded
        _settle(client, sink.write_id, ids)
    assert made.id is not None
    return made.id


class _GlobalDatasource(Datasource):  # type: ignore[misc]
    """Partitions, a read task for each."""

    def __init__(self, partitions: Sequence[Partition], schema: Any) -> None:
        super().__init__()
        # Ids and sizes alone: a partition itself holds its whole.
        self._parts = [(int(p.id or 0), p.num_rows, p.nbytes) for p in partitions]
        self._schema = schema

    def estimate_inmemory_data_size(self) -> int:
        return sum(nbytes for _, _, nbytes in self._parts)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        return [
            ReadTask(
                _Read(object_id),
                BlockMetadata(num_rows, nbytes, None, None),
                schema=self._schema,
                per_task_row_limit=per_task_row_limit,
            )
            for object_id, num_rows, nbytes in self._parts
        ]


class _GlobalDatasink(Datasink):  # type: ignore[misc]
    """Puts blocks where they are; returns their ids."""

    def __init__(self) -> None:
        self.write_id = uuid.uuid4().hex
        self.written: list[tuple[int, list[ObjectID]]] = []

    def write(self, blocks: Iterable[Any], ctx: Any) -> tuple[int, list[ObjectID]]:
        client = _here()
        ids = []
        for block in blocks:
            if BlockAccessor.for_block(block).num_rows():
                ids.append(client.put(block, labels={WRITE: self.write_id}))
        client.persist(ids)
        return ctx.task_idx, ids

    def on_write_complete(self, write_result: Any) -> None:
        self.written = write_result.write_returns


class _Read:
    """What a read task does."""

    def __init__(self, object_id: int) -> None:
        self.object_id = object_id

    def __call__(self) -> list[Any]:
        return [_block(_here().get(self.object_id, fetch=True))]


def _block(value: Any) -> Any:
    if type(value).__module__.partition(".")[0] == "polars":
        value = value.to_arrow()
    return pa.Table.from_batches([value]) if isinstance(value, pa.RecordBatch) else value


def _schema(empty: Any) -> Any:
    return BlockAccessor.for_block(_block(empty)).schema()


def _read_on(node: str | None, group: Sequence[Partition], schema: Any) -> ray.data.Dataset:
    options: dict[str, Any] = {}
    if node is not None:
        options["label_selector"] = {"ray.io/node-id": node}
        options["fallback_strategy"] = [{"label_selector": {}}]  # any other, if it is gone
    return ray.data.read_datasource(
        _GlobalDatasource(group, schema),
        override_num_blocks=len(group),
        **options,
    )


def _nodes() -> dict[int | None, str]:
    """A node beside each instance that has one."""
    if not ray.is_initialized():
        ray.init()
    ask = ray.remote(num_cpus=0)(_beside)
    asked = {
        each["NodeID"]: ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(each["NodeID"], soft=False)
        ).remote()
        for each in ray.nodes()
        if each["Alive"]
    }
    found: dict[int | None, str] = {}
    for node, number in zip(asked, ray.get(list(asked.values()), timeout=PROBE_S), strict=True):
        if number is not None:
            found.setdefault(number, node)
    return found


def _beside() -> int | None:
    """The instance beside this worker; None if there is none."""
    from ..client import connect

    try:
        with connect(autostart=False) as client:
            return client.instance
    except (ConfigError, ConnectionLostError):
        return None


def _here() -> Client:
    """The default client of a worker; it starts no daemon that nobody would find or stop."""
    if _beside() is None:
        raise ConfigError(
            "this node of Ray has no instance beside it",
            "start its daemon, and Ray with VINEYARD_ARROW_SOCKET set",
        )
    return default_client()


def _settle(client: Client, write_id: str, kept: Sequence[ObjectID]) -> None:
    """End a write: on every instance, what it has put and is not kept goes (of tasks that Ray ran
    once more, say), and what is kept is no longer marked."""
    for info in client.instances():
        if info.number == client.instance:
            _settle_on(client, write_id, kept)
        else:
            # What is not reached from here gave nothing to the whole either.
            with contextlib.suppress(ConnectionLostError), reached(client, info) as far:
                _settle_on(far, write_id, kept)


def _settle_on(client: Client, write_id: str, kept: Sequence[ObjectID]) -> None:
    for meta in client.list_objects(labels={WRITE: write_id}, limit=1 << 30):
        if meta.id is None:
            continue
        if meta.id in kept:
            client.label(meta.id, {WRITE: ""})
        else:
            client.delete(meta.id)

"""Batches from a reader into a stream of the store, by a thread, for as long as anyone reads.

A process that ends waits for such threads to stop: one that is stopped in a generator that Arrow
runs would crash it, and what a driver holds elsewhere, such as a place in a group, is let go.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..errors import (
    DeadlineExceededError,
    ObjectNotFoundError,
    StreamFailedError,
    VineyardArrowError,
)

if TYPE_CHECKING:
    from ..client import Client
    from ..streams import StreamReader, StreamWriter

_LOOK_S = 1.0  # how often a full stream is asked who reads it
_END_S = 10.0  # that the end of the process waits for all threads

_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
_ending = threading.Event()


def pumped(
    client: Client, batches: pa.RecordBatchReader, name: str | None, max_bytes: int
) -> StreamReader:
    """A reader of a new stream, into which ``batches`` flow."""
    writer = client._make_writer(
        batches.schema,
        name=name,
        max_bytes=max_bytes,
        max_batches=None,
        keep=False,
        timeout_s=None,
        ephemeral=True,  # whatever becomes of this process and of its readers
    )
    try:
        reader = client.open_stream(writer.id)
    except BaseException:
        writer.fail("nobody could read it")
        with contextlib.suppress(ObjectNotFoundError):  # it has ended, and so went
            client.drop_stream(writer.id)
        raise
    pump = _Pump(client, writer, batches, weakref.ref(reader._source))
    thread = threading.Thread(target=pump.run, name="vineyard-arrow-scan", daemon=True)
    _threads.add(thread)
    thread.start()
    return reader


@atexit.register
def _end() -> None:
    _ending.set()
    deadline = time.monotonic() + _END_S
    for thread in list(_threads):
        thread.join(max(0.0, deadline - time.monotonic()))


class _Pump:
    def __init__(
        self,
        client: Client,
        writer: StreamWriter,
        batches: pa.RecordBatchReader,
        source: weakref.ref[Any],
    ) -> None:
        self.client, self.writer, self.batches, self.source = client, writer, batches, source

    def run(self) -> None:
        try:
            with contextlib.closing(self.batches), self.writer:
                for batch in self.batches:
                    # Without rows it is no news but a chance to stop: nothing may come for long.
                    if not (self._written(batch) if batch.num_rows else self._is_wanted()):
                        raise StreamFailedError(
                            "the process that scans has ended"
                            if _ending.is_set()
                            else "nobody reads it any more"
                        )
        except Exception:  # readers are told by the stream
            if not self._is_read():
                with contextlib.suppress(VineyardArrowError):
                    self.client.drop_stream(self.writer.id)

    def _written(self, batch: pa.RecordBatch) -> bool:
        while not _ending.is_set():
            try:
                self.writer.write(batch, timeout_s=_LOOK_S)
                return True
            except DeadlineExceededError:  # nothing of it was written
                if not self._is_read():
                    break
        return False

    def _is_wanted(self) -> bool:
        return not _ending.is_set() and self._is_read()

    def _is_read(self) -> bool:
        source = self.source()
        if source is not None and source.let_go.alive:
            return True
        try:
            infos = self.client.list_streams()
        except VineyardArrowError:
            return False
        return any(info.readers for info in infos if info.id == self.writer.id)

"""The client's end of a line: one request, one reply, with a deadline.

Errors of Flight become ours here. Knows no objects.
"""

from __future__ import annotations

import contextlib
import mmap
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight

from ..errors import (
    AccessDeniedError,
    ConnectionLostError,
    DeadlineExceededError,
    ProtocolError,
    VineyardArrowError,
    from_code,
)
from ..ipc import protocol as p
from ..types.memory import BYTES
from . import messages as m
from .transit import Chunk, nbytes_of, piece_bytes, pieces
from .watch import Watch

SMALL_NBYTES = 16 << 10  # up to here a payload travels with its message
HUGE_NBYTES = 4 << 20  # from here on a block of memory is worth pages of its own


class Line:
    """A call that stays open. One thread at a time.

    Parameters
    ----------
    client : pyarrow.flight.FlightClient
    options : pyarrow.flight.FlightCallOptions
    watch : Watch
        Of the deadlines.
    place : str
        What errors call the store.
    timeout_s : float
        The longest that nothing may come or go.

    Attributes
    ----------
    lost : bool
        Whether it is of no more use.
    """

    def __init__(
        self,
        client: flight.FlightClient,
        options: flight.FlightCallOptions,
        watch: Watch,
        place: str,
        timeout_s: float,
    ) -> None:
        self._watch = watch
        self._place = place
        self._timeout_s = timeout_s
        self._late = False
        self._heard = False  # anything at all
        self.lost = False
        with self._translated():
            descriptor = flight.FlightDescriptor.for_command(m.LINE)
            self._writer, self._reader = client.do_exchange(descriptor, options)
            self._writer.begin(BYTES)

    def request(
        self, message: Any, chunks: Sequence[Chunk] = (), timeout_s: float | None = None
    ) -> tuple[Any, pa.Buffer]:
        """Send a message with payload; the reply and its payload.

        Raises
        ------
        VineyardArrowError
            What the store answered, if that is a failure.
        ConnectionLostError
            If the line is, or breaks.
        DeadlineExceededError
            If nothing came or went for ``timeout_s``. The line is lost then, too.
        """
        data = m.encode(message, nbytes_of(chunks))  # may raise: nothing is sent yet
        with self._translated():
            try:
                send(self._writer, data, chunks, lambda: self._await(self._timeout_s))
                self._await(self._timeout_s if timeout_s is None else timeout_s)
                chunk = self._reader.read_chunk()
                reply, nbytes, here = m.decode(chunk.app_metadata, requests=False)
                self._heard = True
                payload = self._receive(nbytes, here or chunk.data)
            finally:
                self._watch.clear(self)
        if isinstance(reply, p.Failure):
            raise from_code(reply.code, reply.message, reply.hint)
        return reply, payload

    def _await(self, timeout_s: float) -> None:
        self._watch.set(self, timeout_s, self._cut)

    def _cut(self) -> None:
        self._late = True
        self._reader.cancel()

    def _receive(self, nbytes: int, first: Any) -> pa.Buffer:
        memory = block(nbytes)
        for at in fill(memory, nbytes, first, self._next_piece):
            if at < nbytes:
                self._await(self._timeout_s)
        return memory

    def _next_piece(self) -> Any:
        return self._reader.read_chunk().data

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Within the block, Flight's errors become ours, and end the line, as do all others."""
        if self.lost:
            raise self._gone("this line was ended")
        try:
            yield
        except VineyardArrowError:
            self.close()
            raise
        except (StopIteration, flight.FlightError, pa.ArrowException, OSError) as error:
            late = self._late
            self.close()
            if late:
                raise DeadlineExceededError(f"{self._place} did not answer in time") from None
            raise self._error(error) from None
        except BaseException:  # a signal handler raised, with half a message out perhaps
            self.close()
            raise

    def _error(self, error: BaseException) -> VineyardArrowError:
        said = getattr(error, "extra_info", b"")
        if said:
            with contextlib.suppress(ProtocolError):
                told, *_ = m.decode(said, requests=False)
                return from_code(told.code, told.message, told.hint)
        why = str(error).partition(". gRPC client debug")[0].partition(". Detail:")[0]
        why = re.sub(r"^Flight returned .*?, with message: |.*last error: UNKNOWN: ", "", why)
        if isinstance(error, flight.FlightUnauthenticatedError | flight.FlightUnauthorizedError):
            return AccessDeniedError(
                f"{self._place} refuses this client: {why}", "connect(..., token=...) with its own"
            )
        return self._gone(why or "it ended the call")

    def _gone(self, why: str) -> ConnectionLostError:
        if not self._heard:
            return ConnectionLostError(
                f"no store answers at {self._place} ({why})",
                f"on its host: vineyard-arrow start --rpc {self._place}; or has one end TLS alone?",
            )
        return ConnectionLostError(
            f"the store at {self._place} is gone ({why})",
            "data already got stays readable; connect() anew once it serves again",
        )

    def close(self) -> None:
        """End the call. May be called twice."""
        if not self.lost:
            self.lost = True
            self._watch.clear(self)
            with contextlib.suppress(Exception):
                self._reader.cancel()
            with contextlib.suppress(Exception):  # else Arrow complains on standard error
                self._writer.close()


def send(
    writer: Any, message: bytes, chunks: Sequence[Chunk], before_each: Callable[[], object]
) -> None:
    """Write a message, and its payload in pieces; a small one with the message, as that is fast."""
    if nbytes_of(chunks) <= SMALL_NBYTES:
        before_each()
        writer.write_metadata(b"".join([message, *(memoryview(chunk) for chunk in chunks)]))
        return
    metadata: bytes | None = message
    for batch in pieces(chunks):
        before_each()
        if metadata is None:
            writer.write_batch(batch)
        else:
            writer.write_with_metadata(batch, metadata)
            metadata = None


def block(nbytes: int) -> pa.Buffer:
    """Writable memory at a multiple of 64 bytes, on huge pages if it is large."""
    if nbytes < HUGE_NBYTES:
        return pa.allocate_buffer(nbytes)
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return pa.py_buffer(memory)


def fill(memory: pa.Buffer, nbytes: int, first: Any, more: Any) -> Iterator[int]:
    """Copy the pieces of a payload to ``memory``: ``first``, then what ``more()`` gives.

    A piece is a batch of bytes, or the bytes that came with a message.

    Yields how many bytes are there, after each.

    Raises
    ------
    ProtocolError
        If other than ``nbytes`` come.
    """
    if not nbytes:
        return
    view = np.frombuffer(memory, np.uint8)
    at = 0
    while at < nbytes:
        piece = first if first is not None else more()
        first = None
        if piece is None:
            raise ProtocolError(f"the payload ended at {at:,} of {nbytes:,} bytes")
        data = np.frombuffer(
            piece if isinstance(piece, memoryview) else piece_bytes(piece), np.uint8
        )
        if not 0 < data.size <= nbytes - at:
            raise ProtocolError(f"a piece of {data.size:,} bytes at {at:,} of {nbytes:,}")
        view[at : at + data.size] = data
        at += data.size
        yield at

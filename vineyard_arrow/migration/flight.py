"""The transport ``flight``: Arrow Flight's DoExchange, for networks that let gRPC through alone.

Bytes travel as record batches of one column; each end copies what comes to its place. gRPC's
calls have no deadline that could be met again and again, so they run in threads of their own.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.flight as fl

from ..errors import ConfigError, ConnectionLostError, DeadlineExceededError
from .transports import DroppedError, transport

_SCHEMA = pa.schema([pa.field("bytes", pa.uint8(), nullable=False)])
_BATCH = 512 << 10  # bytes; gRPC and Arrow's allocator keep dozens about
_AHEAD = 2  # batches that wait on either side of a connection
_CLOSE_S = 1.0
_END = object()


class FlightChannel:
    """One call of DoExchange, seen from either end."""

    def __init__(self, reader: Any, writer: Any, timeout_s: float, client: Any = None) -> None:
        self._reader, self._writer = reader, writer
        self._timeout_s = timeout_s
        self._client = client  # which the call needs, at that end
        self._rest = memoryview(b"")
        self._incoming: queue.Queue[Any] = queue.Queue(_AHEAD)
        self._outgoing: queue.Queue[Any] = queue.Queue(_AHEAD)
        self._broken: str | None = None
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._read_all, self._write_all)
        ]
        for thread in self._threads:
            thread.start()

    def set_timeout(self, timeout_s: float) -> None:
        """See `Channel.set_timeout`."""
        self._timeout_s = timeout_s

    def send(self, pieces: Sequence[memoryview | bytes]) -> None:
        """See `Channel.send`."""
        if self._broken is not None:
            raise DroppedError(f"a connection of the migration broke off: {self._broken}")
        whole = memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        try:
            for begin in range(0, len(whole), _BATCH):
                self._outgoing.put(whole[begin : begin + _BATCH], timeout=self._timeout_s)
        except queue.Full:
            raise DeadlineExceededError("the other end of the migration does not read") from None

    def receive_into(self, targets: Sequence[memoryview]) -> int:
        """See `Channel.receive_into`."""
        if not self._rest:
            try:
                found = self._incoming.get(timeout=self._timeout_s)
            except queue.Empty:
                raise DeadlineExceededError("the other end of the migration sends nothing") from (
                    None
                )
            if found is _END:
                self._incoming.put(_END)
                return 0
            self._rest = found
        done = 0
        for target in targets:
            part = self._rest[: len(target)]
            target[: len(part)] = part
            self._rest = self._rest[len(part) :]
            done += len(part)
            if not self._rest:
                break
        return done

    def close(self) -> None:
        """See `Channel.close`."""
        try:
            self._outgoing.put(_END, timeout=_CLOSE_S)
        except queue.Full:
            return
        self._threads[1].join(_CLOSE_S)
        if self._client is not None:
            self._threads[0].join(_CLOSE_S)

    def join(self) -> None:
        """Wait until both ends have closed it."""
        for thread in self._threads:
            thread.join()

    def _read_all(self) -> None:
        try:
            while True:
                batch = self._reader.read_chunk().data
                self._incoming.put(memoryview(batch.column(0).buffers()[1]).cast("B"))
        except (StopIteration, pa.ArrowException, OSError):
            self._incoming.put(_END)

    def _write_all(self) -> None:
        try:
            self._writer.begin(_SCHEMA)
            while (piece := self._outgoing.get()) is not _END:
                column = pa.Array.from_buffers(
                    pa.uint8(), len(piece), [None, pa.py_buffer(piece)], null_count=0
                )
                self._writer.write_batch(pa.record_batch([column], schema=_SCHEMA))
            if self._client is not None:
                self._writer.done_writing()
        except (pa.ArrowException, OSError) as error:
            self._broken = str(error).split("\n")[0]


def _location(host: str, port: int) -> str:
    return f"grpc+tcp://[{host}]:{port}" if ":" in host else f"grpc+tcp://{host}:{port}"


class _Server(fl.FlightServerBase):  # type: ignore[misc]
    def __init__(self, location: str, arrivals: queue.Queue[FlightChannel]) -> None:
        super().__init__(location)
        self._arrivals = arrivals

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        channel = FlightChannel(reader, writer, _CLOSE_S)
        self._arrivals.put(channel)
        channel.join()  # reader and writer end with the call


class FlightListener:
    """A Flight server that knows DoExchange alone."""

    def __init__(self, host: str) -> None:
        self._arrivals: queue.Queue[FlightChannel] = queue.Queue()
        try:
            self._server = _Server(_location(host, 0), self._arrivals)
        except (pa.ArrowException, OSError) as error:
            raise ConfigError(f"cannot listen on {host}: {error}") from None
        self.address = f"{host}:{self._server.port}"

    def accept(self, timeout_s: float) -> FlightChannel:
        """See `Listener.accept`."""
        try:
            channel = self._arrivals.get(timeout=max(timeout_s, 0.0))
        except queue.Empty:
            raise DeadlineExceededError(f"no sender came to {self.address}") from None
        channel.set_timeout(timeout_s)
        return channel

    def close(self) -> None:
        """See `Listener.close`. The server ends with the process: it waits for its calls."""


@transport("flight")
class FlightTransport:
    """Arrow Flight, without credentials of its own: the two ends prove themselves over it."""

    def listen(self, host: str) -> FlightListener:
        """See `Transport.listen`."""
        return FlightListener(host)

    def connect(self, address: str, timeout_s: float) -> FlightChannel:
        """See `Transport.connect`."""
        host, _, port = address.rpartition(":")
        try:  # gRPC would wait for somebody to listen
            socket.create_connection((host, int(port)), timeout_s).close()
            client = fl.connect(_location(host, int(port)))
            descriptor = fl.FlightDescriptor.for_command(b"vineyard-arrow.migration")
            writer, reader = client.do_exchange(descriptor)
        except (pa.ArrowException, OSError) as error:
            raise ConnectionLostError(f"no receiver listens at {address}: {error}") from None
        return FlightChannel(reader, writer, timeout_s, client)

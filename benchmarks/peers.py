"""The other processes: what a benchmark runs at the far end.

A `Peer` is a spawned process that carries out functions of this module on request. What
they keep between calls lies in `held`, of which each process has its own.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing as mp
import os
import pickle
import socket as sockets
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import pyarrow as pa

import vineyard_arrow

held: dict[str, Any] = {}


class Peer:
    """A process at the far end. ``call`` waits for the result, ``start`` and ``result`` don't."""

    def __init__(self) -> None:
        context = mp.get_context("spawn")
        self._control, theirs = context.Pipe()
        pipe, self._pipe = context.Pipe(duplex=False)
        self._process = context.Process(target=_serve, args=(theirs, pipe), daemon=True)
        self._process.start()
        theirs.close()
        pipe.close()
        self.pipe = open(self._pipe.fileno(), "wb", closefd=False)  # noqa: SIM115

    def start(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._control.send((function, arguments))

    def result(self) -> Any:
        value, error = self._control.recv()
        if error is not None:
            raise RuntimeError(f"a peer failed: {error}")
        return value

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self.start(function, *arguments)
        return self.result()

    def close(self) -> None:
        self._control.close()
        self.pipe.close()
        self._pipe.close()
        self._process.join(10)


def _serve(control: Any, pipe: Any) -> None:
    with contextlib.suppress(EOFError), open(pipe.fileno(), "rb", closefd=False) as held["pipe"]:
        while True:
            function, arguments = control.recv()
            try:
                control.send((function(*arguments), None))
            except Exception as error:
                control.send((None, repr(error)))


class Echo:
    """The bare yardstick: a UNIX socket, and a process that sends back what it receives.

    The round trip is one between two cores. Left alone, the scheduler puts both ends on one
    core for a while and apart for another, and the same round trip takes a third or all of
    that time; what it is compared with does not follow.
    """

    MESSAGE = b"x" * 64

    def __init__(self) -> None:
        context = mp.get_context("spawn")
        self._sock, theirs = sockets.socketpair()
        self._process = context.Process(target=_echo, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.pid = self._process.pid
        self.round_trip()

    def round_trip(self) -> None:
        self._sock.send(self.MESSAGE)
        self._sock.recv(4096)

    @contextlib.contextmanager
    def placed(self, *, apart: bool = True) -> Iterator[None]:
        """Within the block this thread and the far end are on two cores, or on one."""
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(self.pid, {cores[-1 if apart else 0]})
        os.sched_setaffinity(0, {cores[0]})  # this thread alone
        try:
            yield
        finally:
            os.sched_setaffinity(0, cores)

    def p50(self, calls: int = 200, *, apart: bool = True) -> float:
        """Median time of a round trip, in seconds."""
        with self.placed(apart=apart):
            return statistics.median([_seconds(self.round_trip) for _ in range(calls)])

    def close(self) -> None:
        self._sock.close()
        self._process.join(10)


def _echo(sock: sockets.socket) -> None:
    while data := sock.recv(4096):
        sock.send(data)


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


# ---- what peers do -----------------------------------------------------------------------------


def attach(socket: str) -> int:
    """Connect to the store; the process's pid."""
    held["client"] = vineyard_arrow.connect(socket, autostart=False)
    return os.getpid()


def detach() -> None:
    held.pop("client").close()
    gc.collect()


def get_for(key: Any, duration_s: float) -> float:
    """Get an object over and over; the median time of one get."""
    get = held["client"].get
    get(key)
    taken = []
    end = time.perf_counter() + duration_s
    while time.perf_counter() < end:
        start = time.perf_counter()
        get(key)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def put_get_delete(count: int) -> None:
    """Put, get and delete small objects, one after the other."""
    client = held["client"]
    table = pa.table({"i": np.arange(8)})
    for _ in range(count):
        oid = client.put(table)
        client.get(oid)
        client.delete(oid)


def connect_times(socket: str, count: int) -> list[float]:
    """Connect and close, ``count`` times; how long each connect took."""
    out = []
    for _ in range(count):
        start = time.perf_counter()
        client = vineyard_arrow.connect(socket, autostart=False)
        out.append(time.perf_counter() - start)
        client.close()
    return out


def read_stream(key: Any, touch: bool) -> int:
    """Read a stream to its end, and sum up its first column if asked to; its batches."""
    batches = 0
    for batch in held["client"].open_stream(key):
        if touch:
            np.frombuffer(batch.column(0).buffers()[1], np.uint64).sum()
        batches += 1
        del batch  # before the wait for the next one
    return batches


def send_back(key: Any, name: str, schema: pa.Schema) -> int:
    """Write each batch of a stream to another one; how many."""
    client, batches = held["client"], 0
    reader = client.open_stream(key)
    with client.create_stream(schema, name=name) as writer:
        for batch in reader:
            writer.write(batch)
            batches += 1
            del batch
    return batches


# ---- a bare Flight server


def flight_table(nbytes: int) -> pa.Table:
    """Four columns of numbers, ``nbytes`` in all."""
    return pa.table({name: np.arange(i, i + nbytes // 32) for i, name in enumerate("abcd")})


def serve_flight() -> int:
    """Serve a table of 1 GiB in batches of 4 MiB, and actions that echo; the port."""
    import pyarrow.flight as flight

    table = flight_table(1 << 30)
    schema, batches = table.schema, table.to_batches(max_chunksize=(4 << 20) // 32)

    class Server(flight.FlightServerBase):
        def do_action(self, context: Any, action: Any) -> list[bytes]:
            return [action.body.to_pybytes()]

        def do_get(self, context: Any, ticket: Any) -> Any:
            small = ticket.ticket == b"small"
            given = [batches[0].slice(0, 8)] if small else batches
            return flight.RecordBatchStream(pa.Table.from_batches(given, schema))

    held["flight"] = server = Server("grpc://127.0.0.1:0")
    return int(server.port)


def stop_flight() -> None:
    held.pop("flight").shutdown()


# ---- the ways to receive a table; each returns its rows, to show that it is there ---------------


def receive_object(key: int) -> int:
    return held["client"].get(key).num_rows


def receive_pickle() -> int:
    return pickle.load(held["pipe"]).num_rows


def receive_shared_memory(name: str, columns: list[tuple[str, str, int, int]]) -> int:
    """Wrap columns (name, dtype, offset, rows) of a `multiprocessing.shared_memory`."""
    block = SharedMemory(name)
    arrays = {
        column: pa.array(np.frombuffer(block.buf, dtype, rows, offset))
        for column, dtype, offset, rows in columns
    }
    rows = pa.table(arrays).num_rows
    del arrays
    block.close()
    return rows


def receive_file(path: str) -> int:
    with pa.memory_map(path) as source:
        return pa.ipc.open_file(source).read_all().num_rows


def send_raw(port: int, nbytes: int) -> None:
    """Send memory that is kept warm to a socket."""
    if len(held.get("raw", b"")) != nbytes:
        held["raw"] = np.ones(nbytes, np.uint8)
    with sockets.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(held["raw"])

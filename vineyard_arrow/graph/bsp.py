"""Programs over fragments in processes of their own, in supersteps with a barrier between them.

Bulk synchronous (Valiant 1990): each worker computes on its fragment, leaves what others need in
shared memory, and goes on when all have done so. A program is a function of a `Worker`. There is a
process a fragment, started for one run and gone after it; the caller's process is the coordinator.

Blocks of shared memory are the store's, one for each worker to write, and are unlinked as soon as
all have them open: they end with the processes, however these end. Barriers are messages over a
socket to the coordinator, who sees at once when a worker dies, and stops waiting at a deadline.
A worker ends when the coordinator is gone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import (
    DeadlineExceededError,
    InvalidGraphError,
    VineyardArrowError,
    WorkerFailedError,
    from_code,
)
from ..objects import ObjectID
from .arrays import Array
from .balance import check_number
from .bsp_exchange import Exchange, View, view_of_fragment, view_of_ranges
from .fragments import virtual_fragments
from .global_graph import GlobalGraph
from .graph import Graph
from .schema import Triple
from .vertex_map import MAX_FRAGMENTS

if TYPE_CHECKING:
    from ..client import Client

__all__ = ["Program", "Worker", "run"]

_START_S = 60.0  # in which a process is to start, get the graph and find its fragment
_REAP_S = 5.0  # in which one that has closed its socket is to be dead


class Worker:
    """What a program sees: its fragment, and the others by way of it.

    Attributes
    ----------
    view : View
        The edges of the triple in this fragment, and which vertices are its own.
    """

    def __init__(self, view: View, client: Client, connection: Connection, timeout_s: float):
        from ..shared_memory import SharedMemory

        self.view, self._connection, self._timeout_s = view, connection, timeout_s
        names = self._ask("size", Exchange.nbytes(view))
        blocks = [SharedMemory(name, client=client) for name in names]
        self._exchange = Exchange(view, blocks)
        self._ask("attached", None)
        self._exchange.open()

    def sync(self, values: Array, total: Sequence[float] = ()) -> Array:
        """Tell others the values of inner vertices, and take theirs for the outer ones.

        One superstep: it returns when all workers have called it.

        Parameters
        ----------
        values : numpy.ndarray
            float64, by local id; those of outer vertices are overwritten.
        total : sequence of float
            Numbers to add up over all workers, in the order of fids.

        Returns
        -------
        numpy.ndarray
            float64: the sums.
        """
        self._exchange.write_inner(values)
        sums = self._barrier(total)
        self._exchange.read_outer(values)
        return sums

    def collect(self, flags: Array, total: Sequence[float] = ()) -> Array:
        """Tell the owners of outer vertices which of these are flagged, and flag inner ones.

        One superstep, as `sync`.

        Parameters
        ----------
        flags : numpy.ndarray
            bool, by local id; inner vertices that are flagged elsewhere become so here.
        """
        self._exchange.write_flags(flags)
        sums = self._barrier(total)
        self._exchange.read_flags(flags)
        return sums

    def _barrier(self, total: Sequence[float]) -> Array:
        sums: Array = self._ask("barrier", np.asarray(total, np.float64))
        return sums

    def _ask(self, what: str, value: Any) -> Any:
        self._connection.send((what, value))
        # It waits for the others, each time within its own deadline, and ends us if that passes.
        if not self._connection.poll(2 * max(_START_S, self._timeout_s)):
            raise DeadlineExceededError("the coordinator does not answer")
        return self._connection.recv()


Program = Callable[..., Any]
"""Called as ``program(worker, **arguments)``; what it returns is pickled."""


def run(
    program: Program,
    graph: Graph | GlobalGraph | int | str,
    k: int | None = None,
    *,
    triple: Triple | str | None = None,
    arguments: dict[str, Any] | None = None,
    client: Client | None = None,
    timeout_s: float = 60.0,
) -> list[Any]:
    """Run a program over the fragments of a stored graph, each in a process of its own.

    Parameters
    ----------
    program : callable
        Of a module that the processes can import; see `Program`.
    graph : Graph or GlobalGraph, ObjectID, int or str
        One that was got from a store, or its id or name. A `Graph` is cut into ``k`` virtual
        fragments; a `GlobalGraph` has its own.
    k : int, optional
        How many processes: needed for a `Graph`.
    triple : triple or str, optional
        Which edges: needed unless the graph has one triple. Both ends are of one label.
    arguments : dict, optional
        Further ones of the program; they are pickled.
    client : Client, optional
        Of the store; the default client, if not given.
    timeout_s : float
        How long a superstep may take. Starting the processes may take a minute, or longer than
        that if this is.

    Returns
    -------
    list
        What the program returned, by fid.

    Raises
    ------
    WorkerFailedError
        If a worker died, or raised an error: says which. Errors of ours are raised as they are.
        All workers are ended.
    DeadlineExceededError
        If a superstep took too long; all workers are ended.
    """
    if client is None:
        from .. import default_client

        client = default_client()
    key, fnum = _source(graph, k, client)
    job = (str(client._a.socket), key, fnum, triple, program, arguments or {}, timeout_s)
    with _Crew(fnum, timeout_s) as crew:
        crew.send([sys.path] * fnum)
        crew.send([(fid, *job) for fid in range(fnum)])
        return _conduct(crew, client)


def _source(graph: Any, k: int | None, client: Client) -> tuple[int, int]:
    """The object that workers are to get, and how many they are."""
    if isinstance(graph, Graph | GlobalGraph):
        if graph.origin is None or graph.origin.socket != str(client._a.socket):
            raise InvalidGraphError(
                "this graph was not got from this store, so other processes cannot have it",
                "put it, and give its id or what get gives",
            )
        key = graph.origin.id
        client.get_meta(key)  # it may be gone, and the daemon too
    else:
        key, graph = client._resolve(graph), client.get(graph)
    if isinstance(graph, GlobalGraph):
        if k not in (None, graph.fnum):
            raise InvalidGraphError(
                f"{k} processes for {graph.fnum} fragments", "leave k out, or repartition"
            )
        return key, graph.fnum
    if not isinstance(graph, Graph):
        raise InvalidGraphError(f"{ObjectID(key)} is a {type(graph).__name__}, no graph")
    if k is None:
        raise InvalidGraphError("into how many fragments?", "give k")
    return key, check_number(k, MAX_FRAGMENTS)


# ---- the coordinator


class _Crew:
    """The processes of one run, and a connection to each. Leaving the block ends them."""

    def __init__(self, fnum: int, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._connections: list[Connection] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        package = str(Path(__file__).resolve().parents[2])  # wherever it was imported from
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        code = f"from {__name__} import work; work({{}})"
        try:
            for _ in range(fnum):
                ours, theirs = _pair(max(_START_S, timeout_s))
                self._connections.append(ours)
                with theirs:
                    command = [sys.executable, "-c", code.format(theirs.fileno())]
                    self._processes.append(
                        subprocess.Popen(
                            command,
                            stdin=subprocess.DEVNULL,
                            pass_fds=[theirs.fileno()],
                            start_new_session=True,  # Ctrl-C is for the caller, who ends them
                            env=env,
                        )
                    )
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> _Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def send(self, messages: Sequence[Any]) -> None:
        """A message to each, by fid; who cannot take it has died, which `receive` tells."""
        pickles = [ForkingPickler.dumps(message) for message in messages]
        for fid, message in enumerate(pickles):
            try:
                self._connections[fid].send_bytes(message)
            except BlockingIOError:
                raise self._stuck(fid) from None
            except ConnectionError:
                pass

    def receive(self, timeout_s: float | None = None) -> tuple[str, list[Any]]:
        """One message of each: its kind, and the values by fid."""
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + timeout_s
        found: dict[int, tuple[str, Any]] = {}
        while len(found) < len(self._connections):
            waiting = {c: i for i, c in enumerate(self._connections) if i not in found}
            ready = wait(list(waiting), max(0.0, deadline - time.monotonic()))
            if not ready:
                raise DeadlineExceededError(
                    f"workers {sorted(waiting.values())} of {len(self._connections)} did not end"
                    f" a superstep within {timeout_s:g} s",
                    "give a longer timeout_s",
                )
            for connection in ready:
                fid = waiting[connection]  # type: ignore[index]
                found[fid] = self._message(fid)
        kinds = {kind for kind, _ in found.values()}
        if len(kinds) > 1:
            raise WorkerFailedError(
                f"workers are out of step: {', '.join(f'{i}: {found[i][0]}' for i in found)}",
                "all of them have to take part in all supersteps",
            )
        return kinds.pop(), [found[fid][1] for fid in range(len(found))]

    def _message(self, fid: int) -> tuple[str, Any]:
        try:
            kind, value = self._connections[fid].recv()
        except BlockingIOError:
            raise self._stuck(fid) from None
        except (EOFError, ConnectionError):
            process = self._processes[fid]
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_REAP_S)
            raise WorkerFailedError(
                f"worker {fid} of {len(self._processes)} died (exit status {process.returncode})",
                "a negative status is the signal that ended it; -9 may be for lack of memory",
            ) from None
        if kind == "error":
            code, message, hint = value
            raise from_code(code, f"worker {fid}: {message}", hint)
        return kind, value

    def _stuck(self, fid: int) -> DeadlineExceededError:
        return DeadlineExceededError(
            f"worker {fid} of {len(self._processes)} stopped within a message"
        )

    def end(self) -> None:
        """End what still runs, and wait for it."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()


def _pair(timeout_s: float) -> tuple[Connection, socket.socket]:
    """Both ends of a connection; ours waits only so long within a message."""
    ours, theirs = socket.socketpair()
    limit = struct.pack("@ll", int(timeout_s), int(timeout_s % 1 * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        ours.setsockopt(socket.SOL_SOCKET, option, limit)
    return Connection(ours.detach()), theirs


def _conduct(crew: _Crew, client: Client) -> list[Any]:
    """Answer the workers until they are done."""
    from ..shared_memory import SharedMemory

    _, sizes = crew.receive(max(_START_S, crew.timeout_s))
    with contextlib.ExitStack() as made:
        names = []
        for nbytes in sizes:
            block = SharedMemory(create=True, size=nbytes, client=client)
            made.callback(block.unlink)
            made.callback(block.close)
            names.append(block.name)
        crew.send([names] * len(sizes))
        _, values = crew.receive()
    kind = "attached"
    while kind != "done":
        # In the order of fids, so that a run gives the same bits each time.
        answer = sum(values[1:], values[0]) if kind == "barrier" else None
        crew.send([answer] * len(values))
        kind, values = crew.receive()
    return values


# ---- a worker


def work(fd: int) -> None:
    """What a worker's process does; ``fd`` leads to the coordinator."""
    connection = Connection(fd)
    try:
        sys.path[:] = connection.recv()
        connection.send(_done(connection))
    except (EOFError, ConnectionError):
        os._exit(1)  # there is nobody to tell


def _done(connection: Connection) -> tuple[str, Any]:
    from ..client import connect

    try:
        fid, path, key, fnum, triple, program, arguments, timeout_s = connection.recv()
        with connect(path, autostart=False) as client:
            graph = client.get(key)
            if isinstance(graph, GlobalGraph):
                view = view_of_fragment(graph.fragment(fid, fetch=True), triple)
            else:
                view = view_of_ranges(virtual_fragments(graph, fnum), fid, triple)
            return "done", program(Worker(view, client, connection, timeout_s), **arguments)
    except VineyardArrowError as error:
        return "error", (error.code, error.message, error.hint)
    except (EOFError, ConnectionError):
        raise
    except Exception as error:
        lines = traceback.format_exception_only(error)
        where = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{''.join(lines).strip()} ({Path(where.filename).name}:{where.lineno})"
        return "error", (WorkerFailedError.code, what, None)

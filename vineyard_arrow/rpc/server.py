"""The process that serves a store over TCP: a Flight server over an ordinary client.

A process of its own, so that the daemon touches no payload and nothing that comes over the
network can end it. The daemon starts it, and it ends when its standard input does, which the
daemon holds: at the latest with the daemon. See `supervisor`.
"""

from __future__ import annotations

import contextlib
import functools
import hmac
import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.flight as flight

from ..client import Client
from ..config import client_config, read_file, read_token
from ..errors import (
    AccessDeniedError,
    ConfigError,
    DeadlineExceededError,
    InvalidObjectError,
    ProtocolError,
    VineyardArrowError,
)
from ..ipc import protocol as p
from ..ipc.attached import Attached
from ..migration.endpoint import Place
from ..migration.ends import ForkServer
from ..objects import ObjectID
from ..types.memory import BYTES
from . import messages as m
from .ends import serve_end
from .line import fill, send
from .lines import LineEnd, Peers
from .tables import batches_of, flight_info, key_of, list_infos, table_of, text_of
from .transit import batches_in, nbytes_of, pieces, stream_of, tables_of
from .watch import Watch

log = logging.getLogger("vineyard_arrow.rpc")
_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Settings:
    """What the daemon tells the process, in JSON; the files are read by the process itself."""

    socket: str
    host: str
    port: int
    token_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


# ---- who may come in


class _Gate(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    """Lets calls pass that carry the token."""

    def __init__(self, token: bytes) -> None:
        super().__init__()
        self._expected = b"Bearer " + token

    def start_call(self, info: Any, headers: dict[str, list[Any]]) -> None:
        for value in headers.get("authorization", []):
            given = value.encode() if isinstance(value, str) else value
            if hmac.compare_digest(given, self._expected):
                return
        raise flight.FlightUnauthenticatedError("a call without the token, or with a wrong one")


def cut_off(peer: str) -> None:
    """End the connection of a peer that stopped reading or writing: gRPC has no way to."""
    _, _, address = peer.partition(":")
    host, _, port = unquote(address).rpartition(":")
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError, ValueError):
            sock = socket.socket(fileno=os.dup(int(name)))
            try:
                found = sock.getpeername()
                # gRPC's sockets are of IPv6, whatever comes by them.
                if (found[0].removeprefix("::ffff:"), found[1]) == (host.strip("[]"), int(port)):
                    sock.shutdown(socket.SHUT_RDWR)
                    log.warning("cut %s off: it stopped reading or writing", peer)
            finally:
                sock.close()


# ---- the server


def _translated(method: _F) -> _F:
    """Tell a stock client of our errors, by those of Flight that it knows."""

    @functools.wraps(method)
    def call(*arguments: Any) -> Any:
        try:
            return method(*arguments)
        except VineyardArrowError as error:
            raise _told(error) from None

    return cast(_F, call)


def _told(error: VineyardArrowError) -> Any:
    extra = error.code.encode()
    if isinstance(error, DeadlineExceededError):
        return flight.FlightTimedOutError(str(error), extra)
    if isinstance(error, AccessDeniedError):
        return flight.FlightUnauthorizedError(str(error), extra)
    if isinstance(error, LookupError):
        return KeyError(str(error))
    return flight.FlightServerError(str(error), extra)


def _refusal(error: VineyardArrowError) -> Any:
    """The last word on a line: what comes next on it may be anything."""
    return flight.FlightServerError(str(error), m.encode(p.failure(error)))


class Server(flight.FlightServerBase):  # type: ignore[misc]
    """Serves one store: our own clients by lines, all others by tables."""

    def __init__(self, settings: Settings) -> None:
        config = client_config(socket=settings.socket, autostart=False)
        token = None
        if settings.token_file is not None:
            token = read_token(settings.token_file).encode()
        tls = settings.cert_file is not None
        self._vouched = token is not None
        self._attached = Attached(config, vouched=self._vouched)
        self._attached.users = 1
        self._client = Client(self._attached, trusted=False)
        self._timeout_s = config.timeout_s
        self._watch = Watch()
        self._peers = Peers()
        self._forks = ForkServer()
        self._place = Place(
            settings.socket, settings.host, settings.cert_file, settings.key_file, self._vouched
        )
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        super().__init__(
            f"grpc+{'tls' if tls else 'tcp'}://{host}:{settings.port}",
            middleware=None if token is None else {"token": _Gate(token)},
            tls_certificates=_certificates(settings) if tls else None,
        )

    @contextlib.contextmanager
    def _watched(self, context: Any) -> Iterator[Callable[[], None]]:
        """Within the block, the peer is cut off unless the function given is called often."""
        key, peer = object(), context.peer()
        peer = peer.decode() if isinstance(peer, bytes) else peer

        def progress() -> None:
            self._watch.set(key, self._timeout_s, lambda: cut_off(peer))

        progress()
        try:
            yield progress
        finally:
            self._watch.clear(key)

    # ---- lines

    @_translated
    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """A line of a client of ours, or an end of a migration, until it ends."""
        if descriptor.command == m.MIGRATION:
            writer.begin(BYTES)

            def tell(said: bytes) -> None:
                with self._watched(context):
                    writer.write_metadata(said)

            serve_end(self._forks, self._place, context, reader, tell)
            return
        if descriptor.command != m.LINE:
            raise flight.FlightServerError("this store exchanges nothing but lines of its clients")
        end = LineEnd(self._attached, self._vouched, self._peers, context.is_cancelled)
        try:
            writer.begin(BYTES)
            self._serve_line(context, end, reader, writer)
        finally:
            end.close()

    def _serve_line(self, context: Any, end: LineEnd, reader: Any, writer: Any) -> None:
        while True:
            try:
                chunk = reader.read_chunk()
            except StopIteration:
                return
            try:
                message, nbytes, here = m.decode(chunk.app_metadata, requests=True)
                data = self._receive(context, end, message, nbytes, here or chunk.data, reader)
            except VineyardArrowError as error:
                raise _refusal(error) from None
            try:
                reply, chunks = end.handle(message, data)
            except ProtocolError as error:
                raise _refusal(error) from None
            except VineyardArrowError as error:
                reply, chunks = p.failure(error), ()
            except Exception as error:
                log.exception("request %s failed", type(message).__name__)
                internal = VineyardArrowError(f"internal error of the store: {error!r}")
                reply, chunks = p.failure(internal), ()
            del data, message, here, chunk
            self._reply(context, writer, reply, chunks)
            del reply, chunks

    def _receive(
        self, context: Any, end: LineEnd, message: Any, nbytes: int, first: Any, reader: Any
    ) -> pa.Buffer | None:
        if not nbytes:
            return None
        memory = end.memory_for(message, nbytes)
        with self._watched(context) as progress:
            for _ in fill(memory, nbytes, first, lambda: reader.read_chunk().data):
                progress()
        return memory

    def _reply(self, context: Any, writer: Any, reply: Any, chunks: Any) -> None:
        try:
            message = m.encode(reply, nbytes_of(chunks))
        except VineyardArrowError as error:
            message, chunks = m.encode(p.failure(error)), ()
        with self._watched(context) as progress:
            send(writer, message, chunks, progress)

    # ---- tables

    @_translated
    def list_flights(self, context: Any, criteria: bytes) -> Iterator[flight.FlightInfo]:
        """Objects whose name or typename matches a pattern (as in a shell); all by default."""
        return iter(list(list_infos(self._client, text_of(criteria))))

    @_translated
    def get_flight_info(self, context: Any, descriptor: Any) -> flight.FlightInfo:
        """That of one object."""
        object_id = ObjectID(self._client._resolve(key_of(descriptor)))
        return flight_info(self._client, object_id, descriptor)

    @_translated
    def get_schema(self, context: Any, descriptor: Any) -> flight.SchemaResult:
        """Of one object as a table."""
        return flight.SchemaResult(table_of(self._client, key_of(descriptor)).schema)

    @_translated
    def do_get(self, context: Any, ticket: Any) -> flight.FlightDataStream:
        """An object as a table; the ticket is its id, or a name."""
        table = table_of(self._client, text_of(ticket.ticket))

        def watched() -> Iterator[pa.RecordBatch]:
            with self._watched(context) as progress:
                for batch in batches_of(table):
                    progress()
                    yield batch

        return flight.GeneratorStream(table.schema, watched())

    @_translated
    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Store a table under a name, the path of the descriptor; the reply is its id."""
        if descriptor.descriptor_type != flight.DescriptorType.PATH:
            raise InvalidObjectError("ids are given, not chosen", "put to a path: the name")
        name = key_of(descriptor)
        if name in self._client.list_names(name):
            raise _taken(name)  # before all of it has come
        batches = []
        with self._watched(context) as progress:
            for chunk in reader:
                progress()
                if chunk.data is not None:
                    batches.append(self._landed(chunk.data))
        table = pa.Table.from_batches(batches, reader.schema)
        writer.write(str(self._client.put(table, name=name)).encode())

    def _landed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A batch that came, in shared memory."""
        chunks = stream_of(batch.schema, [batch])
        nbytes = nbytes_of(chunks)
        try:
            memory = pa.allocate_buffer(nbytes, memory_pool=self._attached.pool)
        except MemoryError:
            raise self._attached.full(nbytes) from None
        parts = pieces(chunks)
        for _ in fill(memory, nbytes, None, lambda: next(parts)):
            pass
        (table,) = tables_of(memory, [nbytes])
        return batches_in(table)[0]

    @_translated
    def do_action(self, context: Any, action: Any) -> Iterator[bytes]:
        """See `list_actions`."""
        text = text_of(action.body.to_pybytes() if action.body is not None else b"")
        if action.type == "delete":
            self._client.delete(text)
            return iter([])
        if action.type == "status":
            status = self._client.status()
            names = ("instance", "version", "memory_limit", "memory_used", "objects", "names")
            return iter([json.dumps({name: getattr(status, name) for name in names}).encode()])
        raise InvalidObjectError(f"no action {action.type!r}", "there are delete and status")

    def list_actions(self, context: Any) -> list[tuple[str, str]]:
        """What `do_action` knows."""
        return [
            ("delete", "Delete an object; the body is its id, or a name."),
            ("status", "Figures of the store, in JSON."),
        ]


def _taken(name: str) -> VineyardArrowError:
    from ..errors import ObjectExistsError

    return ObjectExistsError(f"name {name!r} is taken", "delete what has it, or use another")


# ---- files


def _certificates(settings: Settings) -> list[tuple[bytes, bytes]]:
    assert settings.cert_file is not None
    assert settings.key_file is not None
    return [(read_file(settings.cert_file), read_file(settings.key_file))]


# ---- the process


def check_free(host: str, port: int) -> None:
    """Raise unless nobody listens there: gRPC would share the port with another process."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {host}:{port}: {error.strerror or error}",
            "use another --rpc address; port 0 takes a free one",
        ) from None


def main() -> None:
    """Serve until standard input ends; tell on standard output where, or why not."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level="INFO")
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print
    settings = Settings(**json.loads(sys.stdin.readline()))
    try:
        check_free(settings.host, settings.port)
        server = Server(settings)
    except (VineyardArrowError, pa.ArrowException, flight.FlightError) as error:
        hint = error.hint if isinstance(error, VineyardArrowError) else None
        message = error.message if isinstance(error, VineyardArrowError) else str(error)
        code = error.code if isinstance(error, VineyardArrowError) else ConfigError.code
        print(json.dumps({"code": code, "message": message, "hint": hint}), file=told, flush=True)
        raise SystemExit(1) from None
    print(json.dumps({"port": server.port}), file=told, flush=True)
    threading.Thread(target=server.serve, daemon=True).start()
    sys.stdin.read()  # returns when the daemon ends, or wants us to
    os._exit(0)  # without waiting for lines, which end when their clients do


if __name__ == "__main__":
    main()

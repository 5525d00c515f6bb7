"""What the daemon says of its store, for the page and for Prometheus. Knows no HTTP."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from ..cli.listing import kind, struct_dict
from ..errors import ConnectionLostError
from ..ipc import protocol as p
from ..ipc.connection import Connection
from ..objects import ObjectID

OBJECTS = 500  # shown: the newest
EXTENTS = 2000  # shown: the largest
FRESH_S = 0.5  # pages that ask within that time are told the same
SHARE = 20  # nor is the daemon asked for more than one in so many parts of its time
TIMEOUT_S = 8.0


class Figures:
    """Asks the daemon at ``socket``; thread-safe.

    It attaches no process and so holds nothing in the store. However many ask, the daemon is
    asked for the figures of the page twice a second at most, and less if they take it long.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._until = 0.0
        self._seen: dict[str, Any] = {}

    def status(self) -> p.Status:
        """The daemon's figures; VineyardArrowError if it does not answer."""
        with self._lock:
            reply: p.Status = self._request(p.GetStatus())
            return reply

    def page(self) -> dict[str, Any]:
        """All that the page shows; VineyardArrowError if the daemon does not answer."""
        with self._lock:
            began = time.monotonic()
            if not self._seen or began > self._until:
                self._seen = self._look()
                ended = time.monotonic()
                self._until = ended + max(FRESH_S, SHARE * (ended - began))
            return self._seen

    def _look(self) -> dict[str, Any]:
        objects = self._request(p.ListObjects("*", OBJECTS, newest=True, cluster=True))
        extents = self._request(p.ListExtents(EXTENTS))
        status = self._request(p.GetStatus())
        return {
            "socket": str(self._socket),
            "now_s": time.time(),
            "status": struct_dict(status) | {"fenced": status.fenced},
            "objects": [_object(o, status.instance) for o in objects.objects],
            "objects_total": objects.total,
            "extents": [[offset, n, list(map(_id, ids))] for offset, n, ids in extents.extents],
            "extents_total": extents.total,
            "streams": [_stream(s) for s in self._request(p.ListStreams("*")).streams],
            "instances": [
                struct_dict(i) | {"lease": f"{i.lease:x}"}
                for i in self._request(p.ListInstances()).instances
            ],
        }

    def _request(self, message: Any) -> Any:
        connection = self._connection
        if connection is None or connection.lost:
            if connection is not None:
                connection.close()
            try:
                connection = self._connection = Connection.open(self._socket, TIMEOUT_S)
            except (FileNotFoundError, ConnectionRefusedError):
                raise ConnectionLostError("the daemon is gone") from None
        return connection.request(message)[0]


# A browser's numbers have 53 bits, so an id is text.
def _id(number: int) -> str:
    return str(ObjectID(number))


def _object(o: p.ObjectInfo, instance: int) -> dict[str, Any]:
    return {
        "id": _id(o.id),
        "kind": kind(o.typename),
        "nbytes": o.nbytes,
        "stored": o.stored,
        "created_s": o.created_ns / 1e9,
        "pid": o.pid,
        "names": o.names,
        "pinned_by": o.pinned_by,
        "members": len(o.members),
        "parents": o.parents,
        "persisted": o.persisted,
        "is_global": o.is_global,
        "lost": list(map(_id, o.lost)),
        "here": o.id >> 40 == instance and not o.is_global,
    }


def _stream(s: p.StreamState) -> dict[str, Any]:
    data = struct_dict(s)
    del data["schema"]
    return data | {"id": _id(s.id), "readers": [list(reader) for reader in s.readers]}

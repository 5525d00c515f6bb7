"""What a sender and a receiver process have in common: an order on stdin, reports on stdout.

Whoever starts one writes its order, a line of JSON, and reads reports, a line each, the last of
which says how it ended. A process whose stdin ends has lost who started it, and ends too. The
token is in the order, so no listing of processes shows it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from ..errors import StoreFullError, VineyardArrowError

LOOPBACK = "127.0.0.1"


class _Line(msgspec.Struct):
    pass


class SendOrder(_Line, tag="send"):
    """Send `object` of the store at `socket` to the receiver at `address`."""

    socket: str
    object: int
    address: str
    token: str  # hexadecimal
    transport: str
    codec: str | None
    timeout_s: float


class ReceiveOrder(_Line, tag="receive"):
    """Receive one object into the store at `socket`, from who knows the token."""

    socket: str
    host: str  # to listen on
    token: str
    transport: str
    timeout_s: float


class Listening(_Line, tag="listening"):
    """A receiver awaits its sender there."""

    address: str


class Progress(_Line, tag="progress"):
    """So much of the payload has come."""

    done: int
    total: int


class Finished(_Line, tag="finished"):
    """All is well; `object` is the id at the destination."""

    object: int


class Failed(_Line, tag="failed"):
    """It has not worked."""

    code: str
    message: str
    hint: str | None


Order = SendOrder | ReceiveOrder
Report = Listening | Progress | Finished | Failed
encode = msgspec.json.Encoder().encode
decode_order = msgspec.json.Decoder(Order).decode
decode_report = msgspec.json.Decoder(Report).decode


def report(said: Report) -> None:
    """Tell whoever started this process."""
    line = encode(said) + b"\n"
    while line:
        line = line[os.write(sys.stdout.fileno(), line) :]


def run(work: Callable[[Any], int]) -> None:
    """Carry out the order of this process by ``work``, report how that ended, and end."""
    order = decode_order(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        last: Report = Finished(work(order))
    except VineyardArrowError as error:
        last = failed(error)
    except MemoryError:
        last = failed(StoreFullError("no memory for a migration"))
    except Exception as error:  # a bug, or the machine: who waits must hear of it all the same
        last = failed(VineyardArrowError(f"a migration failed: {error!r}"))
    report(last)
    os._exit(0)  # threads of a transport may wait for a peer that does nothing


def failed(error: VineyardArrowError) -> Failed:
    """The report of an error."""
    return Failed(error.code, error.message, error.hint)


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 64):
        pass
    os._exit(1)  # whatever the other threads wait for: the daemon tidies up

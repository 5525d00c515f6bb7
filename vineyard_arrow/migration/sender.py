"""The sender process: ``python -m vineyard_arrow.migration.sender``, with an order on stdin.

An ordinary client of its own instance. It pins the tree, connects to the receiver, proves who
it is, and sends memory as it lies in the store. A connection that breaks off is made anew.
"""

from __future__ import annotations

import time

from ..config import client_config
from ..errors import VineyardArrowError
from ..ipc.attached import Attached
from . import protocol as m
from .endpoint import SendOrder, run
from .line import Line, find_codec
from .transports import DroppedError, find_transport
from .tree import Tree

ENTRIES_NBYTES = 1 << 20  # of metadata in one message, if it is not one object's


def send(order: SendOrder) -> int:
    """Send an object; return its id at the destination."""
    transport = find_transport(order.transport)
    codec = find_codec(order.codec)
    attached = Attached(
        client_config(socket=order.socket, timeout_s=order.timeout_s, autostart=False)
    )
    tree = Tree(attached, order.object)
    furthest, deadline = -1, 0.0
    while True:
        line = Line(transport.connect(order.address, order.timeout_s))
        try:
            position = _agree(line, tree, bytes.fromhex(order.token), order.codec)
            if isinstance(position, m.Done):
                return position.id
            if position > furthest:
                furthest, deadline = position, time.monotonic() + order.timeout_s
            line.send_payload(tree.payload, position, codec)
            return line.expect(m.Done).id
        except DroppedError:
            if time.monotonic() > deadline:
                raise
        except VineyardArrowError as error:
            line.fail(error)
            raise
        finally:
            line.close()


def _agree(line: Line, tree: Tree, token: bytes, codec: str | None) -> int | m.Done:
    """Where to send the payload from, or that it is there already."""
    line.prove(token)
    line.send(m.Offer(tree.root, len(tree.entries), tree.payload.nbytes, codec))
    answer = line.expect(m.Ready, m.Done)
    if isinstance(answer, m.Done):
        return answer
    assert isinstance(answer, m.Ready)
    if answer.manifest:
        group: list[m.Entry] = []
        nbytes = 0
        for entry in tree.entries:
            if group and nbytes + len(entry.streams) > ENTRIES_NBYTES:
                line.send(m.Manifest(group))
                group, nbytes = [], 0
            group.append(entry)
            nbytes += len(entry.streams)
        line.send(m.Manifest(group))
    return answer.position


if __name__ == "__main__":
    run(send)

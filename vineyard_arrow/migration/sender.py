"""The sender's part: pins a tree of its own instance, of which it is an ordinary client.

It proves to the receiver who it is, and sends memory as it lies in the store. A connection that
breaks off is made anew.
"""

from __future__ import annotations

import time

from ..errors import VineyardArrowError
from . import protocol as m
from .endpoint import SendOrder, Starter, attach
from .line import Line, find_codec
from .meeting import Meeting
from .transports import DroppedError
from .tree import Tree

ENTRIES_NBYTES = 1 << 20  # of metadata in one message, if it is not one object's


def send(starter: Starter) -> int:
    """Send an object; return its id at the destination."""
    order = starter.job.order
    assert isinstance(order, SendOrder)
    codec = find_codec(order.codec)
    meeting = Meeting(starter, Line.prove)
    tree = Tree(attach(starter.job.place, order.timeout_s), order.object)
    furthest, deadline = -1, time.monotonic() + order.timeout_s
    while True:
        line = None
        try:
            line = meeting.next(deadline)
            position = _agree(line, tree, order.codec)
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
            if line is not None:
                line.fail(error)
            raise
        finally:
            if line is not None:
                line.close()


def _agree(line: Line, tree: Tree, codec: str | None) -> int | m.Done:
    """Where to send the payload from, or that it is there already."""
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

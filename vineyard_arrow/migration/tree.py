"""What is sent: an object with its members, pinned, and the ranges of memory they lie in.

It looks at messages and memory, and knows nothing of values, nor of who receives them.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from ..errors import InvalidObjectError
from ..ipc import _core
from ..objects import ObjectID, members_first
from . import protocol as m

if TYPE_CHECKING:
    from ..ipc.attached import Attached

MAX_METADATA = 192 << 20  # of all objects: a put is one message
Range = tuple[int, int]  # offset, bytes


class Tree:
    """An object and all that it is composed of, however deep, kept until this dies.

    Attributes
    ----------
    entries : list of Entry
        Members before what they are members of; `root` is the last.
    payload : Payload
        The memory of all ranges, in the order of the entries. Read-only, not copied.
    """

    def __init__(self, attached: Attached, root: int) -> None:
        self.root = root
        self._attached = attached
        self._pins: dict[int, _core.Pin] = {}
        found = [self._open(key) for key in self._in_order(root)]
        if sum(len(entry.streams) for entry, _ in found) > MAX_METADATA:
            raise InvalidObjectError(
                f"the metadata of {ObjectID(root)} and its {len(found) - 1:,} members is too much"
                " for one put",
                "migrate its members first",
            )
        merged = merge([place for _, places in found for place in places])
        starts = [offset for offset, _ in merged]
        taken = [False] * len(merged)
        self.entries = []
        pieces = []
        for entry, places in found:
            for offset, _ in places:
                i = bisect_right(starts, offset) - 1
                if not taken[i]:
                    taken[i] = True
                    entry.ranges.append(merged[i])
                    pieces.append(self._memory(entry.id, merged[i]))
            self.entries.append(entry)
        self.payload = m.Payload(pieces)

    def _in_order(self, root: int) -> list[int]:
        """All objects, each once, members first; all of them pinned."""
        return members_first([root], self._members)

    def _members(self, key: int) -> list[int]:
        # The root's pin keeps members, but not those that are deleted by force.
        pin = self._pins[key] = self._attached.hold(key)
        members = self._attached.describe(key, pin)[-2]
        return [number for number, _ in members.values()]

    def _open(self, key: int) -> tuple[m.Entry, list[Range]]:
        pin = self._pins[key]
        nbytes, _, _, _, _, uid, signature, parts, members, _ = self._attached.describe(key, pin)
        streams = self._attached.messages(key, pin)
        entry = m.Entry(
            key,
            parts[0][0],
            streams,
            [],
            [number for number, _ in members.values()],
            nbytes,
            signature,
            uid == self._attached.uid,
        )
        return entry, _core.buffer_places(streams, self._attached._core.space)

    def _memory(self, key: int, place: Range) -> memoryview:
        return memoryview(self._attached._core.buffer(*place, self._pins[key])).cast("B")


def merge(places: list[Range]) -> list[Range]:
    """The ranges, ascending, those that overlap in one. Those that only touch stay apart."""
    out: list[Range] = []
    for offset, nbytes in sorted(places):
        if out and offset < out[-1][0] + out[-1][1]:
            first, last = out[-1]
            out[-1] = first, max(first + last, offset + nbytes) - first
        else:
            out.append((offset, nbytes))
    return out

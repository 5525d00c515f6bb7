"""Columns from elsewhere: whether any library may read them. It knows no files and no objects.

Arrow looks at each value of text and at each index by itself. Text that is ASCII throughout, and
indices by their least and their most, are seen to be sound many times faster.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["check"]

_BYTES = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}


def check(column: pa.Array) -> None:
    """Raise ArrowInvalid or ArrowIndexError if a column is not sound.

    It is if no offset and no index leads out of it, and its text is UTF-8.
    """
    column.validate()
    if pa.types.is_dictionary(column.type):
        least, most = pc.min_max(column.indices).values()
        if most.is_valid and not 0 <= least.as_py() <= most.as_py() < len(column.dictionary):
            raise pa.ArrowInvalid("an index leads out of its dictionary")
        check(column.dictionary)
    elif column.type in _BYTES and _is_ascii(column.buffers()[2]):
        column.view(_BYTES[column.type]).validate(full=True)
    else:
        column.validate(full=True)


def _is_ascii(text: pa.Buffer | None) -> bool:
    return not text or bool(np.frombuffer(text, np.int8).min() >= 0)

"""Streams: record batches from one writer to any number of readers, in other processes too.

Made by `Client.create_stream` and `Client.open_stream`. A batch lies in shared memory like
any object, and is mapped, not copied; the daemon says what comes next, and who must wait.
"""

from .info import StreamInfo, drop_stream, list_streams
from .reader import StreamReader, open_stream
from .writer import DEFAULT_MAX_BYTES, StreamWriter

__all__ = [
    "DEFAULT_MAX_BYTES",
    "StreamInfo",
    "StreamReader",
    "StreamWriter",
    "drop_stream",
    "list_streams",
    "open_stream",
]

"""Shared immutable Arrow data: put a value once, get it in any process without a copy.

Importing this starts nothing and loads little beyond pyarrow; the first call does.

Examples
--------
>>> import pyarrow as pa, vineyard_arrow
>>> oid = vineyard_arrow.put(pa.table({"a": [1, 2, 3]}))  # doctest: +SKIP
>>> vineyard_arrow.get(oid)["a"].to_pylist()  # doctest: +SKIP
[1, 2, 3]
"""

from __future__ import annotations

import os
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pyarrow  # noqa: F401  # first: the native core needs its libraries loaded

from .errors import (
    AccessDeniedError,
    AnnotationError,
    BlockExistsError,
    BlockNotFoundError,
    BrokerError,
    BrokerUnavailableError,
    BuilderNotFoundError,
    BuildMismatchError,
    CommitConflictError,
    ConfigError,
    ConnectionLostError,
    DamagedFileError,
    DamagedMessageError,
    DatabaseError,
    DatabaseUnavailableError,
    DeadlineExceededError,
    DeliveryFailedError,
    DriverNotFoundError,
    FileError,
    InvalidGraphError,
    InvalidObjectError,
    LabelNotFoundError,
    LeaseLostError,
    LibraryNotFoundError,
    MetadataCompactedError,
    MetadataFullError,
    MetadataUnavailableError,
    NotConvergedError,
    ObjectExistsError,
    ObjectInUseError,
    ObjectNotFoundError,
    PathExistsError,
    PathNotFoundError,
    ProtocolError,
    QueryFailedError,
    ResolverNotFoundError,
    SchemaMismatchError,
    StoreFullError,
    StreamClosedError,
    StreamFailedError,
    TableExistsError,
    TopicNotFoundError,
    VersionNotFoundError,
    VertexNotFoundError,
    VineyardArrowError,
    WorkerFailedError,
)
from .objects import InstanceInfo, ObjectID, ObjectMeta

if TYPE_CHECKING:
    from .client import Client
    from .contexts import builder_context, resolver_context
    from .drivers.registry import driver
    from .registry import (
        Encoder,
        Part,
        Registry,
        StoredObject,
        StoredPart,
        builder,
        resolver,
    )
    from .saving.export import serialize
    from .saving.load import deserialize
    from .streams import StreamReader
    from .types.shared import shared
    from .types.strings import dual_strings

__version__ = "0.1.0"

__all__ = [
    "AccessDeniedError",
    "AnnotationError",
    "BlockExistsError",
    "BlockNotFoundError",
    "BrokerError",
    "BrokerUnavailableError",
    "BuildMismatchError",
    "BuilderNotFoundError",
    "CommitConflictError",
    "ConfigError",
    "ConnectionLostError",
    "DamagedFileError",
    "DamagedMessageError",
    "DatabaseError",
    "DatabaseUnavailableError",
    "DeadlineExceededError",
    "DeliveryFailedError",
    "DriverNotFoundError",
    "Encoder",
    "FileError",
    "InstanceInfo",
    "InvalidGraphError",
    "InvalidObjectError",
    "LabelNotFoundError",
    "LeaseLostError",
    "LibraryNotFoundError",
    "MetadataCompactedError",
    "MetadataFullError",
    "MetadataUnavailableError",
    "NotConvergedError",
    "ObjectExistsError",
    "ObjectID",
    "ObjectInUseError",
    "ObjectMeta",
    "ObjectNotFoundError",
    "Part",
    "PathExistsError",
    "PathNotFoundError",
    "ProtocolError",
    "QueryFailedError",
    "Registry",
    "ResolverNotFoundError",
    "SchemaMismatchError",
    "StoreFullError",
    "StoredObject",
    "StoredPart",
    "StreamClosedError",
    "StreamFailedError",
    "TableExistsError",
    "TopicNotFoundError",
    "VersionNotFoundError",
    "VertexNotFoundError",
    "VineyardArrowError",
    "WorkerFailedError",
    "builder",
    "builder_context",
    "concat",
    "connect",
    "default_client",
    "delete",
    "deserialize",
    "driver",
    "dual_strings",
    "get",
    "get_include",
    "partition",
    "put",
    "read",
    "repartition",
    "resolver",
    "resolver_context",
    "scan",
    "serialize",
    "shared",
    "write",
]

# Where names are that would load more than a program needs which only puts and gets.
_LATER = {
    "builder_context": "contexts",
    "deserialize": "saving.load",
    "driver": "drivers.registry",
    "dual_strings": "types.strings",
    "resolver_context": "contexts",
    "serialize": "saving.export",
    "shared": "types.shared",
} | dict.fromkeys(
    ("Encoder", "Part", "Registry", "StoredObject", "StoredPart", "builder", "resolver"),
    "registry",
)


def __getattr__(name: str) -> Any:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return value


_default: Client | None = None
_default_lock = threading.Lock()


def connect(socket: Any = None, **options: Any) -> Client:
    """Connect to the store of this host; see `vineyard_arrow.client.connect`."""
    from .client import connect

    return connect(socket, **options)


def default_client() -> Client:
    """The client behind `put` and `get`; made when first needed, anew if its daemon died."""
    global _default
    client = _default
    if client is None or client._attached is None or not client._attached.alive:
        with _default_lock:
            if _default is client:
                _default = connect()
            client = _default
    assert client is not None
    return client


def put(value: Any, **options: Any) -> ObjectID:
    """Store a value by the default client; see `Client.put`."""
    return default_client().put(value, **options)


def get(key: int | str, **options: Any) -> Any:
    """The value of an object by the default client; see `Client.get`."""
    return default_client().get(key, **options)


def read(url: Any, **options: Any) -> ObjectID:
    """Store what is behind a url by the default client; see `Client.read`."""
    return default_client().read(url, **options)


def scan(url: Any, **options: Any) -> StreamReader:
    """Stream what is behind a url by the default client; see `Client.scan`."""
    return default_client().scan(url, **options)


def write(value: Any, url: Any, **options: Any) -> None:
    """Write an object or a value to a url by the default client; see `Client.write`."""
    default_client().write(value, url, **options)


def partition(value: Any, n: int | None = None, **options: Any) -> Any:
    """Cut an object or a value into partitions by the default client; see `Client.partition`."""
    return default_client().partition(value, n, **options)


def repartition(key: Any, n: int | None = None, **options: Any) -> Any:
    """Cut a global object anew by the default client; see `Client.repartition`."""
    return default_client().repartition(key, n, **options)


def concat(keys: Any, **options: Any) -> Any:
    """One object of all partitions by the default client; see `Client.concat`."""
    return default_client().concat(keys, **options)


def get_include() -> str:
    """Directory of the C++ headers, for a compiler's ``-I``; see docs/cpp.md.

    Programs also need `pyarrow.get_include` and the libraries in `pyarrow.get_library_dirs`.
    """
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "include")


def delete(keys: Any) -> None:
    """Delete objects by the default client; see `Client.delete`."""
    default_client().delete(keys)

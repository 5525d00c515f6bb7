"""The one tree of errors. Each has a stable ``code`` and, where there is a way out, a ``hint``.

Every class is also the builtin a Python user would expect to catch: a missing object is
a ``LookupError``, a full store a ``MemoryError``. This module knows nothing of the rest.
"""

from __future__ import annotations

import errno

LARGER_THAN_STORE = "it is larger than the store: start the daemon with a larger --memory-limit"


class VineyardArrowError(Exception):
    """Base of all errors raised by vineyard_arrow.

    Parameters
    ----------
    message : str
        What happened, with the names and sizes involved.
    hint : str, optional
        What the reader can do about it; shown after the message.
    """

    code = "error"

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} (hint: {self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.hint)


class ConfigError(VineyardArrowError, ValueError):
    """A setting is wrong, or asks for what this machine cannot give."""

    code = "config"


class BuildMismatchError(VineyardArrowError, ImportError):
    """The native extension was built against another pyarrow than the one installed."""

    code = "build-mismatch"


class ObjectNotFoundError(VineyardArrowError, LookupError):
    """No object (or name) of this kind is in the store."""

    code = "not-found"


class ObjectExistsError(VineyardArrowError, ValueError):
    """The name or id is taken."""

    code = "exists"


class BlockExistsError(VineyardArrowError, FileExistsError):
    """The name of a block of shared memory is taken."""

    code = "block-exists"
    errno = errno.EEXIST


class BlockNotFoundError(VineyardArrowError, FileNotFoundError):
    """No block of shared memory has this name."""

    code = "block-not-found"
    errno = errno.ENOENT


class FileError(VineyardArrowError, OSError):
    """A file or directory cannot be read or written."""

    code = "file"


class PathNotFoundError(FileError, FileNotFoundError):
    """There is no such file or directory."""

    code = "no-path"
    errno = errno.ENOENT


class PathExistsError(FileError, FileExistsError):
    """What was to be written is there already."""

    code = "path-exists"
    errno = errno.EEXIST


class DamagedFileError(FileError, ValueError):
    """A file is cut off, corrupt, or of another format than its name says."""

    code = "damaged-file"


class SchemaMismatchError(VineyardArrowError, ValueError):
    """Files that are to make one table have different columns, or rows others than their table."""

    code = "schema-mismatch"


class VersionNotFoundError(VineyardArrowError, LookupError):
    """A table in a table format has no such version, snapshot or tag, or none so early."""

    code = "no-version"


class CommitConflictError(VineyardArrowError, RuntimeError):
    """Others changed a table meanwhile, so that what was written does not count."""

    code = "commit-conflict"


class DatabaseError(VineyardArrowError, RuntimeError):
    """A database did not do what it was asked."""

    code = "database"


class DatabaseUnavailableError(DatabaseError, ConnectionError):
    """A database cannot be reached or opened, or was gone in the middle."""

    code = "database-unavailable"


class QueryFailedError(DatabaseError, ValueError):
    """A database refuses a statement, or fails at it."""

    code = "query-failed"


class TableExistsError(DatabaseError, ValueError):
    """The table that was to be made is there already."""

    code = "table-exists"


class BrokerError(VineyardArrowError, RuntimeError):
    """A broker of messages did not do what it was asked."""

    code = "broker"


class BrokerUnavailableError(BrokerError, ConnectionError):
    """A broker cannot be reached, or was gone in the middle."""

    code = "broker-unavailable"


class TopicNotFoundError(BrokerError, LookupError):
    """A broker has no such topic."""

    code = "no-topic"


class DamagedMessageError(BrokerError, ValueError):
    """A message is not of the format that it was to be read in."""

    code = "damaged-message"


class DeliveryFailedError(BrokerError):
    """Some messages were not taken by the broker: it says which."""

    code = "not-delivered"


class DriverNotFoundError(VineyardArrowError, LookupError):
    """No driver is registered for this scheme, format or typename."""

    code = "no-driver"


class StreamFailedError(VineyardArrowError, RuntimeError):
    """A stream came to no proper end: its writer failed or died, or it was dropped."""

    code = "stream-failed"


class StreamClosedError(VineyardArrowError, ValueError):
    """This writer has ended its stream, or this reader was closed."""

    code = "stream-closed"


class ObjectInUseError(VineyardArrowError, ValueError):
    """The object is a member of others."""

    code = "in-use"


class StoreFullError(VineyardArrowError, MemoryError):
    """The store has no room left for what was asked."""

    code = "store-full"


class InvalidObjectError(VineyardArrowError, ValueError):
    """The stored bytes or the request do not make a valid object."""

    code = "invalid"


class AnnotationError(InvalidObjectError):
    """Annotations that a shared class cannot have."""

    code = "invalid-annotations"


class InvalidGraphError(InvalidObjectError):
    """The tables make no graph, or the arrays of a stored graph make no sense."""

    code = "invalid-graph"


class LabelNotFoundError(VineyardArrowError, KeyError):
    """The graph has no such vertex label, triple or property."""

    code = "no-label"


class VertexNotFoundError(VineyardArrowError, IndexError):
    """The label has no vertex of this id, or of this original id."""

    code = "no-vertex"


class NotConvergedError(VineyardArrowError, ArithmeticError):
    """An iteration was stopped before its result settled."""

    code = "not-converged"


class WorkerFailedError(VineyardArrowError, RuntimeError):
    """A process that was to do a part of the work failed or died."""

    code = "worker-failed"


class BuilderNotFoundError(InvalidObjectError, TypeError):
    """A value cannot be stored: its type has no builder, and pickle refuses it."""

    code = "no-builder"


class ResolverNotFoundError(VineyardArrowError, TypeError):
    """Nobody knows how to make a value of this typename."""

    code = "no-resolver"


class LibraryNotFoundError(VineyardArrowError, ImportError):
    """An optional library that this needs is not installed."""

    code = "no-library"


class ProtocolError(VineyardArrowError):
    """A peer sent what the protocol does not allow."""

    code = "protocol"


class AccessDeniedError(VineyardArrowError, PermissionError):
    """The daemon or the operating system refuses this user."""

    code = "access-denied"


class ConnectionLostError(VineyardArrowError, ConnectionError):
    """The daemon is gone. Data already mapped stays readable."""

    code = "connection-lost"


class DeadlineExceededError(VineyardArrowError, TimeoutError):
    """The answer did not come within the deadline."""

    code = "deadline"


class MetadataUnavailableError(VineyardArrowError, ConnectionError):
    """The metadata of the cluster could not be reached in time. Local work goes on."""

    code = "metadata-unavailable"


class MetadataFullError(VineyardArrowError, MemoryError):
    """The server that keeps the metadata of the cluster has no space left."""

    code = "metadata-full"


class MetadataCompactedError(VineyardArrowError, LookupError):
    """The metadata of that revision is no longer kept; what is there now can be listed."""

    code = "metadata-compacted"


class LeaseLostError(VineyardArrowError, RuntimeError):
    """The lease of an instance ended: the cluster no longer counts on what it owned."""

    code = "lease-lost"


def _subclasses(cls: type[VineyardArrowError]) -> list[type[VineyardArrowError]]:
    return [cls, *(s for c in cls.__subclasses__() for s in _subclasses(c))]


BY_CODE: dict[str, type[VineyardArrowError]] = {c.code: c for c in _subclasses(VineyardArrowError)}


def from_code(code: str, message: str, hint: str | None = None) -> VineyardArrowError:
    """The error that a peer described by ``code``, ``message`` and ``hint``."""
    return BY_CODE.get(code, VineyardArrowError)(message, hint)

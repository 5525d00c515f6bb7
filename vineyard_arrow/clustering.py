"""What a client asks of a cluster: instances, persisting, global objects, migration.

A part of `Client`, which has no other cause to know of other instances.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from .composition import create_global
from .errors import InvalidObjectError
from .ipc import protocol as p
from .ipc.connection import seconds
from .objects import InstanceInfo, ObjectID, ObjectMeta

if TYPE_CHECKING:
    from .client import Client, Key

__all__ = ["ClusterCalls"]


class ClusterCalls:
    """See the module's docstring: a base of `Client` alone."""

    @property
    def _client(self) -> Client:
        return cast("Client", self)

    def _limit(self, timeout_s: float | None) -> float:
        return self._client._a.timeout_s if timeout_s is None else seconds(timeout_s)

    def instances(self) -> list[InstanceInfo]:
        """All instances of the cluster that are up, by number; without a cluster, this one.

        As far as the daemon has heard: if the cluster's metadata cannot be reached (see
        `status`), how it was then.
        """
        reply, _ = self._client._a.request(p.ListInstances())
        return [
            InstanceInfo(i.number, i.host, i.pid, i.socket, i.rpc, i.version, i.lease)
            for i in reply.instances
        ]

    def where(self, key: Key) -> InstanceInfo:
        """The instance that owns an object, by its id; no data is touched.

        Raises
        ------
        ObjectNotFoundError
            If that instance is not in the cluster.
        """
        from .fetching import owner_of

        return owner_of(self._client, ObjectID(self._client._resolve(key)))

    def persist(self, key: Key | Iterable[Key], *, timeout_s: float | None = None) -> None:
        """Let the cluster know objects, with all their members; done again, it does nothing.

        Their metadata can then be had on every instance, their names are names of the cluster,
        and they can be members of global objects. The data stays where it is. They are known for
        as long as this instance is up, or until they are deleted.

        Parameters
        ----------
        key : ObjectID, int or str, or several
        timeout_s : float, optional
            Deadline, the client's own by default.

        Raises
        ------
        ObjectNotFoundError
            If there is no such object.
        ObjectExistsError
            If another object has one of their names in the cluster.
        MetadataUnavailableError
            If the cluster's metadata did not answer in time. It may still be carried out.
        LeaseLostError
            If the cluster has counted this instance out; it joins again by itself.
        """
        client, several = self._client, cast("Any", key)
        if isinstance(key, str) or not isinstance(key, Iterable):
            several = [key]
        ids = [client._resolve(each) for each in several]
        limit = self._limit(timeout_s)
        client._a.ask(p.Persist(ids, limit), limit)

    def create_global(
        self,
        members: ObjectMeta | Sequence[Any],
        *,
        key: str | None = None,
        bounds: Sequence[tuple[Any, Any]] | None = None,
        offsets: Sequence[Sequence[int]] | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> ObjectMeta:
        """Make an object whose members may lie on any instances; return its metadata.

        Members of this instance are persisted, those of others must be. The object itself is
        there at once, or not at all, and with no instance in particular: it outlives all of them,
        until somebody deletes it. Until then its members cannot be deleted; those of an instance
        that is gone are named by `ObjectMeta.missing`. They stay when it is deleted.

        Parameters
        ----------
        members : sequence or ObjectMeta
            Partitions in order: ids or names of objects, here or on other instances, or values,
            which are put here. All of them tables (or record batches), frames of one library, or
            NumPy arrays, or all fragments of a graph (or a `GlobalGraph`): a `GlobalTable`,
            `GlobalDataFrame`, `GlobalTensor` or `GlobalGraph` is what a get gives, on every
            instance. Or, for a type of one's own, its metadata: typename, values
            and members, not sealed; it stays as it is.
        key : str, optional
            Of tables and frames, the column that ``bounds`` are of. Without it they are of the
            index of pandas' frames.
        bounds : sequence of (lower, upper), optional
            For each partition, the least and the greatest value of that column, taken as told.
            They ascend and do not overlap.
        offsets : sequence of tuple of int, optional
            For arrays: where the first element of each lies in the whole. They have to make a
            grid. By default they follow each other along the first axis.
        name : str, optional
            A free name in the cluster to point to it.
        labels : mapping, optional
            First labels, see `Client.label`.
        timeout_s : float, optional
            Deadline, the client's own by default.

        Raises
        ------
        ObjectNotFoundError
            If a member is unknown, or another instance has not persisted it.
        ObjectExistsError
            If the name is taken.
        InvalidObjectError
            If partitions do not fit together, there are too many members, or there is metadata
            among them that is not sealed. Nothing is kept.
        MetadataUnavailableError, LeaseLostError
            As `persist`.
        """
        if name is not None and not isinstance(name, str):
            raise InvalidObjectError(f"a name is a str, this one a {type(name).__name__}")
        limit = self._limit(timeout_s)
        if isinstance(members, ObjectMeta):
            if (key, bounds, offsets) != (None, None, None):
                raise InvalidObjectError(
                    "key, bounds and offsets are of partitions", "set values of the metadata"
                )
            return create_global(self._client, members, name, labels or {}, limit)
        from .joined import create_of_partitions

        return create_of_partitions(
            self._client,
            members,
            key=key,
            bounds=bounds,
            offsets=offsets,
            name=name,
            labels=labels or {},
            timeout_s=limit,
        )

    def migrate(
        self,
        key: Key,
        *,
        to: Client | int | InstanceInfo | str | os.PathLike[str],
        transport: str = "tcp",
        compression: str | None = None,
        progress: Callable[[int, int], Any] | None = None,
        timeout_s: float | None = None,
    ) -> ObjectID:
        """Copy an object with all its members to another instance; return its id there.

        Done by a process at each end. All of it appears at once, at the end, or nothing. What
        has a copy there that came like this is not copied again, and its id returned.

        Parameters
        ----------
        key : ObjectID, int or str
            An id, its printed form, or a name. Names and labels stay here.
        to : int, InstanceInfo, Client, str or path
            The other instance: its number or record, of `instances`; a client of it; or its
            socket. One that is on another host must serve over TCP (docs/rpc.md).
        transport : str
            How bytes travel: ``"tcp"``, ``"flight"``, or what `vineyard_arrow.migration.transport`
            has registered.
        compression : {"zstd", "lz4"}, optional
            Pays off on networks slower than some 100 MB/s.
        progress : callable, optional
            Called with bytes done and bytes in all, after every few MiB.
        timeout_s : float, optional
            How long either end may get on with nothing, the client's own timeout by default.

        Raises
        ------
        ObjectNotFoundError
            If there is no such object here.
        StoreFullError
            If it does not fit there.
        ConnectionLostError
            If a process at either end, or the instance there, dies, or is not reached. Nothing
            is kept.
        AccessDeniedError
            If the other instance does not take this client's token; see `connect`.
        """
        from .fetching import migrate

        return migrate(
            self._client,
            key,
            to=to,
            transport=transport,
            compression=compression,
            progress=progress,
            timeout_s=timeout_s,
        )

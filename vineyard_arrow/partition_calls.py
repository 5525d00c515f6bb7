"""What a client does about partitions: partition, repartition, concat.

A part of `Client`. Who does it, the drivers know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from .objects import ObjectID

if TYPE_CHECKING:
    from .client import Client
    from .partitioning import Plan

__all__ = ["PartitionCalls"]

Labels = Mapping[str, str] | None


class PartitionCalls:
    """See the module's docstring: a base of `Client` alone."""

    @overload
    def partition(
        self, value: Any, n: int | None = ..., *, plan: Literal[True], **options: Any
    ) -> Plan: ...

    @overload
    def partition(
        self,
        value: Any,
        n: int | None = ...,
        *,
        plan: Literal[False] = ...,
        name: str | None = ...,
        labels: Labels = ...,
        **options: Any,
    ) -> ObjectID: ...

    def partition(
        self,
        value: Any,
        n: int | None = None,
        *,
        plan: bool = False,
        name: str | None = None,
        labels: Labels = None,
        **options: Any,
    ) -> ObjectID | Plan:
        """Cut an object or a value into partitions; return the id of the global object of them.

        Which driver does it, and its options, go by the typename (docs/partition.md). What
        stays on its instance is shared where partitions are slices, and copied once where rows
        are gathered.

        Parameters
        ----------
        value : ObjectID, int or str, or a value
            A table, a frame, an array or a graph: an id, its printed form, a name, or itself.
        n : int, optional
            How many partitions. Ranges are fewer if there are fewer keys.
        plan : bool
            Return what would be done, to be printed and run; nothing is done.
        name, labels : optional
            Of the global object, see `create_global`.
        **options
            Of tables and frames: ``by``, names of columns; ``how``, one of ``"slices"`` (the
            default without ``by``), ``"hash"`` (the default with ``by`` and ``n``),
            ``"values"`` (with ``by`` alone), ``"range"``, ``"round_robin"``, or a function of a
            table that gives the partition of each row; ``bounds``, the least key of each range
            but the first; ``balance``, ``"rows"`` or ``"bytes"``. Of arrays: ``axis`` or
            ``chunks``. Of graphs: ``how``. Of all: ``over``, the instances where partitions are
            to live, by default where the data is.

        Returns
        -------
        ObjectID or Plan

        Raises
        ------
        DriverNotFoundError
            If there is no driver.
        InvalidObjectError, ConfigError
            If the options make no sense of this object.
        ConnectionLostError, ObjectNotFoundError
            If an instance, or what is cut, is gone. Nothing is left, as with all errors.
        StoreFullError
            If it does not fit.
        """
        return self._in_parts("partition", value, n, plan, name, labels, options)

    def repartition(
        self,
        key: Any,
        n: int | None = None,
        *,
        plan: bool = False,
        name: str | None = None,
        labels: Labels = None,
        **options: Any,
    ) -> ObjectID | Plan:
        """Cut a global object anew; return the id of another. The first stays as it is.

        Partitions that do not change are members of both. Only what is to be on another
        instance moves.

        Parameters
        ----------
        key : ObjectID, int or str, or the object
            Of a `GlobalTable`, `GlobalDataFrame`, `GlobalTensor` or `GlobalGraph`.
        n : int, optional
            Without it, partitions stay as they are, and are spread over ``over``.
        plan, name, labels, **options
            As `partition`. Fragments of graphs have ``balance`` alone: ``"edges"`` or
            ``"vertices"``.

        Returns
        -------
        ObjectID or Plan

        Raises
        ------
        DriverNotFoundError, InvalidObjectError, ConfigError, StoreFullError
            As `partition`.
        ConnectionLostError, ObjectNotFoundError
            As `partition`.
        """
        return self._in_parts("repartition", key, n, plan, name, labels, options)

    def concat(
        self,
        keys: Any,
        *,
        plan: bool = False,
        name: str | None = None,
        labels: Labels = None,
        **options: Any,
    ) -> ObjectID | Plan:
        """One object of all partitions, or of several objects or values; return its id.

        Tables and polars' frames share the memory of those that are on its instance. Others are
        copied.

        Parameters
        ----------
        keys : ObjectID, int or str, or a list
            Of a global object; or objects and values, in order.
        plan, name, labels
            As `partition`.
        **options
            ``over``, the instance where it is to live, by default the client's; of arrays
            ``axis``.

        Returns
        -------
        ObjectID or Plan

        Raises
        ------
        DriverNotFoundError, InvalidObjectError, ConfigError, StoreFullError
            As `partition`.
        ConnectionLostError, ObjectNotFoundError
            As `partition`.
        """
        return self._in_parts("concat", keys, None, plan, name, labels, options)

    def _in_parts(
        self,
        kind: str,
        value: Any,
        n: int | None,
        plan: bool,
        name: str | None,
        labels: Labels,
        options: dict[str, Any],
    ) -> ObjectID | Plan:
        from .drivers import partition

        given = {} if n is None else {"n": n}
        return cast(
            "ObjectID | Plan",
            partition(
                cast("Client", self),
                kind,
                value,
                plan=plan,
                name=name,
                labels=labels,
                options=given | options,
            ),
        )

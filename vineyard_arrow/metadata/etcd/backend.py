"""The backend over etcd. Importing this imports grpc."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ...errors import MetadataUnavailableError
from ..backend import (
    TIMEOUT_S,
    Backend,
    Committed,
    Compare,
    Condition,
    Conflict,
    Item,
    Lease,
    Put,
    Snapshot,
    Transaction,
    Verdict,
    Watch,
    check_each,
    check_transaction,
)
from .client import ATTEMPT_S, RETRY_S, EtcdAddress, EtcdClient, rpc
from .keys import encode, item_of, span
from .lease import LeaseKeeper
from .watch import EtcdWatch

PAGE_KEYS = 1000
MAX_LIST = 64  # of one list of a message: etcd takes 128, less the longest list around it
# Looking them up at the class is slow.
_EQUAL, _GREATER = rpc.Compare.EQUAL, rpc.Compare.GREATER
_MOD, _VERSION = rpc.Compare.MOD, rpc.Compare.VERSION


class EtcdBackend(Backend):
    """Metadata in etcd. Connects when it is first used, and again whenever it must.

    Parameters
    ----------
    address : EtcdAddress
        Where it is, and how to be let in.

    Raises
    ------
    ConfigError
        If a file that the address names cannot be read.
    """

    def __init__(self, address: EtcdAddress) -> None:
        self.client = EtcdClient(address)
        self._leases = LeaseKeeper(self.client)
        self._watches: list[EtcdWatch] = []

    def range(
        self,
        key: str,
        *,
        prefix: bool = False,
        revision: int | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Snapshot:
        """See `Backend.range`. Read in pages of 1,000 keys, all of one revision."""
        deadline = time.monotonic() + timeout_s
        start, end = span(key) if prefix else (encode(key), b"")
        items: list[Item] = []
        for page in self._pages(start, end, revision or 0, lambda: deadline - time.monotonic()):
            items += page.items
        return Snapshot(tuple(items), page.revision)

    def pages(self, prefix: str, timeout_s: float = TIMEOUT_S) -> Iterator[Snapshot]:
        """See `Backend.pages`; of 1,000 keys."""
        return self._pages(*span(prefix), 0, lambda: timeout_s)

    def _pages(
        self, start: bytes, end: bytes, at: int, left_s: Callable[[], float]
    ) -> Iterator[Snapshot]:
        while True:
            request = self.client.range_request(start, end, PAGE_KEYS, at)
            reply = self.client.call(self.client.kvstub.Range, request, left_s())
            at = at or reply.header.revision
            yield Snapshot(tuple(map(item_of, reply.kvs)), at)
            if not reply.more:
                return
            start = reply.kvs[-1].key + b"\0"

    def commit(
        self, transaction: Transaction, timeout_s: float = TIMEOUT_S, *, in_doubt: bool = False
    ) -> Verdict:
        """See `Backend.commit`."""
        check_transaction(transaction)
        deadline = time.monotonic() + timeout_s
        request = _fill(rpc.TxnRequest(), transaction)
        while True:
            left = deadline - time.monotonic()
            attempt = min(left, ATTEMPT_S) if len(self.client.channel) > 1 else left
            try:
                reply = self.client.call(self.client.kvstub.Txn, request, attempt, retry=False)
                verdict = _verdict(transaction, reply, reply.header.revision)
                if in_doubt and isinstance(verdict, Conflict):
                    return self._carried_out(transaction, deadline) or verdict
                return verdict
            except MetadataUnavailableError:
                in_doubt = True
                if self.client.channel.closed or deadline - time.monotonic() <= RETRY_S:
                    raise
                time.sleep(RETRY_S)
                if (committed := self._carried_out(transaction, deadline)) is not None:
                    return committed

    def _carried_out(self, transaction: Transaction, deadline: float) -> Committed | None:
        """Whether all that a transaction puts is there, by one revision, and what it deletes not.

        Without puts it is carried out anew, unless nothing is left to delete.
        """
        revisions = set()
        for keys in _chunks([*transaction.puts, *transaction.deletes], MAX_LIST):
            request = rpc.TxnRequest()
            for each in keys:
                name = each if isinstance(each, str) else each.key
                target = request.success.add().request_range
                _fill_read(target, encode(name), b"", keys_only=False)
            left = max(RETRY_S, deadline - time.monotonic())
            reply = self.client.call(self.client.kvstub.Txn, request, left)
            for each, response in zip(keys, reply.responses, strict=True):
                found = [item_of(kv) for kv in response.response_range.kvs]
                if isinstance(each, str):
                    if found:
                        return None
                elif [(i.value, i.lease) for i in found] != [(each.value, each.lease)]:
                    return None
                else:
                    revisions.add(found[0].mod_revision)
        if transaction.puts:
            return Committed(revisions.pop()) if len(revisions) == 1 else None
        return Committed(reply.header.revision) if transaction.deletes else None

    def commit_each(
        self, transactions: Sequence[Transaction], timeout_s: float = TIMEOUT_S
    ) -> list[Verdict]:
        """See `Backend.commit_each`."""
        deadline = time.monotonic() + timeout_s
        check_each(transactions)
        verdicts: list[Verdict] = []
        for group in _chunks(list(transactions), MAX_LIST):
            request = rpc.TxnRequest()
            for transaction in group:
                _fill(request.success.add().request_txn, transaction)
            left = deadline - time.monotonic()
            reply = self.client.call(self.client.kvstub.Txn, request, left, retry=False)
            verdicts += (
                _verdict(transaction, response.response_txn, reply.header.revision)
                for transaction, response in zip(group, reply.responses, strict=True)
            )
        return verdicts

    def grant(
        self,
        ttl_s: float,
        on_lost: Callable[[], None],
        *,
        lease: int = 0,
        timeout_s: float = TIMEOUT_S,
    ) -> Lease:
        """See `Backend.grant`."""
        return self._leases.grant(ttl_s, on_lost, lease, timeout_s)

    def revoke(self, lease: int, timeout_s: float = TIMEOUT_S) -> None:
        """See `Backend.revoke`."""
        self._leases.revoke(lease, timeout_s)

    def watch(self, prefix: str, after: int) -> Watch:
        """See `Backend.watch`."""
        watch = EtcdWatch(self.client, prefix, after)
        self._watches = [*(w for w in self._watches if not w.closed), watch]
        return watch

    def compact(self, revision: int, timeout_s: float = TIMEOUT_S) -> None:
        """See `Backend.compact`."""
        request = rpc.CompactionRequest(revision=revision)
        self.client.call(self.client.kvstub.Compact, request, timeout_s, retry=False)

    def close(self) -> None:
        """See `Backend.close`."""
        for watch in self._watches:
            watch.close()
        self._leases.close()
        self.client.close()


# ---- messages


def _chunks(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (values[i : i + size] for i in range(0, len(values), size))


def _fill(request: Any, transaction: Transaction) -> Any:
    """Write a transaction into a message, in place: a message that is passed in is copied."""
    for compare in transaction.compares:
        key, end = _place(compare)
        _fill_compare(request.compare.add(), compare, key, end)
        # Told if it fails, so that a conflict says what did not hold.
        _fill_read(request.failure.add().request_range, key, end, keys_only=True)
    operations: list[Put | str] = [*transaction.puts, *transaction.deletes]
    if len(operations) <= MAX_LIST:
        _fill_operations(request.success, operations)
    else:  # those past the limit of one list in transactions without a condition
        for chunk in _chunks(operations, MAX_LIST):
            _fill_operations(request.success.add().request_txn.success, chunk)
    return request


def _fill_operations(target: Any, operations: Sequence[Put | str]) -> None:
    for each in operations:
        if isinstance(each, str):
            target.add().request_delete_range.key = encode(each)
        else:
            put = target.add().request_put
            put.key, put.value, put.lease = encode(each.key), each.value, each.lease


def _place(compare: Compare) -> tuple[bytes, bytes]:
    return span(compare.key) if compare.condition is Condition.EMPTY else (encode(compare.key), b"")


def _fill_compare(target: Any, compare: Compare, key: bytes, end: bytes) -> None:
    target.key, target.range_end = key, end
    if compare.condition is Condition.UNCHANGED:
        target.target, target.result = _MOD, _EQUAL
        target.mod_revision = compare.mod_revision
    else:  # a key that is not there has version 0, and so has a range without keys
        target.target = _VERSION
        target.result = _GREATER if compare.condition is Condition.EXISTS else _EQUAL
        target.version = 0


def _fill_read(target: Any, key: bytes, end: bytes, *, keys_only: bool) -> None:
    target.key, target.range_end, target.limit, target.keys_only = key, end, 1, keys_only


def _verdict(transaction: Transaction, reply: Any, revision: int) -> Verdict:
    if reply.succeeded:
        return Committed(revision)
    failed = tuple(
        compare
        for compare, response in zip(transaction.compares, reply.responses, strict=True)
        if not _holds(compare, response.response_range.kvs)
    )
    return Conflict(revision, failed)


def _holds(compare: Compare, found: Any) -> bool:
    match compare.condition:
        case Condition.EXISTS:
            return bool(found)
        case Condition.UNCHANGED:
            return bool(found) and found[0].mod_revision == compare.mod_revision
        case _:
            return not found

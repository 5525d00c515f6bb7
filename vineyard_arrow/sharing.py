"""Requests about objects that the cluster knows, or is to know: persist, delete, names, labels.

Each becomes transactions of `metadata.records`; it is answered when they were carried out and
have shown in what this instance hears, or at its deadline. An object of which something is on its
way is *busy*: further requests about it wait for that. What is heard keeps the catalog in step:
names, labels, and which of its objects the cluster knows.

Knows no sockets. Single-threaded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from .cluster import Cluster, Known, Outcome
from .errors import (
    AccessDeniedError,
    InvalidObjectError,
    LeaseLostError,
    MetadataFullError,
    MetadataUnavailableError,
    ObjectExistsError,
    ObjectInUseError,
    ObjectNotFoundError,
    VineyardArrowError,
)
from .ipc import protocol as p
from .metadata import records as r
from .metadata.backend import TIMEOUT_S, Changes, Conflict, Transaction
from .metadata.catalog import (
    TAKEN_HINT,
    Catalog,
    Record,
    check_labels,
    check_name,
    matches,
)
from .objects import ObjectID
from .sessions import NoReply, Session
from .waits import MAX_WAIT_S, Timer

log = logging.getLogger("vineyard_arrow.cluster")
Reply = p.Done | p.Created | p.Moved
Finish = Callable[[list[Outcome]], Reply]
MAX_NAMED = 5
PER_DELETE_S = 0.1  # more time for each of many that are deleted by one request
MAX_DELETE_S = 20.0  # within what a client waits, who then learns why


class Sharing:
    """See the module's docstring.

    Parameters
    ----------
    cluster, catalog
        What the cluster knows, and what this instance has.
    stored
        ``stored(record)``: the messages of an object in the catalog.
    call_later
        ``call_later(seconds, function)`` of the event loop.
    published
        Called with an object's id and a new name of it.
    again
        Carries a request out anew.
    after_delete
        Called once objects were deleted.
    """

    def __init__(
        self,
        cluster: Cluster,
        catalog: Catalog,
        stored: Callable[[Record], bytes],
        call_later: Callable[[float, Callable[[], None]], Timer],
        published: Callable[[int, str | None], None],
        again: Callable[[Session, int, Any], None],
        after_delete: Callable[[], None],
    ) -> None:
        self._cluster = cluster
        self._layout = cluster.layout
        self._catalog = catalog
        self._stored = stored
        self._call_later = call_later
        self._published = published
        self._again = again
        self._after_delete = after_delete
        self._busy: dict[int | str, list[Callable[[], None]]] = {}  # with what waits for each
        cluster.listen(self._heard)

    # ---- what is on its way

    def _run(
        self,
        session: Session,
        number: int,
        transactions: Sequence[Transaction],
        touched: Iterable[int | str],
        finish: Finish,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Commit, then answer what ``finish`` makes of the outcomes; raises `NoReply`.

        ``finish`` is called however late they come, for its effects.
        """
        keys = list(dict.fromkeys(touched))
        for key in keys:
            self._busy.setdefault(key, [])
        answered = False

        def answer(reply: Any) -> None:
            nonlocal answered
            if not answered:
                answered = True
                timer.cancel()
                session.send(number, reply, [])

        def late() -> None:
            answer(p.failure(_unavailable(timeout_s)))

        def done(outcomes: list[Outcome]) -> None:
            waiting = [each for key in keys for each in self._busy.pop(key, [])]
            try:
                answer(finish(outcomes))
            except NoReply:  # it takes more than one step
                timer.cancel()
            except VineyardArrowError as error:
                answer(p.failure(error))
            finally:
                for each in waiting:
                    each()

        timer = self._call_later(timeout_s, late)
        self._cluster.commit(transactions, timeout_s, done)
        raise NoReply

    def _await(
        self, session: Session, number: int, request: Any, keys: Iterable[int | str]
    ) -> None:
        """Raise `NoReply` if one of these is busy: the request is then carried out afterwards."""
        for key in keys:
            if key in self._busy:
                self._busy[key].append(lambda: self._again(session, number, request))
                raise NoReply

    # ---- persist

    def persist(self, session: Session, number: int, m: p.Persist) -> Reply:
        """Let the cluster know objects, with all their members."""
        wanted = []
        for object_id in m.ids:
            if self._catalog.get(object_id) is not None:
                wanted.append(object_id)
            elif self._cluster.item(object_id) is None:
                raise ObjectNotFoundError(f"no object {ObjectID(object_id)}")
        tree = self._catalog.tree(wanted)
        self._await(session, number, m, (record.id for record in tree))
        new = [record for record in tree if not self.is_known(record.id)]
        if not new:
            return p.Done()
        transactions = [
            r.persist(self._layout, self._record(record, self._stored(record))) for record in new
        ]
        before = [record.persisted for record in new]
        for record in new:
            record.persisted = True  # or nearly so: nothing is to delete it meanwhile

        def finish(outcomes: list[Outcome]) -> Reply:
            failure: VineyardArrowError | None = None
            for record, was, outcome in zip(new, before, outcomes, strict=True):
                if isinstance(outcome, LeaseLostError | MetadataFullError | AccessDeniedError):
                    record.persisted = was or self.is_known(record.id)
                    failure = failure or outcome
                elif isinstance(outcome, Conflict):
                    record.persisted = self.is_known(record.id)
                    if not record.persisted:
                        failure = failure or self._refused(outcome, f"{ObjectID(record.id)}")
                elif isinstance(outcome, VineyardArrowError):  # it may have been done all the same
                    failure = failure or outcome
            if failure is not None:
                raise failure
            return p.Done()

        touched = [record.id for record in new]
        self._run(session, number, transactions, touched, finish, _limit(m.timeout_s))
        raise AssertionError

    def is_known(self, object_id: int) -> bool:
        """Whether the cluster knows an object of this instance."""
        key = self._layout.object(self._cluster.iid, object_id)
        return self._cluster.member.mirror.get(key) is not None

    def _record(self, record: Record, data: bytes = b"") -> r.ObjectRecord:
        iid = self._cluster.iid
        members = []
        for object_id in record.members:
            member = self._catalog.get(object_id)
            if member is not None:  # else it was deleted by force
                members.append(r.Reference(object_id, iid, member.typename, member.nbytes))
        return r.ObjectRecord(
            record.id,
            iid,
            record.typename,
            record.nbytes,
            record.created_ns,
            record.signature,
            record.labels,
            tuple(sorted(record.names)),
            tuple(members),
            data,
        )

    # ---- global objects

    def create_global(
        self, session: Session, number: int, m: p.CreateGlobal, object_id: int
    ) -> Reply:
        """Make an object of members that the cluster knows, wherever they are."""
        self._await(session, number, m, m.members)
        members = []
        for member in m.members:
            known = self._cluster.find(member)
            if known is None:
                raise ObjectNotFoundError(
                    f"the cluster knows no object {ObjectID(member)}", "persist members first"
                )
            if isinstance(known, r.GlobalRecord):
                raise InvalidObjectError(
                    f"{ObjectID(member)} is a global object itself", "use its members"
                )
            members.append(r.Reference(known.id, known.iid, known.typename, known.nbytes))
        if m.name is not None:
            check_name(m.name)
            self.check_free(m.name)
        check_labels(m.labels)
        record = r.ObjectRecord(
            object_id,
            self._cluster.iid,
            m.typename,
            sum(member.nbytes for member in members),
            m.created_ns,
            object_id,
            dict(m.labels),
            () if m.name is None else (m.name,),
            tuple(members),
            m.data,
        )
        steps = r.create_global(self._layout, record)
        self._create_step(session, number, m, record, steps)
        raise AssertionError

    def _create_step(
        self,
        session: Session,
        number: int,
        m: p.CreateGlobal,
        record: r.ObjectRecord,
        steps: Sequence[Transaction],
    ) -> None:
        """Commit the first step, and then the others; take back what came before one that fails."""

        def finish(outcomes: list[Outcome]) -> Reply:
            [outcome] = outcomes
            if isinstance(outcome, Conflict | VineyardArrowError):
                if steps[0].puts[0].key != self._layout.globals(record.id) or len(steps) > 1:
                    back = r.abandon_global(self._layout, record)
                    self._cluster.commit([back], TIMEOUT_S, lambda _: None)
                if isinstance(outcome, Conflict):
                    raise self._refused(outcome, str(ObjectID(record.id)))
                raise outcome
            if len(steps) > 1:
                self._create_step(session, number, m, record, steps[1:])
            return p.Created(record.id)

        self._run(session, number, steps[:1], m.members, finish, _limit(m.timeout_s))

    # ---- delete

    def delete(
        self, session: Session, number: int, m: p.Delete, then: Callable[[], Reply] = p.Done
    ) -> Reply | None:
        """Delete objects; None if the cluster knows none of them.

        ``then`` makes the reply, once all are gone.
        """
        if all(map(self._is_ours_alone, m.ids)):
            return None
        ids = list(dict.fromkeys(m.ids))
        local = [i for i in ids if self._catalog.get(i) is not None]
        known: list[Known] = []
        for object_id in ids:
            if self._catalog.get(object_id) is None:
                known.append(self._elsewhere(object_id))
        doomed = self._catalog.doomed(local, deep=m.deep)
        self._await(session, number, m, [*(record.id for record in doomed), *ids])
        persisted = [record for record in doomed if record.persisted]
        if not known and not persisted:
            return None
        self._catalog.check_delete(local, force=m.force)
        transactions = [self._deletion(record) for record in known]
        transactions += [self._deletion(self._record(record)) for record in persisted]
        all_ids = [object_of(record).id for record in known] + [record.id for record in persisted]

        def finish(outcomes: list[Outcome]) -> Reply:
            kept, failure = set(), None
            for object_id, outcome in zip(all_ids, outcomes, strict=True):
                error = self._kept(object_id, outcome)
                if error is None:
                    record = self._catalog.get(object_id)
                    if record is not None:
                        record.persisted = False
                elif object_id in ids or not isinstance(error, ObjectInUseError):
                    kept.add(object_id)
                    failure = failure or error
            gone = [i for i in local if i not in kept and self._catalog.get(i) is not None]
            if failure is not None:  # only what the cluster has forgotten goes here as well
                gone = [i for i in gone if i in all_ids]
            self._catalog.delete(gone, force=m.force, deep=m.deep)
            self._after_delete()
            if failure is not None:
                raise failure
            return then()

        touched = [*(record.id for record in doomed), *ids]
        limit = min(TIMEOUT_S + PER_DELETE_S * len(transactions), MAX_DELETE_S)
        self._run(session, number, transactions, touched, finish, limit)
        raise AssertionError

    def _is_ours_alone(self, object_id: int) -> bool:
        """Whether a delete of it cannot concern the cluster, seen without looking far."""
        record = self._catalog.get(object_id)
        if record is None or record.persisted or record.members:
            return False
        return object_id not in self._busy

    def _elsewhere(self, object_id: int) -> r.GlobalRecord:
        known = self._cluster.find(object_id)
        if isinstance(known, r.GlobalRecord):
            return known
        if known is None:
            raise ObjectNotFoundError(f"no object {ObjectID(object_id)}")
        raise ObjectNotFoundError(
            f"object {ObjectID(object_id)} is none of this instance's",
            f"it lives on {self._cluster.place(object_id)}: delete it there",
        )

    def _deletion(self, record: Known) -> Transaction:
        if isinstance(record, r.GlobalRecord):
            names = self._cluster.name_items(record.object.id)
            return r.delete_global(self._layout, record.object, names)
        key = self._layout.signature(record.signature, record.iid)
        item = self._cluster.member.mirror.get(key)
        if item is not None and item.value != str(ObjectID(record.id)).encode():
            item = None  # a newer copy has it
        return r.delete(self._layout, record, self._cluster.name_items(record.id), item)

    def _kept(self, object_id: int, outcome: Outcome) -> VineyardArrowError | None:
        """Why the cluster still knows an object; None if it does not."""
        if isinstance(outcome, VineyardArrowError):
            return outcome
        if not isinstance(outcome, Conflict):
            return None
        failed = {compare.key for compare in outcome.failed}
        own = {
            self._layout.object(self._cluster.iid, object_id),
            self._layout.globals(object_id),
        }
        if self._layout.instance(self._cluster.iid) in failed:
            return _fenced()
        if own & failed:
            return None
        if self._layout.edges(object_id) in failed:
            return self._in_use(object_id)
        return MetadataUnavailableError(f"{ObjectID(object_id)} was changed meanwhile", "try again")

    def _in_use(self, object_id: int) -> ObjectInUseError:
        users = []
        for parent in self._cluster.parents(object_id)[:MAX_NAMED]:
            record = self._cluster.find(parent)
            names = "".join(f" {name!r}" for name in self._cluster.names_of(parent)[:1])
            kind = "global object" if isinstance(record, r.GlobalRecord) else "object"
            users.append(f"{kind}{names} {ObjectID(parent)} of {self._cluster.place(parent)}")
        return ObjectInUseError(
            f"{ObjectID(object_id)} is a member of {'; '.join(users) or 'another object'}",
            "delete that first; force does not reach beyond this instance",
        )

    def clear(self, session: Session, number: int, m: p.Clear) -> None:
        """Let the cluster forget all objects of this instance, then carry the request out anew."""
        self._await(session, number, m, list(self._busy))
        made = [known for known in self._cluster.objects() if isinstance(known, r.GlobalRecord)]
        ids = [known.object.id for known in made if known.object.iid == self._cluster.iid]
        ids += [record.id for record in self._catalog.match("*") if record.persisted]

        def again() -> Reply:
            self._again(session, number, m)
            raise NoReply

        if ids:
            self.delete(session, number, p.Delete(ids, force=True), again)

    # ---- names

    def check_free(self, name: str) -> None:
        """Raise ObjectExistsError if a name of this instance or the cluster is taken."""
        points_to = self._catalog.find_name(name)
        if points_to is None:
            points_to = self._cluster.names.get(name)
        if points_to is not None:
            raise ObjectExistsError(
                f"name {name!r} is taken (it points to {ObjectID(points_to)})",
                TAKEN_HINT,
            )

    def check_movable(self, name: str, object_id: int) -> None:
        """Raise ObjectExistsError if a name is that of the cluster, not hidden by one from here.

        Such a name can only move to an object that the cluster knows, which this one is not.
        """
        if self._catalog.find_name(name) in (None, self._cluster.names.get(name)):
            raise ObjectExistsError(
                f"name {name!r} is of a persisted object, {ObjectID(object_id)} is not persisted",
                "persist it before it gets the name, so that all instances find the same object",
            )

    def put_name(self, session: Session, number: int, m: p.PutName) -> Reply | None:
        """Name an object of the cluster; None if it is one that only this instance knows."""
        self._await(session, number, m, (m.id, m.name))
        record = self._catalog.get(m.id)
        check_name(m.name)
        taken = self._cluster.name_item(m.name) if m.overwrite else None
        if not m.overwrite:
            self.check_free(m.name)
        if record is not None and not record.persisted:
            if taken is not None:
                self.check_movable(m.name, m.id)
            return None
        known = self._cluster.find(m.id)
        if known is None and record is not None and self._cluster.member.fenced:
            raise _fenced()
        if known is None:
            return None
        transaction = r.put_name(self._layout, m.name, known, taken)
        before = self._catalog.find_name(m.name)
        if before is None:
            before = self._cluster.names.get(m.name)

        def finish(outcomes: list[Outcome]) -> Reply:
            [outcome] = outcomes
            if isinstance(outcome, VineyardArrowError):
                raise outcome
            if isinstance(outcome, Conflict):
                name = self._layout.name(m.name)
                if m.overwrite and name in [compare.key for compare in outcome.failed]:
                    self._again(session, number, m)  # somebody else moved it, which was heard
                    raise NoReply
                raise self._refused(outcome, str(ObjectID(m.id)))
            here = self._catalog.find_name(m.name)
            if here not in (None, m.id):  # of an object that only this instance knew by the name
                self._catalog.drop_name(m.name)
                self._heard_name(m.name, False, False)
            return p.Moved(before)

        self._run(session, number, [transaction], (m.id, m.name), finish)
        raise AssertionError

    def drop_name(self, session: Session, number: int, m: p.DropName) -> Reply | None:
        """Free a name of the cluster; None if it is one of this instance only."""
        self._await(session, number, m, (m.name,))
        points_to = self._catalog.find_name(m.name)
        item = self._cluster.name_item(m.name)
        if item is None or (points_to is not None and self._cluster.names.get(m.name) != points_to):
            return None

        def finish(outcomes: list[Outcome]) -> Reply:
            [outcome] = outcomes
            if isinstance(outcome, VineyardArrowError):
                raise outcome
            if isinstance(outcome, Conflict):
                raise ObjectNotFoundError(f"name {m.name!r} was changed meanwhile", "try again")
            return p.Done()

        self._run(session, number, [r.drop_name(item)], (m.name,), finish)
        raise AssertionError

    # ---- labels

    def label(self, session: Session, number: int, m: p.Label) -> Reply | None:
        """Label an object of the cluster; None if it is one that only this instance knows."""
        self._await(session, number, m, (m.id,))
        record = self._catalog.get(m.id)
        item = self._cluster.item(m.id)
        known = self._cluster.parsed(item)
        if item is None or not isinstance(known, r.ObjectRecord | r.GlobalRecord):
            if record is None:
                raise ObjectNotFoundError(f"no object {ObjectID(m.id)}")
            return None
        old = object_of(known)
        labels = {k: v for k, v in {**old.labels, **m.labels}.items() if v}
        check_labels(labels)
        transaction = r.relabel(self._layout, item, replace(old, labels=labels))

        def finish(outcomes: list[Outcome]) -> Reply:
            [outcome] = outcomes
            if isinstance(outcome, VineyardArrowError):
                raise outcome
            if isinstance(outcome, Conflict):
                raise self._refused(outcome, str(ObjectID(m.id)))
            return p.Done()

        self._run(session, number, [transaction], (m.id,), finish)
        raise AssertionError

    def _refused(self, conflict: Conflict, what: str) -> VineyardArrowError:
        """What a conflict means to who asked."""
        prefix = self._layout.prefix
        keys = [compare.key.removeprefix(prefix) for compare in conflict.failed]
        if self._layout.instance(self._cluster.iid).removeprefix(prefix) in keys:
            return _fenced()
        for key in keys:
            kind, _, rest = key.partition("/")
            if kind == "n":
                return ObjectExistsError(
                    f"name {rest!r} is taken in the cluster", "free it by drop_name, or put another"
                )
            if kind in "og" and rest.endswith(what):
                return ObjectNotFoundError(f"{what} was changed or deleted meanwhile")
            if kind in "ogi":
                return ObjectNotFoundError(f"{key.rpartition('/')[2]} is no longer in the cluster")
        return MetadataUnavailableError(f"{what} was changed meanwhile", "try again")

    # ---- what is heard

    def _heard(self, changes: Changes, fenced: bool) -> None:
        prefix = self._layout.prefix
        own = f"{prefix}o/{self._cluster.iid:016x}/"
        gone: list[ObjectID] = []
        for event in changes.events:
            if event.key.startswith(own):
                if event.item is not None:
                    self._heard_own(self._cluster.parsed(event.item))
                elif not fenced:
                    gone.append(ObjectID(event.key[len(own) :]))
            elif event.key.startswith("o/", len(prefix)) and event.item is not None:
                self._published(int(event.key.rpartition("/")[2][1:], 16), None)
            elif event.key.startswith("n/", len(prefix)):
                self._heard_name(event.key[len(prefix) + 2 :], event.item is None, fenced)
            elif event.key.startswith("g/", len(prefix)) and event.item is None:
                object_id = ObjectID(event.key[len(prefix) + 2 :])
                if object_id.instance == self._cluster.number:
                    gone.append(object_id)
        for object_id in gone:
            record = self._catalog.get(object_id)
            if record is not None and object_id not in self._busy:
                record.persisted = False
            # Given just before it was deleted, by who did not know of that.
            for name in self._cluster.names_of(object_id):
                item = self._cluster.name_item(name)
                if item is not None:
                    self._cluster.commit([r.drop_name(item)], TIMEOUT_S, lambda _: None)

    def _heard_own(self, known: Any) -> None:
        if not isinstance(known, r.ObjectRecord):
            return
        record = self._catalog.get(known.id)
        if record is not None:
            record.persisted = True
            record.labels = dict(known.labels)
        elif known.id not in self._busy:  # deleted here when its persist was in doubt
            self._cluster.commit([self._deletion(known)], TIMEOUT_S, lambda _: None)

    def _heard_name(self, name: str, dropped: bool, fenced: bool) -> None:
        here = self._catalog.find_name(name)
        record = None if here is None else self._catalog.get(here)
        new = None if dropped else self._cluster.names.get(name)
        if here == new or (dropped and fenced):
            return
        if here is not None:
            if record is None or here in self._busy or not record.persisted:
                return  # of an object that only this instance knows: it hides the other
            self._catalog.drop_name(name)
        if new is not None and self._catalog.get(new) is not None:
            try:
                self._catalog.put_name(name, new)
            except VineyardArrowError as error:  # it is found by way of the cluster
                log.warning("name %r has no room here: %s", name, error)
        if new is not None:
            self._published(new, name)

    # ---- what is told

    def describe(self, object_id: int) -> p.ObjectInfo | None:
        """What the cluster knows of an object that is not here."""
        known = self._cluster.find(object_id)
        return None if known is None else self.info(known)

    def match(self, m: p.ListObjects) -> list[Known]:
        """Objects that the cluster knows and that are not here, as far as they are asked for."""
        wanted = m.labels.items()
        return [
            known
            for known in self._cluster.objects()
            if wanted <= (o := object_of(known)).labels.items()
            and m.signature in (0, o.signature)
            and matches(m.pattern, o.typename, self._cluster.names_of(o.id))
        ]

    def info(self, known: Known) -> p.ObjectInfo:
        """What is told of an object of the cluster."""
        record = object_of(known)
        mirror = self._cluster.member.mirror
        lost = [
            m.id for m in record.members if mirror.get(self._layout.object(m.iid, m.id)) is None
        ]
        return p.ObjectInfo(
            record.id,
            record.typename,
            record.nbytes,
            0,
            record.created_ns,
            0,
            self._cluster.names_of(record.id),
            [],
            [m.id for m in record.members],
            0,
            record.labels,
            record.signature,
            persisted=True,
            is_global=isinstance(known, r.GlobalRecord),
            lost=lost,
            data=record.data,
        )

    def missing(self, object_id: int) -> ObjectNotFoundError | None:
        """The error for an object that is here sought and lives elsewhere."""
        known = self._cluster.find(object_id)
        if known is None:
            return None
        if isinstance(known, r.GlobalRecord):
            return ObjectNotFoundError(
                f"{ObjectID(object_id)} is a global object", "get its members; get_meta lists them"
            )
        return ObjectNotFoundError(
            f"object {ObjectID(object_id)} is on another instance",
            f"it lives on {self._cluster.place(object_id)}",
        )


def object_of(known: Known) -> r.ObjectRecord:
    return known.object if isinstance(known, r.GlobalRecord) else known


def _limit(timeout_s: float) -> float:
    return max(min(timeout_s, MAX_WAIT_S), 0.0) if timeout_s == timeout_s else 0.0


def _unavailable(timeout_s: float) -> MetadataUnavailableError:
    return MetadataUnavailableError(
        f"the cluster's metadata did not answer within {timeout_s:.3g} s",
        "it may still be carried out; local put and get go on",
    )


def _fenced() -> LeaseLostError:
    return LeaseLostError(
        "the cluster counted this instance out: it was not heard in time",
        "it joins again by itself when the cluster can be reached",
    )

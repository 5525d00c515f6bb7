"""A copy of a cluster's keys in this process, fed by a watch: look-ups are local.

Lists at one revision, then watches from there; when changes in between are no longer kept, or the
server lost its data, it lists again, and reports the difference. Knows keys and values only.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

from ..errors import MetadataCompactedError, MetadataUnavailableError, VineyardArrowError
from .backend import Backend, Changes, Event, Item, Snapshot, Watch

log = logging.getLogger("vineyard_arrow.metadata")
PAGE_S = 10.0  # for each page of a list
PAUSE_S = 0.5  # after a list that failed
POLL_S = 60.0
CLOSE_S = 2.0


class Mirror:
    """All keys below a prefix as of one revision, kept up to date by a thread.

    Parameters
    ----------
    backend : Backend
        Stays the caller's to close, after this.
    prefix : str
        Of the keys.
    on_change : callable, optional
        Called with each `Changes` after they were applied, from the mirror's thread. After a
        list, with all that differs from before, be it nothing. It should only pass on.
    """

    def __init__(
        self,
        backend: Backend,
        prefix: str,
        on_change: Callable[[Changes], None] = lambda changes: None,
    ) -> None:
        self._backend = backend
        self._prefix = prefix
        self._on_change = on_change
        self._changed = threading.Condition()  # guards what follows
        self._items: dict[str, Item] = {}
        self._revision = 0
        self._later: list[tuple[int, int, Callable[[], None]]] = []  # a heap, by revision
        self._order = itertools.count()
        self._watch: Watch | None = None
        self._wanted, self._listed = 1, 0  # lists that were asked for, and are done
        self._paged = 0.0  # when the last page of a list came
        self._unlisted_since: float | None = time.monotonic()
        self._why = "it was not reached yet"
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="metadata-mirror")
        self._thread.start()

    @property
    def revision(self) -> int:
        """Of the copy; 0 before the first list."""
        return self._revision

    @property
    def unavailable_since(self) -> float | None:
        """Since when (`time.monotonic`) the copy may be out of date; None while it is fed."""
        with self._changed:
            return self._since()

    def _since(self) -> float | None:
        if self._unlisted_since is not None or self._watch is None:
            return self._unlisted_since
        return self._watch.unavailable_since

    @property
    def why_unavailable(self) -> str:
        """What the last list that failed said."""
        return self._why

    def get(self, key: str) -> Item | None:
        """A key, or None."""
        with self._changed:
            return self._items.get(key)

    def snapshot(self, prefix: str = "") -> Snapshot:
        """All keys that start with a prefix, sorted, and the revision they are of."""
        with self._changed:
            items = [item for key, item in self._items.items() if key.startswith(prefix)]
            return Snapshot(tuple(sorted(items, key=lambda item: item.key)), self._revision)

    def wait(self, revision: int, timeout_s: float) -> None:
        """Return when the copy is as new as a revision, such as that of one's own commit.

        Raises
        ------
        MetadataUnavailableError
            If it is not so in time.
        """
        if self._shows(revision):
            return
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not self._shows(revision):
                left = deadline - time.monotonic()
                if left <= 0 or self._closed:
                    raise MetadataUnavailableError(
                        f"revision {revision} of metadata did not arrive within {timeout_s:g} s",
                        "what was committed stays so, and arrives when the server can be reached",
                    )
                self._changed.wait(left)

    def when(self, revision: int, function: Callable[[], None]) -> None:
        """Call a function when the copy is as new as a revision, at the latest when this closes.

        It is called at once, or from the mirror's thread, and should only pass on.
        """
        with self._changed:
            if not self._closed and not self._shows(revision):
                heapq.heappush(self._later, (revision, next(self._order), function))
                return
        function()

    def _shows(self, revision: int) -> bool:
        return self._revision >= revision and self._unlisted_since is None

    def _due(self) -> list[Callable[[], None]]:
        """Take what is to be called by now, with the lock held."""
        due = []
        while self._later and (self._closed or self._shows(self._later[0][0])):
            due.append(heapq.heappop(self._later)[2])
        return due

    def relist(self, timeout_s: float) -> None:
        """List anew, for whoever knows that the store is not what it was.

        Raises
        ------
        MetadataUnavailableError
            If that is not done in time.
        """
        with self._changed:
            self._wanted += 1
            watch = self._watch
        if watch is not None:
            watch.close()
        self.wait_listed(timeout_s)

    def wait_listed(self, timeout_s: float) -> None:
        """Return once the lists are done that were asked for, be it the first.

        Raises
        ------
        MetadataUnavailableError
            If for ``timeout_s`` not a page of it came; many take longer.
        """
        start = time.monotonic()
        with self._changed:
            wanted = self._wanted
            while self._listed < wanted:
                left = max(start, self._paged) + timeout_s - time.monotonic()
                if left <= 0 or self._closed:
                    raise MetadataUnavailableError(
                        f"the metadata was not listed within {timeout_s:g} s: {self._why}"
                    )
                self._changed.wait(left)

    def close(self) -> None:
        """Stop; the copy stays as it is. May be called twice."""
        with self._changed:
            self._closed = True
            watch = self._watch
            due = self._due()
            self._changed.notify_all()
        for function in due:
            function()
        if watch is not None:
            watch.close()
        self._thread.join(CLOSE_S)  # a list that nobody answers ends later

    # ---- the thread

    def _run(self) -> None:
        while not self._closed:
            wanted = self._wanted
            try:
                self._list()
                with self._changed:
                    self._listed = wanted
                    self._changed.notify_all()
                self._follow(self._revision)
            except MetadataCompactedError as error:
                log.info("the metadata is listed anew: %s", error)
                self._mark_unlisted(error)
            except VineyardArrowError as error:
                self._mark_unlisted(error)
                with self._changed:
                    if not self._closed:
                        self._changed.wait(PAUSE_S)

    def _mark_unlisted(self, error: VineyardArrowError) -> None:
        with self._changed:
            self._why = str(error)
            if self._unlisted_since is None:
                self._unlisted_since = time.monotonic()

    def _list(self) -> None:
        new: dict[str, Item] = {}
        for page in self._backend.pages(self._prefix, PAGE_S):
            new.update((item.key, item) for item in page.items)
            with self._changed:
                self._paged = time.monotonic()
            if self._closed:
                raise MetadataUnavailableError("this copy of the metadata was closed")
        self._replace(new, page.revision)

    def _replace(self, new: dict[str, Item], revision: int) -> None:
        with self._changed:
            old, self._items = self._items, new
            self._revision = revision
            self._unlisted_since = None
            due = self._due()
            self._changed.notify_all()
        for function in due:
            function()
        keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        # Told even if nothing differs: whoever counts revisions has come as far as this.
        self._tell(Changes(revision, tuple(Event(k, new.get(k)) for k in keys)))

    def _follow(self, after: int) -> None:
        """Apply what changes, until a close, an error, or a list that is asked for."""
        watch = self._backend.watch(self._prefix, after)
        with self._changed:
            self._watch = watch
        try:
            while not self._closed and self._listed == self._wanted:
                changes = watch.next(POLL_S)
                if changes is not None:
                    self._apply(changes)
        finally:
            with self._changed:
                self._watch = None
            watch.close()

    def _apply(self, changes: Changes) -> None:
        with self._changed:
            for event in changes.events:
                if event.item is None:
                    self._items.pop(event.key, None)
                else:
                    self._items[event.key] = event.item
            self._revision = changes.revision
            due = self._due()
            self._changed.notify_all()
        for function in due:
            function()
        self._tell(changes)

    def _tell(self, changes: Changes) -> None:
        try:
            self._on_change(changes)
        except Exception:
            log.exception("what was to be told of changed metadata failed")

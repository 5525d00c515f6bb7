"""Drivers by kind, scheme, format and typename: what ties the store to the world outside.

A driver is a function of one `Request`, and of options that are its own. What it is given and
what it returns depends on its kind alone:

=============  =====================================================================
``read``       returns a value that `Client.put` takes, best built in
               ``request.client.memory_pool``; or an ObjectID that it has put itself
``scan``       returns a `pyarrow.RecordBatchReader` that holds little at a time
``write``      writes ``request.value()`` to ``request.url``; returns nothing
``partition``  cuts ``request.value()`` up; returns what `Client.put` takes, an id, or a
               `partitioning.Plan`. So do ``repartition``, of what is in parts already, and
               ``concat``, which makes one of it
=============  =====================================================================

Of the drivers that match, the one that names most wins: a typename counts more than a format, a
format more than a scheme; of equals, the one that was registered last. It knows no files, no
databases and no formats: modules of this package register themselves, as others do by entry
points of the group `GROUP`, and all are loaded when a driver is first asked for.
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from ..errors import ConfigError, DriverNotFoundError
from ..objects import ObjectID
from ..plugins import load_plugins

if TYPE_CHECKING:
    from ..client import Client

__all__ = [
    "GROUP",
    "Driver",
    "Kind",
    "Progress",
    "Request",
    "driver",
    "drivers",
    "find_driver",
    "run",
    "shown",
]

GROUP = "vineyard_arrow.drivers"

Kind = Literal["read", "scan", "write", "partition", "repartition", "concat"]
Progress = Callable[[int, int], Any]
Marker = str | Callable[[str], bool]
_KINDS = ("read", "scan", "write", "partition", "repartition", "concat")


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a driver.

    Attributes
    ----------
    client : Client
        Whose store it is about; ``client.memory_pool`` is where to build.
    url : str
        As it was given; empty for ``partition``.
    scheme : str
        Of the url, in lower case; ``"file"`` for paths.
    format : str or None
        As it was given, else by the ending of the url or what marks a directory, if some driver has
        named that.
    typename : str or None
        Of the object to write or to cut up; ``"vineyard.table"`` for a value in columns that is
        not in the store, None for other such values.
    key : ObjectID or None
        Of the object, if it is one.
    progress : callable or None
        To be called with what is done and what there is, in bytes where that is known.
    after : list of callable
        What a driver adds is called once that which it read is put, with its name.
    """

    client: Client
    url: str = ""
    scheme: str = ""
    format: str | None = None
    typename: str | None = None
    key: ObjectID | None = None
    progress: Progress | None = None
    _value: Any = field(default=None, repr=False)
    _after: list[Callable[[], Any]] = field(default_factory=list, repr=False)
    _raised: list[BaseException] = field(default_factory=list, repr=False)

    def value(self, as_: Any = None) -> Any:
        """What to write or to cut up, mapped; in another form, as `Client.get` has it."""
        if self.key is not None:
            return self.client.get(self.key, as_=as_)
        is_reader = isinstance(self._value, pa.RecordBatchReader)
        return self.watched(self._value) if is_reader else self._value

    @contextmanager
    def as_raised(self) -> Iterator[None]:
        """What the block raises, the caller gets as it is, whatever a library makes of it."""
        try:
            yield
        except GeneratorExit:
            raise
        except BaseException as error:
            if not self._raised:
                self._raised.append(error)
            raise

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Raise what `as_raised` has seen in place of what the block makes of it."""
        try:
            yield
        except Exception:
            if not self._raised:
                raise
            raise self._raised.pop()  # noqa: B904 - not because of the other

    def watched(self, reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
        """A reader of the same batches; the caller gets what the source raises as it is."""

        def batches() -> Iterator[pa.RecordBatch]:
            with self.as_raised():
                yield from reader

        return pa.RecordBatchReader.from_batches(reader.schema, batches())

    @property
    def path(self) -> str:
        """The path of this machine that the url is, if its scheme is ``file`` or none."""
        return path_of(self.url)

    def then(self, function: Callable[[], Any]) -> None:
        """Have it called once what was read is stored, named and labelled: to acknowledge it."""
        self._after.append(function)

    def stored(self) -> None:
        """Call what is to be called then."""
        for function in self._after:
            function()

    def done(self, done: int, total: int) -> None:
        """Tell `progress`, if anybody listens."""
        if self.progress is not None:
            with self.as_raised():
                self.progress(done, total)


@dataclass(frozen=True, slots=True)
class Driver:
    """A driver with what it is for; None stands for any. Listed by `Client.drivers`."""

    kind: str
    schemes: tuple[str, ...] | None
    formats: tuple[str, ...] | None
    typename: str | None
    endings: tuple[str, ...]
    function: Callable[..., Any]
    marker: Marker | None = None

    def __repr__(self) -> str:
        parts = [self.kind]
        for what, names in (("scheme", self.schemes), ("format", self.formats)):
            parts += [f"{what}={'|'.join(names)}"] if names else []
        parts += [f"typename={self.typename}"] if self.typename else []
        return f"<Driver {' '.join(parts)}: {self.function.__module__}.{self.function.__name__}>"

    @property
    def doc(self) -> str:
        """What it says of itself, in a line."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def options(self) -> list[str]:
        """Names of the options that it takes."""
        taken = inspect.signature(self.function).parameters.values()
        return [p.name for p in taken if p.kind is p.KEYWORD_ONLY]

    def rank(self, request: Request) -> tuple[int, int, int] | None:
        """How well it fits: the more the better; None if it does not."""
        schemes = _schemes_of(request.scheme)
        if self.typename is not None and self.typename != request.typename:
            return None
        if self.formats is not None and request.format not in self.formats:
            return None
        scheme = 0
        if self.schemes is not None:
            fitting = [i for i, name in enumerate(schemes) if name in self.schemes]
            if not fitting:
                return None
            scheme = len(schemes) - fitting[0]
        return self.typename is not None, self.formats is not None, scheme


_F = TypeVar("_F", bound=Callable[..., Any])
_drivers: list[Driver] = []
_loaded = False


def driver(
    kind: Kind,
    *,
    scheme: str | Iterable[str] | None = None,
    format: str | Iterable[str] | None = None,
    typename: str | None = None,
    endings: Iterable[str] = (),
    marker: Marker | None = None,
) -> Callable[[_F], _F]:
    """Register a function as a driver; may be stacked.

    Parameters
    ----------
    kind : {"read", "scan", "write", "partition", "repartition", "concat"}
        See `Request` and docs/drivers.md for what each gets and returns. Options are
        keyword-only arguments.
    scheme, format : str or iterable of str, optional
        One or several; any by default. The scheme ``"postgresql"`` is also that of
        ``postgresql+psycopg://``.
    typename : str, optional
        Of the objects that it writes or cuts up.
    endings : iterable of str
        Such as ``".parquet"``: names that end so are of ``format`` (its first, if several).
    marker : str or callable, optional
        Such as ``"_delta_log"``: directories of this machine that hold one are of ``format``; or
        a function that says so of a path whose ending tells nothing.

    Examples
    --------
    >>> @driver("read", scheme="null")
    ... def read_null(request, *, rows=0):
    ...     "Nulls."
    ...     return pa.table({"x": pa.nulls(rows)})
    """
    if kind not in _KINDS:
        raise ConfigError(f"there are no drivers to {kind!r}", f"there are {', '.join(_KINDS)}")

    def register(function: _F) -> _F:
        names = _several(scheme), _several(format)
        made = Driver(kind, *names, typename, tuple(endings), function, marker)
        _drivers.append(made)
        return function

    return register


def _several(names: str | Iterable[str] | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    return (names,) if isinstance(names, str) else tuple(names)


def drivers(kind: str | None = None) -> list[Driver]:
    """All drivers, or those of a kind, in the order of their registration."""
    global _loaded
    if not _loaded:
        _loaded = True
        for module in iter_modules(import_module(__package__).__path__):
            import_module(f"{__package__}.{module.name}")
        load_plugins(driver, GROUP)
    return [each for each in _drivers if kind in (None, each.kind)]


# ---- finding and running


def scheme_of(url: str) -> str:
    """The scheme of a url; ``"file"`` for a path."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", url)
    return found[1].lower() if found else "file"


def path_of(url: str) -> str:
    """The path that a path or a url with the scheme ``file`` is."""
    return unquote(urlsplit(url).path) if url.lower().startswith("file://") else url


def shown(url: str) -> str:
    """A url as errors and listings may say it: without user, password and query."""
    if scheme_of(url) == "file":
        return url
    return re.sub(r"^([^/]*//)[^/]*@", r"\1", url.partition("?")[0])


def _schemes_of(scheme: str) -> list[str]:
    """The scheme, and what is before each plus in it, the longest first."""
    parts = scheme.split("+")
    return ["+".join(parts[:n]) for n in range(len(parts), 0, -1)]


def format_of(url: str) -> str | None:
    """The format that the ending of a name tells; the longest ending counts."""
    try:
        path = url if scheme_of(url) == "file" else urlsplit(url).path
    except ValueError as error:
        raise ConfigError(f"{shown(url)} is no url: {error}") from None
    name = path.rstrip("/").lower()
    known = [(e, d.formats[0]) for d in drivers() if d.formats for e in d.endings]
    fitting = [(len(ending), format) for ending, format in known if name.endswith(ending)]
    return max(fitting)[1] if fitting else None


def _marked(url: str) -> str | None:
    """The format of what is at a path of this machine, by what marks it."""
    if scheme_of(url) != "file":
        return None
    path = os.path.expanduser(path_of(url))
    marks = dict.fromkeys((d.marker, d.formats[0]) for d in drivers() if d.marker and d.formats)
    return next((name for mark, name in marks if _is_marked(path, mark)), None)


def _is_marked(path: str, mark: Marker) -> bool:
    return mark(path) if callable(mark) else os.path.exists(os.path.join(path, mark))


def request_of(
    client: Client, url: Any, format: str | None = None, progress: Progress | None = None
) -> Request:
    """A request about a url."""
    try:
        text = os.fspath(url)
    except TypeError:
        text = None
    if not isinstance(text, str) or not text:
        raise ConfigError(f"{url!r} is no url", "use a str or a path")
    format = format or format_of(text) or _marked(text)
    return Request(client, text, scheme_of(text), format, progress=progress)


def find_driver(kind: str, request: Request) -> Driver:
    """The driver that fits best.

    Raises
    ------
    DriverNotFoundError
        If none does. The hint lists the formats for the scheme, or all schemes.
    """
    best: tuple[tuple[int, int, int], Driver] | None = None
    for each in drivers(kind):
        rank = each.rank(request)
        if rank is not None and (best is None or rank >= best[0]):
            best = rank, each
    if best is None:
        raise _no_driver(kind, request)
    return best[1]


def _no_driver(kind: str, request: Request) -> DriverNotFoundError:
    in_store = f"{request.typename!r}" if request.typename else ""
    there = [d for d in drivers(kind) if d.typename in (None, request.typename)]
    if kind in ("read", "scan", "write"):
        text = f"{in_store} to {_place_of(request)}" if in_store else _place_of(request)
        hint = _urls_there(there, request)
    else:
        text = in_store or "this"
        others = {d.kind for d in drivers() if d.typename and d.typename == request.typename}
        known = sorted({d.typename for d in drivers(kind) if d.typename})
        hint = f"it takes {', '.join(known) or 'nothing yet'}"
        if others:
            hint = f"client.{' and client.'.join(sorted(others))} take it"
    return DriverNotFoundError(f"no driver can {kind} {text}", hint)


def _place_of(request: Request) -> str:
    """What kind of place a url is, as errors say it."""
    place = "files" if request.scheme == "file" else f"{request.scheme}:// urls"
    return f"{place} of format {request.format!r}" if request.format else place


def _urls_there(there: Sequence[Driver], request: Request) -> str:
    """What urls could be instead."""
    schemes = set(_schemes_of(request.scheme))
    formats = {name for d in there if schemes & set(d.schemes or ()) for name in d.formats or ()}
    if formats:
        return f"format= says which it is of {', '.join(sorted(formats))}"
    known = sorted({name for d in there for name in d.schemes or ()})
    near = difflib.get_close_matches(request.scheme, known)
    hint = f"urls may begin with {', '.join(f'{name}://' for name in known) or 'nothing yet'}"
    return f"nearest: {', '.join(f'{name}://' for name in near)}; {hint}" if near else hint


def run(kind: str, request: Request, options: dict[str, Any]) -> Any:
    """Find the driver, and let it do what is asked.

    Raises
    ------
    DriverNotFoundError
    ConfigError
        If the driver takes no such option.
    Exception
        Whatever the source of rows or `progress` raises, as it is.
    """
    found = find_driver(kind, request)
    try:
        inspect.signature(found.function).bind(request, **options)
    except TypeError as error:
        about = _place_of(request) if request.url else repr(request.typename)
        raise ConfigError(f"to {kind} {about}: {error}", _options_there(found, options)) from None
    try:
        return found.function(request, **options)
    except Exception:
        if not request._raised:
            raise
    # Not while that is handled: it would be the context of what is none of its business.
    raise request._raised.pop()


def _options_there(found: Driver, options: Iterable[str]) -> str:
    """What options could be instead."""
    near = [
        n
        for o in options
        if o not in found.options
        for n in difflib.get_close_matches(o, found.options)
    ]
    hint = f"it takes {', '.join(found.options) or 'no options'}"
    return f"nearest: {', '.join(near)}; {hint}" if near else hint

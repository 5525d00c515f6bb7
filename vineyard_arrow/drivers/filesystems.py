"""Where files are: urls as file systems of Arrow, listings, and their errors in our words.

Local paths, S3, GCS, Azure and HDFS are Arrow's own; the rest, and what Arrow was built without,
is fsspec's. Credentials come from where these look for them. It knows no formats.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa
from pyarrow import fs as pafs

from ..errors import (
    AccessDeniedError,
    ConfigError,
    DamagedFileError,
    FileError,
    LibraryNotFoundError,
    PathExistsError,
    PathNotFoundError,
    StoreFullError,
    VineyardArrowError,
)
from .local_files import below
from .registry import path_of, scheme_of, shown

__all__ = [
    "NULL",
    "READ_SCHEMES",
    "WRITE_SCHEMES",
    "File",
    "Place",
    "check_no_delta",
    "file_errors",
    "is_hidden",
    "list_files",
    "listed",
    "place",
    "version_of",
]

_ARROW = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")
WRITE_SCHEMES = ("file", "memory", *_ARROW, "az", "adl", "oss", "webdav", "sftp", "smb")
READ_SCHEMES = (*WRITE_SCHEMES, "http", "https", "ftp", "github", "zip")
_GLOB = re.compile(r"[*?\[]")
_FROM_REMOTE = {"aiohttp", "botocore", "google", "azure", "gcsfs", "s3fs", "adlfs", "fsspec"}
_NO_ACCESS = ("ACCESS_DENIED", "InvalidAccessKeyId", "SignatureDoesNotMatch", "HTTP 403")
_TAGS = ("ETag", "etag", "Content-MD5", "Digest", "md5Hash", "LastModified", "last_modified")
NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, slots=True)
class Place:
    """A path on a file system; ``name`` is the url it came from."""

    fs: pafs.FileSystem
    path: str
    name: str

    @property
    def is_local(self) -> bool:
        """Whether it is a path of this machine."""
        return isinstance(self.fs, pafs.LocalFileSystem)


@dataclass(frozen=True, slots=True)
class File:
    """A file to read; ``keys`` are what its directories say, as ``year=2024`` does."""

    fs: pafs.FileSystem
    path: str
    nbytes: int
    keys: tuple[tuple[str, str | None], ...] = ()
    mtime_ns: int | None = None


def place(url: str, filesystem: Any = None) -> Place:
    """The file system and the path of a url.

    Parameters
    ----------
    url : str
        A path of this machine, or a url.
    filesystem : pyarrow.fs.FileSystem or fsspec file system, optional
        Of which ``url`` then is a path.

    Raises
    ------
    ConfigError
        If the url makes no sense.
    LibraryNotFoundError
        If a library for its scheme is not installed.
    """
    _check_text(url)
    if isinstance(filesystem, pafs.LocalFileSystem):
        return Place(filesystem, os.path.abspath(url), url)
    if filesystem is not None:
        return Place(_wrapped(filesystem), url, url)
    scheme = scheme_of(url)
    if scheme == "file":
        path = os.path.abspath(os.path.expanduser(path_of(url)))
        return Place(pafs.LocalFileSystem(), path, url)
    name = shown(url)
    with file_errors(name):
        if scheme in _ARROW:
            try:
                found, path = pafs.FileSystem.from_uri(_escaped(url))
                return Place(found, path, name)
            except (pa.ArrowNotImplementedError, ImportError):
                pass  # built without it
            except pa.ArrowInvalid as error:
                raise ConfigError(f"{name}: {error}") from None
        found, path = _by_fsspec(url, scheme)
        return Place(found, path, name)


def _check_text(url: str) -> None:
    """Raise ConfigError if Arrow takes no such path."""
    try:
        url.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{url!r} is no UTF-8", "rename the file, or open it yourself") from None
    if "\0" in url:
        raise ConfigError(f"{url!r} has a NUL, which no path has")


def _escaped(url: str) -> str:
    """A url with what a path or a glob may have, but no url."""
    path, mark, query = url.partition("?")
    return quote(path, safe="%/:@*=+~,;!$&'()") + mark + query


def _by_fsspec(url: str, scheme: str) -> tuple[pafs.FileSystem, str]:
    try:
        import fsspec

        found, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        missing = getattr(error, "name", None) or "fsspec"
        raise LibraryNotFoundError(
            f"a library for {scheme}:// is not installed: {error}", f"pip install {missing}"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{shown(url)}: {error}") from None
    return _wrapped(found), path


def _wrapped(filesystem: Any) -> pafs.FileSystem:
    if isinstance(filesystem, pafs.FileSystem):
        return filesystem
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem))


# ---- listings


def list_files(where: Place) -> list[File]:
    """The files of a path, a directory with all that is below, or a glob; by their names.

    Names that begin with ``_`` or a dot are left out of directories and globs. ``**`` is any
    number of directories. Links are followed, on this machine but for those to a directory that
    they lie in; two that lead to one file make it two.

    Raises
    ------
    PathNotFoundError
        If there is none.
    FileError
        If the path is neither a file nor a directory.
    ConfigError
        If the directory is a Delta table: which of its files count, its log says alone.
    """
    with file_errors(where.name):
        if scheme_of(where.name) in ("http", "https"):
            return [_of_http(where)]
        info = where.fs.get_file_info(where.path)
        if info.type == pafs.FileType.File:
            return [File(where.fs, info.path, info.size or 0, (), info.mtime_ns)]
        if info.type == pafs.FileType.Directory:
            base, fits = where.path, None
        elif _GLOB.search(where.path):
            base = where.path[: _GLOB.search(where.path).start()].rpartition("/")[0] or "/"  # type: ignore[union-attr]
            fits = _pattern(where.path)
        elif info.type == pafs.FileType.Unknown:
            raise FileError(f"{where.name} is neither a file nor a directory")
        else:
            raise PathNotFoundError(f"{where.name}: there is no such file or directory")
        inside = where.path[len(base) :].lstrip("/") if fits else "**"
        infos = listed(where, base, None if "**" in inside else inside.count("/"))
        if fits is None:
            check_no_delta(where, infos)
        found = [
            File(where.fs, i.path, i.size or 0, _keys(i.path, base), i.mtime_ns)
            for i in infos
            if i.type == pafs.FileType.File
            and not is_hidden(i.path, base)
            and (fits is None or fits.fullmatch(i.path.lstrip("/")))
        ]
    if not found:
        what = "matches nothing" if fits else "has no files"
        raise PathNotFoundError(f"{where.name} {what}", "hidden files are not looked at")
    return sorted(found, key=lambda file: file.path)


def check_no_delta(where: Place, infos: Iterable[pafs.FileInfo]) -> None:
    """Raise ConfigError if what is in a directory makes it a Delta table."""
    if any(_below(info.path, where.path)[0] == "_delta_log" for info in infos):
        raise ConfigError(
            f"{where.name} is a Delta table",
            "format='delta' takes it as one, a glob such as '*.parquet' all its files",
        )


def listed(
    where: Place,
    base: str,
    deep: int | None = None,
    until: Callable[[pafs.FileInfo], bool] | None = None,
) -> list[pafs.FileInfo]:
    """What is in a directory of a place and in those below it, ``deep`` of them down at most.

    On this machine hidden names are of an unknown type, and what ``until`` is true of may be the
    last: see `local_files.below`.
    """
    if where.is_local:
        return below(base, deep, until)
    selector = pafs.FileSelector(base, recursive=deep != 0, allow_not_found=True)
    return list(where.fs.get_file_info(selector))


def _of_http(where: Place) -> File:
    """The one file of a url: a listing would only guess at links."""
    web = where.fs.handler.fs
    info = web.info(where.path)
    if info.get("partial"):
        return File(where.fs, where.path, info["size"] or 0)
    from fsspec.implementations.memory import MemoryFileSystem

    # The server sends whole files alone, so this one is held in memory while it is read.
    held = MemoryFileSystem(skip_instance_cache=True)
    held.store, held.pseudo_dirs = {}, [""]
    path = "/" + where.name.rpartition("/")[2]
    held.pipe_file(path, web.cat_file(where.path))
    return File(_wrapped(held), path, held.size(path))


def version_of(file: File) -> str:
    """What is another when a file has changed: its time, or what its server tells it by.

    Raises
    ------
    ConfigError
        If nothing tells.
    """
    if file.mtime_ns is not None:
        return str(file.mtime_ns)
    told: dict[str, Any] = {}
    if isinstance(file.fs, pafs.PyFileSystem) and isinstance(file.fs.handler, pafs.FSSpecHandler):
        with file_errors(shown(file.path)):
            told = file.fs.handler.fs.info(file.path)
    tags = [f"{key}={told[key]}" for key in _TAGS if told.get(key)]
    if not tags:
        raise ConfigError(
            f"{shown(file.path)}: nothing tells when it changes, neither a time nor an ETag",
            "read it without resume",
        )
    return " ".join(tags)


def _pattern(glob: str) -> re.Pattern[str]:
    out, rest = "", glob.lstrip("/")
    for piece in re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]*\])", rest):
        if piece == "**/":
            out += "(?:.*/)?"
        elif piece == "**":
            out += ".*"
        elif piece == "*":
            out += "[^/]*"
        elif piece == "?":
            out += "[^/]"
        elif piece.startswith("[") and piece.endswith("]"):
            out += "[" + piece[1:-1].replace("!", "^", 1 if piece[1] == "!" else 0) + "]"
        else:
            out += re.escape(piece)
    return re.compile(out)


def _below(path: str, base: str) -> list[str]:
    return path.lstrip("/").removeprefix(base.strip("/")).strip("/").split("/")


def is_hidden(path: str, base: str) -> bool:
    """Whether a path, or a directory between it and ``base``, has a name that is left out."""
    return any(part[:1] in ("_", ".") for part in _below(path, base))


def _keys(path: str, base: str) -> tuple[tuple[str, str | None], ...]:
    pairs = [part.partition("=") for part in _below(path, base)[:-1] if "=" in part]
    return tuple((unquote(k), None if v == NULL else unquote(v)) for k, _, v in pairs)


# ---- errors


@contextmanager
def file_errors(what: str, hint: str | None = None) -> Iterator[None]:
    """Say what goes wrong with files in the block, as errors of our tree.

    Raises
    ------
    PathNotFoundError, PathExistsError, AccessDeniedError, FileError
        For what the file system says.
    DamagedFileError
        For what a reader says of the content.
    StoreFullError
        For what the pool says.
    """
    try:
        yield
    except VineyardArrowError:  # some are OSErrors, too
        raise
    except MemoryError as error:
        raise StoreFullError(
            f"{what} does not fit in the store: {error}",
            "choose columns, filter, or scan it: that holds little at a time",
        ) from error
    except FileNotFoundError as error:
        raise _not_found(what, error) from None  # it may have secrets
    except PermissionError as error:
        raise AccessDeniedError(f"{what}: permission denied") from error
    except FileExistsError as error:
        raise PathExistsError(f"{what} is there already") from error
    except (OSError, pa.ArrowException) as error:
        raise _said(what, hint, error) from error
    except Exception as error:
        if not _is_remote(error):
            raise
        raise _of_server(what, error) from error


def _is_remote(error: BaseException | None) -> bool:
    return type(error).__module__.partition(".")[0] in _FROM_REMOTE


def _not_found(what: str, error: FileNotFoundError) -> VineyardArrowError:
    """Nothing is there, or nobody could be asked: of the web, fsspec says the same of both."""
    why = error.__cause__
    of_web = type(why).__module__.partition(".")[0] == "aiohttp"
    if of_web and getattr(why, "status", None) not in (404, 410):
        return _of_server(what, why)
    return PathNotFoundError(f"{what}: there is no such file or directory")


def _of_server(what: str, error: BaseException | None) -> VineyardArrowError:
    """What a server says, or that it says nothing; by its number, as its url may have secrets."""
    status = getattr(error, "status", None)
    if status in (401, 403):
        return AccessDeniedError(f"{what}: the server says HTTP {status}")
    if status is not None:
        return FileError(f"{what}: the server says HTTP {status}")
    how = "the server cannot be reached" if isinstance(error, OSError) else type(error).__name__
    return FileError(f"{what}: {how}: {error}")


def _said(what: str, hint: str | None, error: Exception) -> VineyardArrowError:
    text = f"{what}: {str(error).strip()}"
    if any(word in text for word in _NO_ACCESS):
        return AccessDeniedError(text, "credentials come from where the service's tools look")
    remote = "AWS Error" in text or _is_remote(error)
    if isinstance(error, OSError) and (error.errno is not None or remote):
        made = FileError(text, hint)
        made.errno = error.errno
        return made
    if isinstance(error, pa.ArrowNotImplementedError):
        return FileError(text, hint)
    return DamagedFileError(text, hint or "it is damaged, or of another format")

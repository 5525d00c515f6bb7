"""The registry of drivers: which is found, what it is given, and what errors say."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from typing import Any

import pyarrow as pa
import pytest
from conftest import Daemon
from drivers_harness import end_scans, gone

import vineyard_arrow
from vineyard_arrow import plugins
from vineyard_arrow.client import Client
from vineyard_arrow.drivers import Request, driver, registry
from vineyard_arrow.errors import (
    ConfigError,
    DriverNotFoundError,
    InvalidObjectError,
    ObjectExistsError,
    ObjectNotFoundError,
    StreamFailedError,
)

TABLE = pa.table({"a": [1, 2, 3]})


@pytest.fixture(autouse=True)
def _own_drivers(client: Client) -> Iterator[None]:
    """Whatever a test registers, and what scans for it, is gone after it."""
    there = list(registry.drivers())
    yield
    registry._drivers[:] = there
    end_scans()


def named(text: str) -> Callable[..., pa.Table]:
    def read(request: Request, **options: Any) -> pa.Table:
        return pa.table({"by": [text], "format": [request.format], "scheme": [request.scheme]})

    return read


def read_by(client: Client, url: str, **options: Any) -> str:
    return client.get(client.read(url, **options))["by"][0].as_py()


def test_the_most_specific_driver_wins(client: Client) -> None:
    driver("read", scheme="x", format="f")(named("both"))
    driver("read", format="f", endings=[".f", ".tar.f"])(named("format"))
    driver("read", scheme=["x", "y"])(named("scheme"))
    driver("read", scheme="x+z")(named("longer scheme"))
    assert read_by(client, "x://a/b.f") == "both"
    assert read_by(client, "y://a/b.f") == "format"
    assert read_by(client, "y://a/b.tar.f") == "format"
    assert read_by(client, "x://a/b.f?version=1") == "both"
    assert read_by(client, "x://a") == "scheme"
    assert read_by(client, "X+q://a") == "scheme"
    assert read_by(client, "x+z://a") == "longer scheme"
    assert read_by(client, "x+z://a", format="f") == "both"
    driver("read", scheme="x")(named("later"))
    assert read_by(client, "x://a") == "later"


def test_a_typename_wins_over_a_format(client: Client) -> None:
    seen: list[Any] = []

    @driver("write", scheme="x", typename="vineyard.table")
    def write_table(request: Request) -> None:
        seen.append((request.typename, request.key, request.value()))

    @driver("write", scheme="x", format="f")
    def write_any(request: Request) -> None:
        seen.append((request.typename, request.key, request.value()))

    oid = client.put(TABLE, name="t")
    for value in (oid, str(oid), "t"):
        client.write(value, "x://a", format="f")
    assert seen == [("vineyard.table", oid, TABLE)] * 3
    client.write(TABLE, "x://a")
    client.write({"no": "table"}, "x://a", format="f")
    assert seen[3:] == [("vineyard.table", None, TABLE), (None, None, {"no": "table"})]
    with pytest.raises(InvalidObjectError, match="nothing to write"):
        client.write(None, "x://a")


def test_what_is_read_is_put_named_and_labelled(client: Client) -> None:
    done = []

    @driver("read", scheme="x")
    def read(request: Request, *, rows: int = 1) -> pa.Table:
        """Ones."""
        request.done(rows, 10)
        return pa.table({"a": [1] * rows})

    oid = client.read(
        "x://", rows=3, name="n", labels={"k": "v"}, progress=lambda *d: done.append(d)
    )
    meta = client.get_meta(oid)
    assert client.get("n")["a"].to_pylist() == [1, 1, 1]
    assert meta.labels == {"k": "v"}
    assert done == [(3, 10)]
    objects = client.status().objects
    with pytest.raises(ObjectExistsError):
        client.read("x://", name="n")
    with pytest.raises(InvalidObjectError):
        client.read("x://", labels={"k": "v" * 100_000})
    assert client.status().objects == objects


def test_a_driver_may_put_by_itself(client: Client) -> None:
    @driver("read", scheme="x")
    def read(request: Request) -> Any:
        return request.client.put(TABLE)

    oid = client.read("x://", name="n")
    assert client.get_name("n") == oid
    with pytest.raises(ObjectExistsError):
        client.read("x://", name="n")
    assert client.status().objects == 1
    moved = client.read("x://", name="n", overwrite=True)
    assert client.get_name("n") == moved != oid


def test_partition_goes_by_typename(client: Client) -> None:
    @driver("partition", typename="vineyard.table")
    def halves(request: Request, *, at: int) -> Any:
        table = request.value()
        return request.client.create_global([table[:at], table[at:]]).id

    whole = client.partition(client.put(TABLE), at=1, name="parts")
    assert [p.get().num_rows for p in client.get(whole).partitions] == [1, 2]
    assert client.get_name("parts") == whole
    with pytest.raises(ConfigError, match="makes no plans"):
        client.partition(TABLE, at=1, plan=True)
    with pytest.raises(
        DriverNotFoundError, match=r"partition 'vineyard.*it takes.*vineyard\.table"
    ):
        client.partition(client.put([1, 2, 3]), 2)
    with pytest.raises(DriverNotFoundError, match=r"client\.partition"):
        client.repartition(client.put(TABLE), 2)


def test_errors_say_what_there_is(client: Client, tmp_path: Any) -> None:
    with pytest.raises(DriverNotFoundError, match=r"read gopher://.*file://.*s3://"):
        client.read("gopher://a")
    with pytest.raises(DriverNotFoundError, match="nearest: postgres"):
        client.read("postgre://host/a")
    driver("read", scheme="gopher", format="menu")(named("menu"))
    for format in (None, "list"):
        with pytest.raises(DriverNotFoundError, match=r"format=.*menu"):
            client.read("gopher://a", format=format)
    with pytest.raises(ConfigError, match=r"'colums'.*nearest: columns;.*filter, schema") as caught:
        client.read(tmp_path / "a.parquet", colums=["a"])
    assert "<" not in str(caught.value)
    for url in ("", 3, None):
        with pytest.raises(ConfigError, match="no url"):
            client.read(url)
    with pytest.raises(ConfigError, match="no drivers to 'run'"):
        driver("run")  # type: ignore[arg-type]


def test_drivers_are_listed(client: Client) -> None:
    driver("read", scheme="x", format="f")(named("a"))
    last = client.drivers("read")[-1]
    assert (last.kind, last.schemes, last.formats) == ("read", ("x",), ("f",))
    assert repr(last) == f"<Driver read scheme=x format=f: {__name__}.read>"
    parquet = [d for d in client.drivers("scan") if d.formats == ("parquet",)]
    assert "columns" in parquet[0].options
    assert parquet[0].doc.startswith("Scan a file")
    assert {d.kind for d in client.drivers()} >= {"read", "scan", "write"}


def test_packages_bring_drivers(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("fleet", f"{__name__}:of_a_package", registry.GROUP)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry])
    monkeypatch.setattr(plugins, "_states", {})
    monkeypatch.setattr(registry, "_loaded", False)
    assert read_by(client, "fleet://") == "package"


def of_a_package(driver: Any) -> None:
    driver("read", scheme="fleet")(named("package"))


def test_module_functions_use_the_default_client(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vineyard_arrow, "_default", client)
    seen = []
    vineyard_arrow.driver("read", scheme="x")(named("mine"))
    vineyard_arrow.driver("write", scheme="x")(lambda request: seen.append(request.value()))
    oid = vineyard_arrow.read("x://")
    vineyard_arrow.write(oid, "x://")
    assert seen[0]["by"].to_pylist() == ["mine"]


# ---- scans


def scanner(batches: Callable[[], Iterator[pa.RecordBatch]]) -> None:
    @driver("scan", scheme="x")
    def scan(request: Request) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(TABLE.schema, batches())


def test_a_scan_is_a_stream(client: Client) -> None:
    scanner(lambda: iter(TABLE.to_batches() * 5))
    reader = client.scan("x://", name="s", max_bytes=1)
    assert client.list_streams()[0].name == "s"
    with client.open_stream("s") as other:
        assert reader.read() == other.read()
    assert reader.read_all().num_rows == 12


def test_a_scan_that_fails_says_why(client: Client) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield from TABLE.to_batches()
        raise OSError("the wire was cut")

    scanner(broken)
    reader = client.scan("x://")
    assert reader.read() == TABLE.to_batches()[0]
    with pytest.raises(StreamFailedError, match="the wire was cut"):
        reader.read()


def test_a_scan_that_nobody_reads_ends(client: Client) -> None:
    ended = threading.Event()

    def endless() -> Iterator[pa.RecordBatch]:
        try:
            while True:
                yield from TABLE.to_batches()
        finally:
            ended.set()

    scanner(endless)
    reader = client.scan("x://", max_bytes=1)
    reader.read()
    reader.close()
    assert ended.wait(60)
    assert gone(lambda: not client.list_streams())
    with pytest.raises(ObjectNotFoundError):
        client.open_stream(reader.id)


def test_what_a_scan_leaves_unread_goes(client: Client, daemon: Daemon) -> None:
    scanner(lambda: iter(TABLE.to_batches() * 5))
    client.scan("x://").close()
    assert gone(lambda: not client.list_streams())
    reader = client.scan("x://")
    reader.read()
    end_scans()  # all is written
    with daemon.connect() as other:
        late = other.open_stream(reader.id)
        reader.close()
        assert late.read_all().num_rows == 12
        assert not client.list_streams()
    client.scan("x://", name="s")
    assert gone(lambda: not client.list_streams())


SCANS = """
import os, signal, sys, vineyard_arrow
reader = vineyard_arrow.connect(sys.argv[1], autostart=False).scan(sys.argv[2], max_bytes=1)
reader.read()
others = vineyard_arrow.connect(sys.argv[1], autostart=False).scan(sys.argv[2])
others.read()
if sys.argv[3] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("end", ["", "killed"])
def test_of_a_process_that_scans_nothing_is_left(
    client: Client, daemon: Daemon, tmp_path: Any, end: str
) -> None:
    path = tmp_path / "a.arrows"
    with pa.ipc.new_stream(path, TABLE.schema) as writer:
        for _ in range(5):
            writer.write_table(TABLE)
    command = [sys.executable, "-c", SCANS, str(daemon.socket), str(path), end]
    assert subprocess.run(command).returncode == (-signal.SIGKILL if end else 0)
    assert gone(lambda: not client.list_streams())

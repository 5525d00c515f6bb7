"""Tables with what only one format has, with the libraries themselves, on S3, and by the CLI."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from drivers_harness import got
from drivers_harness import nothing_left as nothing_left
from s3_harness import KEY, SECRET, serving
from s3_harness import bucket as bucket
from s3_harness import server as server
from tables_harness import KINDS, Place, failing, make_place

from vineyard_arrow.cli import main
from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    AccessDeniedError,
    ConfigError,
    DamagedFileError,
    FileError,
    PathNotFoundError,
    TableExistsError,
    VineyardArrowError,
)

TABLE = pa.table({"id": np.arange(1000), "s": [f"row {n}" for n in range(1000)]})


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from make_place(request.param, tmp_path)


# ---- what others write and read


def test_what_is_written_others_read(
    client: Client, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import polars as pl

    monkeypatch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")  # the one that is here
    place.write(client, TABLE)
    table = place.table()
    if place.kind == "delta":
        plain = shutil.copytree(place.folder, tmp_path / "plain")  # polars takes no spaces
        frame, rows = pl.read_delta(str(plain)), table.to_pyarrow_table()
    elif place.kind == "lance":
        frame, rows = pl.scan_lance(str(place.folder)).collect(), table.to_table()
    else:
        frame = pl.scan_iceberg(table.metadata_location).collect()
        rows = table.scan().to_arrow()
    assert frame.sort("id").equals(pl.DataFrame(TABLE))
    assert rows.sort_by("id").cast(TABLE.schema) == TABLE


def test_what_others_write_is_read(client: Client, place: Place) -> None:
    if place.kind == "delta":
        import deltalake

        deltalake.write_deltalake(place.folder, TABLE)
        deltalake.write_deltalake(place.folder, TABLE, mode="append")
        deltalake.DeltaTable(place.folder).delete("id >= 10")
        deltalake.DeltaTable(place.folder).optimize.compact()
    elif place.kind == "lance":
        import lance

        lance.write_dataset(TABLE, place.folder)
        lance.write_dataset(TABLE, place.folder, mode="append").delete("id >= 10")
    else:
        with closing(place.catalog()) as catalog:
            table = catalog.create_table("n.t", TABLE.schema)
            table.append(TABLE)
            table.append(TABLE)
            table.delete("id >= 10")
            with table.update_schema() as change:
                change.rename_column("s", "text")
    read = got(client, place.url, **place.options)
    assert sorted(read["id"].to_pylist()) == sorted(2 * list(range(10)))
    assert set(read.column(1).to_pylist()) == {f"row {n}" for n in range(10)}


# ---- Delta


def with_deletion_vector(folder: Path, rows: list[int]) -> None:
    """Delete rows of the one file of a table as engines with deletion vectors do."""
    from pyroaring import BitMap64

    first = folder / "_delta_log" / f"{0:020}.json"
    actions = [json.loads(line) for line in first.read_text().splitlines()]
    (add,) = [action["add"] for action in actions if "add" in action]
    raw = (1681511377).to_bytes(4, "little") + BitMap64(rows).serialize()
    padded = raw + b"\0" * (-len(raw) % 4)
    letters = (
        "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    )
    theirs = bytes(base64.b85encode(bytes([0, 0, 0, n]))[-1] for n in range(85))
    vector = {
        "storageType": "i",
        "pathOrInlineDv": base64.b85encode(padded)
        .translate(bytes.maketrans(theirs, letters.encode()))
        .decode(),
        "sizeInBytes": len(raw),
        "cardinality": len(rows),
    }
    remove = {"path": add["path"], "dataChange": True, "deletionTimestamp": 1}
    lines = [{"remove": remove}, {"add": add | {"deletionVector": vector}}]
    (folder / "_delta_log" / f"{1:020}.json").write_text("\n".join(map(json.dumps, lines)))


def test_deleted_rows_and_renamed_columns_of_delta(client: Client, tmp_path: Path) -> None:
    import deltalake

    odd = {
        "deleted": {"delta.enableDeletionVectors": "true"},
        "mapped": {"delta.columnMapping.mode": "name"},
    }
    for name, configuration in odd.items():
        deltalake.write_deltalake(tmp_path / name, TABLE, configuration=configuration)
    with_deletion_vector(tmp_path / "deleted", [3, 5, 7])
    for name, ids in (("deleted", [0, 1, 2, 4, 6, 8, 9]), ("mapped", list(range(10)))):
        for options in ({}, {"columns": ["id"]}, {"filter": pc.field("id") < 10}):
            read = got(client, f"delta://{tmp_path}/{name}", **options)
            assert sorted(read["id"].to_pylist())[: len(ids)] == ids
        with client.scan(tmp_path / name, filter=[("s", "=", "row 4")]) as reader:
            assert reader.read_all().to_pydict() == {"id": [4], "s": ["row 4"]}
    assert got(client, tmp_path / "deleted").num_rows == 997


def test_features_that_deltalake_has_not(client: Client, tmp_path: Path) -> None:
    client.write(TABLE, tmp_path / "t", format="delta")
    log = tmp_path / "t" / "_delta_log" / f"{1:020}.json"
    features = {"readerFeatures": ["fromTheFuture"], "writerFeatures": ["fromTheFuture"]}
    log.write_text(
        json.dumps({"protocol": {"minReaderVersion": 3, "minWriterVersion": 7} | features})
    )
    with pytest.raises(FileError, match="fromTheFuture") as failed:
        client.read(tmp_path / "t")
    assert not isinstance(failed.value, DamagedFileError | PathNotFoundError)


def test_partitions_of_delta_are_replaced(client: Client, tmp_path: Path) -> None:
    client.write(TABLE, tmp_path / "t", format="delta")
    by = TABLE.append_column("k", pa.array(np.arange(1000) % 2))
    client.write(by, tmp_path / "t", mode="replace", partition_by="k")
    assert got(client, tmp_path / "t", filter=pc.field("k") == 1).num_rows == 500
    assert {path.name for path in (tmp_path / "t").glob("k=*")} == {"k=0", "k=1"}


def test_files_that_were_written_before_a_failure_go(client: Client, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    big = pa.table({"x": random.random(2_000_000), "y": random.random(2_000_000)})
    with pytest.raises(ValueError, match=r"^the source failed$"):
        client.write(failing(big, 5), tmp_path / "t", format="delta")  # a file is full at 100 MB
    assert not list(tmp_path.iterdir())


# ---- Iceberg


def test_iceberg_by_its_metadata(client: Client, tmp_path: Path) -> None:
    for place in make_place("iceberg", tmp_path):
        place.write(client, TABLE)
        location = place.table().metadata_location.removeprefix("file://")
        for url in (location, f"file://{location}", f"iceberg://{location}"):
            assert got(client, url, filter=pc.field("id") < 5).num_rows == 5
        folder = str(Path(location).parents[1])
        with pytest.raises(PathNotFoundError, match=r"version-hint.*\.metadata\.json"):
            client.read(folder, format="iceberg")
        Path(location).with_name("version-hint.text").write_text(Path(location).name)
        assert got(client, folder, format="iceberg") == TABLE
        with pytest.raises(ConfigError, match="by a catalog"):
            client.write(TABLE, location, mode="append")
        with pytest.raises(TableExistsError):
            client.write(TABLE, location)
        with pytest.raises(PathNotFoundError):
            client.read(f"{tmp_path}/none.metadata.json")


def test_catalogs_and_namespaces_that_are_not_there(client: Client, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no catalog 'nowhere'.*pyiceberg\.yaml"):
        client.read("iceberg://nowhere/n.t")
    for place in make_place("iceberg", tmp_path):
        for do in (client.read, lambda url, **options: client.write(TABLE, url, **options)):
            with pytest.raises(PathNotFoundError):
                do("iceberg://local/none.t", **place.options)
    wrong = {"uri": f"sqlite:///{tmp_path}/none/c.db", "warehouse": str(tmp_path)}
    with pytest.raises(VineyardArrowError, match="unable to open"):
        client.read("iceberg://local/n.t", storage_options=wrong)


def test_columns_of_iceberg_that_others_depend_on(client: Client, tmp_path: Path) -> None:
    for place in make_place("iceberg", tmp_path):
        by = TABLE.append_column("k", pa.array(np.arange(1000) % 2))
        place.write(client, by, partition_by=["k"])
        with pytest.raises(VineyardArrowError, match="partitioned by 'k'"):
            place.write(client, TABLE, mode="replace")
        with pytest.raises(VineyardArrowError, match="column 'id'"):
            place.write(client, by.set_column(0, "id", by["s"]), mode="replace")
        assert got(client, place.url, **place.options).num_rows == 1000


def test_names_of_iceberg_are_those_of_the_version(client: Client, tmp_path: Path) -> None:
    for place in make_place("iceberg", tmp_path):
        place.write(client, pa.table({"a": [1, 2], "b": [100, 200]}))
        (first,) = place.versions()
        with closing(place.catalog()) as catalog:
            table = catalog.load_table("n.t")
            with table.update_schema(allow_incompatible_changes=True) as change:
                change.delete_column("a")
            with table.update_schema() as change:
                change.rename_column("b", "a")
        for version, value in ((first, 2), (None, 200)):
            read = got(
                client, place.url, **place.options, version=version, filter=[("a", "=", value)]
            )
            assert read["a"].to_pylist() == [value]


# ---- S3


@pytest.fixture(params=KINDS)
def on_s3(request: pytest.FixtureRequest, bucket: str, tmp_path: Path) -> Place:
    """A place on the server, with what it takes in the environment alone."""
    if request.param != "iceberg":
        url = f"s3://{bucket}/some where"
        return Place(request.param, url, tmp_path, {"format": request.param})
    options = {"uri": f"sqlite:///{tmp_path}/c.db", "warehouse": f"s3://{bucket}/w"}
    place = Place("iceberg", "iceberg://local/n.t", tmp_path, {"storage_options": options})
    with closing(place.catalog()) as catalog:
        catalog.create_namespace("n")
    return place


def test_s3(client: Client, on_s3: Place) -> None:
    on_s3.write(client, TABLE)
    on_s3.write(client, TABLE, mode="append")
    assert got(client, on_s3.url, **on_s3.options).num_rows == 2000
    with client.scan(on_s3.url, **on_s3.options, filter=pc.field("id") == 7) as reader:
        assert reader.read_all().num_rows == 2
    if on_s3.kind != "iceberg":
        assert got(client, f"{on_s3.kind}+{on_s3.url}").num_rows == 2000
    if on_s3.kind == "delta":
        with pytest.raises(ConfigError, match=r"is a Delta table.*format='delta'"):
            client.read(on_s3.url)


def test_s3_with_keys_from_files(
    client: Client, on_s3: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    lines = f"[default]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n"
    (tmp_path / "credentials").write_text(lines)
    on_s3.write(client, TABLE)
    assert got(client, on_s3.url, **on_s3.options).num_rows == 1000


def calls(client: Client, kind: str) -> list[Any]:
    """To read, and to write but with Lance, which takes seconds to give up."""
    write = [] if kind == "lance" else [lambda url, **options: client.write(TABLE, url, **options)]
    return [client.read, *write]


def test_s3_that_has_it_not(client: Client, on_s3: Place) -> None:
    with pytest.raises(PathNotFoundError):
        client.read(on_s3.url, **on_s3.options)
    if on_s3.kind == "iceberg":
        return
    for do in calls(client, on_s3.kind):
        with pytest.raises(PathNotFoundError):
            do("s3://no-such-bucket/t", **on_s3.options)


@pytest.mark.parametrize("kind", ["delta", "lance"])
def test_s3_that_refuses(
    client: Client, bucket: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with serving(INITIAL_NO_AUTH_ACTION_COUNT="0") as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        for do in calls(client, kind):
            with pytest.raises(AccessDeniedError) as failed:
                do(
                    f"s3://{bucket}/t",
                    format=kind,
                    storage_options={"secret_access_key": SECRET},
                )
            assert SECRET not in str(failed.value)


# ---- the command line


def test_by_the_command_line(client: Client, daemon: Any, tmp_path: Path) -> None:
    def run(*args: str) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert main(["--socket", str(daemon.socket), *args]) == 0
        return said.getvalue()

    client.write(TABLE, tmp_path / "d", format="delta")
    (done,) = json.loads(run("put", str(tmp_path / "d"), "--json"))
    assert (done["rows"], done["copied"]) == (1000, 0)
    for _ in range(2):  # what is there is replaced
        run("get", done["id"], "--to", str(tmp_path / "t.lance"))
    run("put", str(tmp_path / "t.lance"), "--name", "back")
    assert client.get("back") == TABLE
    client.clear()

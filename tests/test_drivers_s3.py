"""Files on a real server of S3: read, scanned, written whole, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pytest
from drivers_harness import got
from drivers_harness import nothing_left as nothing_left
from s3_harness import KEY, SECRET, serving
from s3_harness import bucket as bucket
from s3_harness import server as server

from vineyard_arrow.client import Client
from vineyard_arrow.drivers.resuming import RESUME
from vineyard_arrow.errors import (
    AccessDeniedError,
    DamagedFileError,
    FileError,
    PathExistsError,
    PathNotFoundError,
)

TABLE = pa.table(
    {
        "id": np.arange(50_000),
        "x": np.random.default_rng(1).random(50_000),
        "month": np.arange(50_000) % 3,
    }
)


def names(bucket: str) -> list[str]:
    """Of all objects of a bucket."""
    files = pafs.FileSystem.from_uri(f"s3://{bucket}")[0]
    found = files.get_file_info(pafs.FileSelector(bucket, recursive=True))
    return sorted(i.path.removeprefix(bucket + "/") for i in found if i.type == pafs.FileType.File)


@pytest.mark.parametrize("ending", ["parquet", "csv.gz", "jsonl", "orc", "arrow"])
def test_a_file(client: Client, bucket: str, ending: str) -> None:
    url = f"s3://{bucket}/some/where/a b.{ending}"
    client.write(TABLE, url)
    assert names(bucket) == [f"some/where/a b.{ending}"]
    oid = client.read(url)
    assert client.get(oid) == TABLE
    if ending == "parquet":
        assert client.get_meta(oid).copied == 0
    with client.scan(url) as reader:
        assert reader.read_all() == TABLE
    with pytest.raises(PathExistsError, match="overwrite=True"):
        client.write(TABLE, url)
    client.write(TABLE.slice(0, 5), url, overwrite=True)
    assert got(client, url) == TABLE.slice(0, 5)


def test_a_partitioned_dataset(client: Client, bucket: str) -> None:
    url = f"s3://{bucket}/by_month"
    client.write(TABLE, url, partition_by=["month"], file_rows=10_000)
    assert len(names(bucket)) == 6
    assert all(name.startswith("by_month/month=") for name in names(bucket))
    assert got(client, url).sort_by("id").select(TABLE.column_names) == TABLE
    some = got(client, url, columns=["id"], filter=pc.field("month") == 1)
    assert sorted(some["id"].to_pylist()) == list(range(1, 50_000, 3))
    assert got(client, f"{url}/month=[02]/*.parquet").num_rows == 33_333
    with client.scan(url, filter=pc.field("month") == 2) as reader:
        assert reader.read_all().num_rows == 16_666
    client.write(TABLE.slice(0, 3), url, partition_by=["month"], overwrite=True)
    assert len(names(bucket)) == 3
    assert got(client, url).num_rows == 3


def test_a_read_that_broke_off_goes_on(client: Client, bucket: str) -> None:
    url = f"s3://{bucket}/many"
    for n in range(3):
        client.write(TABLE.slice(n * 10_000, 10_000), f"{url}/{n}.parquet")
    files = pafs.FileSystem.from_uri(f"s3://{bucket}")[0]
    with files.open_input_file(f"{bucket}/many/2.parquet") as source:
        whole = source.read()
    with files.open_output_stream(f"{bucket}/many/2.parquet") as sink:
        sink.write(whole[:4] + b"\xff" * 100 + whole[104:])
    with pytest.raises(DamagedFileError, match=r"2\.parquet"):
        client.read(url, resume="many", retries=0)
    kept = client.list_objects(labels={RESUME: "many"})
    places = {client.get(meta.id)["x"].chunk(0).buffers()[1].address for meta in kept}
    assert len(places) == 2
    with files.open_output_stream(f"{bucket}/many/2.parquet") as sink:
        sink.write(whole)
    oid = client.read(url, resume="many")
    found = client.get(oid)
    assert found == TABLE.slice(0, 30_000)
    assert client.get_meta(oid).copied == 0
    chunks = found["x"].chunks
    assert places < {chunk.buffers()[1].address for chunk in chunks}  # as they lay
    assert client.status().objects == 1


def failing() -> pa.RecordBatchReader:
    def made() -> Iterator[pa.RecordBatch]:
        yield from TABLE.to_batches()
        raise RuntimeError("the source failed")

    return pa.RecordBatchReader.from_batches(TABLE.schema, made())


@pytest.mark.parametrize("there", [False, True])
def test_a_write_that_fails_leaves_what_was_there(client: Client, bucket: str, there: bool) -> None:
    for url, options in (
        (f"s3://{bucket}/a.parquet", {}),
        (f"s3://{bucket}/d", {"file_rows": 10_000}),
    ):
        if there:
            client.write(TABLE.slice(0, 5), url, **options)
        before = names(bucket)
        with pytest.raises(Exception, match="the source failed"):
            client.write(failing(), url, overwrite=there, **options)
        assert names(bucket) == before
        if there:
            assert got(client, url) == TABLE.slice(0, 5)


def test_the_endpoint_may_be_in_the_url(
    client: Client, server: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    endpoint = server.removeprefix("http://")
    url = f"s3://{bucket}/a.parquet?scheme=http&endpoint_override={endpoint}"
    client.write(TABLE, url)
    assert got(client, url) == TABLE


def test_keys_come_from_files_too(
    client: Client, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    lines = f"[default]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n"
    (tmp_path / "credentials").write_text(lines)
    client.write(TABLE, f"s3://{bucket}/a.parquet")
    assert got(client, f"s3://{bucket}/a.parquet") == TABLE


def test_what_is_not_there(client: Client, bucket: str) -> None:
    for url in (
        f"s3://{bucket}/none.parquet",
        "s3://no-such-bucket/a.parquet",
        f"s3://{bucket}/*.csv",
    ):
        for read in (client.read, client.scan):
            with pytest.raises(PathNotFoundError):
                read(url)
    with pytest.raises(FileError, match="no-such-bucket"):
        client.write(TABLE, "s3://no-such-bucket/a.parquet")


def keys_of(endpoint: str, bucket: str) -> tuple[str, str]:
    """A bucket, and the keys of a user who may use it and nothing else."""
    import boto3

    options = {"endpoint_url": endpoint, "region_name": "us-east-1"}
    boto3.client("s3", **options).create_bucket(Bucket=bucket)
    iam = boto3.client("iam", **options)
    iam.create_user(UserName="user")
    allowed = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    statement = {"Effect": "Allow", "Action": "s3:*", "Resource": allowed}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_user_policy(UserName="user", PolicyName="own", PolicyDocument=policy)
    key = iam.create_access_key(UserName="user")["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


def test_keys_that_are_wrong(client: Client, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"s3://{bucket}/a.parquet"
    # The server looks at keys once `keys_of` has done its four actions.
    with serving(INITIAL_NO_AUTH_ACTION_COUNT="4") as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        key, secret = keys_of(endpoint, bucket)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        client.write(TABLE, url)
        assert got(client, url) == TABLE
        for wrong in ((key, SECRET), (KEY, secret)):
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", wrong[0])
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", wrong[1])
            for do in (
                client.read,
                client.scan,
                lambda url: client.write(TABLE, url, overwrite=True),
            ):
                with pytest.raises(AccessDeniedError) as failed:
                    do(url)
                assert wrong[1] not in str(failed.value)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        assert got(client, url) == TABLE  # nothing was written by them

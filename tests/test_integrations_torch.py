"""Stored objects as PyTorch datasets, read by workers that are forked or spawned."""

from __future__ import annotations

import gc
import pickle
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conftest import Daemon
from lazily import lazily
from rpc_harness import serve
from test_fork import in_child
from types_harness import place_of

from vineyard_arrow.client import Client
from vineyard_arrow.errors import InvalidObjectError, ObjectNotFoundError

torch = lazily("torch")
vt = lazily("vineyard_arrow.integrations.torch", "torch")
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

N = 10_000
TABLE = pa.table(
    {
        "x": np.arange(N, dtype=np.float32),
        "y": np.arange(N) * 2,
        "flag": np.arange(N) % 3 == 0,
        "pair": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(2.0 * N)), 2),
        "image": pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(4 * N).reshape(N, 2, 2)),
        "word": ["w"] * N,
        "hole": pa.array([None, *range(N - 1)]),
    }
)
NUMBERS = ["x", "y", "flag", "pair", "image"]
IMAGES = np.arange(6.0 * N, dtype=np.float32).reshape(N, 2, 3)


def chunked() -> pa.Table:
    return pa.concat_tables([TABLE.slice(0, 3000), TABLE.slice(3000, 0), TABLE.slice(3000)])


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and all(map(same, a, b))
    return a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("make", [lambda: TABLE, chunked, lambda: TABLE.slice(0, N)])
def test_samples_of_a_table(client: Client, make: Any) -> None:
    data = vt.Dataset(client.put(make()), NUMBERS, client)
    assert len(data) == N
    for i in (0, 7, 2999, 3000, N - 1, -1):
        at = i % N
        sample = data[i]
        assert list(sample) == NUMBERS
        assert sample["x"].item() == at
        assert (sample["y"].dtype, sample["y"].item()) == (torch.int64, 2 * at)
        assert (sample["flag"].dtype, sample["flag"].item()) == (torch.bool, at % 3 == 0)
        assert sample["pair"].tolist() == [2 * at, 2 * at + 1]
        assert sample["image"].tolist() == (np.arange(4).reshape(2, 2) + 4 * at).tolist()
    for index in (
        slice(2990, 3010),
        slice(None, None, 997),
        slice(3100, 4000, 7),
        slice(3000, None),
        slice(9, 3),
        slice(N, None),
        [5, 3001, 4, -1],
        np.array([9, 2999, 3000]),
        torch.tensor([1, 1, 1]),
        [],
    ):
        rows = data[index]
        chosen = index if isinstance(index, slice) else np.array([int(i) for i in index], "i8")
        expected = np.arange(N)[chosen]
        assert rows["y"].tolist() == (expected * 2).tolist()
        assert rows["image"].shape == (len(expected), 2, 2)
    assert same(data.__getitems__([3, 3000, -1]), [data[3], data[3000], data[-1]])


VALUES = {
    "tensor": (lambda: torch.from_numpy(IMAGES), lambda i: torch.from_numpy(IMAGES[i])),
    "array": (lambda: IMAGES, lambda i: torch.from_numpy(IMAGES[i])),
    "arrow": (lambda: pa.array(np.arange(N)), lambda i: torch.tensor(i)),
    "dataset": (
        lambda: torch.utils.data.TensorDataset(torch.from_numpy(IMAGES), torch.arange(N)),
        lambda i: (torch.from_numpy(IMAGES[i]), torch.tensor(i)),
    ),
    "tuple": (
        lambda: (IMAGES, torch.arange(N)),
        lambda i: (torch.from_numpy(IMAGES[i]), torch.tensor(i)),
    ),
    "dict": (
        lambda: {"inputs": IMAGES, "labels": torch.arange(N), "left": "out"},
        lambda i: {"labels": torch.tensor(i), "inputs": torch.from_numpy(IMAGES[i])},
    ),
}


@pytest.mark.parametrize("kind", VALUES)
def test_samples_of_tensors(client: Client, kind: str) -> None:
    make, expected = VALUES[kind]
    columns = ["labels", "inputs"] if kind == "dict" else None
    data = vt.Dataset(client.put(make()), columns, client)
    assert len(data) == N
    for i in (0, 17, N - 1):
        assert same(data[i], expected(i))
    assert same(data.__getitems__([4, 2]), [expected(4), expected(2)])


def addresses(value: Any) -> list[int]:
    if isinstance(value, dict):
        value = tuple(value.values())
    return [t.data_ptr() for t in (value if isinstance(value, tuple) else (value,))]


def test_nothing_is_copied_and_writing_is_private(client: Client) -> None:
    for key in (
        client.put(TABLE.select(["x", "y", "pair", "image"])),
        client.put(torch.from_numpy(IMAGES)),
        client.put((IMAGES, torch.arange(N))),
    ):
        data = vt.Dataset(key, None, client)
        for sample in (data[5], data[3:9]):
            assert {place_of(client, address) for address in addresses(sample)} == {"private map"}
    data = vt.Dataset(client.put(chunked()), ["x"], client)
    inside, across = (
        place_of(client, data[at]["x"].data_ptr()) for at in (slice(3000, None), slice(2999, None))
    )
    assert (inside, across) == ("private map", "own")
    with pytest.raises(ValueError, match="step"):
        data[::-1]
    data = vt.Dataset(client.put(IMAGES), None, client)
    data[0].zero_()
    assert client.get(data._handle.id)[0].tolist() == IMAGES[0].tolist()


def total(data: Any, num_workers: int, **options: Any) -> float:
    loader = torch.utils.data.DataLoader(data, num_workers=num_workers, timeout=50, **options)
    return sum(float(batch["x"].sum(dtype=torch.float64)) for batch in loader)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_a_loader(client: Client, start: str) -> None:
    data = vt.Dataset(client.put(TABLE), NUMBERS, client)
    expected = float(np.arange(N, dtype="f8").sum())
    workers = 2 if start == "fork" else 1  # which imports PyTorch
    assert total(data, workers, batch_size=500, multiprocessing_context=start) == expected
    if start == "fork":
        sampler = torch.utils.data.BatchSampler(range(N), 2500, False)
        whole = {"sampler": sampler, "batch_size": None, "multiprocessing_context": start}
        assert total(data, workers, **whole) == expected
        client.delete(data._handle.id)  # what is forked has it still
        assert total(data, workers, batch_size=500, multiprocessing_context=start) == expected


def test_a_pickle_is_the_id(daemon: Daemon, client: Client) -> None:
    data = vt.Dataset(client.put(TABLE, name="t"), ["x"], client)
    text = pickle.dumps(data)
    assert len(text) < 400
    again = pickle.loads(text)
    assert again[3]["x"] == 3
    assert "10,000 samples" in repr(again)

    def look() -> Any:
        loaded = pickle.loads(text)
        return len(loaded), float(loaded[9]["x"])

    assert in_child(look) == (N, 9.0)
    del again, data
    gc.collect()
    assert len(daemon.status().clients) == 1  # its client went with it
    client.delete("t")
    with pytest.raises(ObjectNotFoundError):
        pickle.loads(text)


def test_a_pickle_connects_over_tcp_as_its_client_did(folder: Path) -> None:
    served = serve(folder, "torch", "--memory-limit", "128MiB", token=True, tls=True)
    try:
        with served.connect() as far:
            data = vt.Dataset(far.put(TABLE), ["x"], far)
            again = pickle.loads(pickle.dumps(data))
            assert again[3]["x"] == data[3]["x"] == 3
            del again, data
    finally:
        served.daemon.stop(signal.SIGTERM)


def test_no_samples(client: Client) -> None:
    for value in (TABLE.slice(0, 0), np.zeros((0, 3))):
        columns = NUMBERS if isinstance(value, pa.Table) else None
        data = vt.Dataset(client.put(value), columns, client)
        assert len(data) == 0
        assert addresses(data[:])
        assert list(torch.utils.data.DataLoader(data, 8)) == []
        with pytest.raises(IndexError):
            data[0]


def test_frames_are_tables(client: Client) -> None:
    for frame in (pd.DataFrame({"a": [1.0, 2.0]}), pl.DataFrame({"a": [1.0, 2.0]})):
        assert vt.Dataset(client.put(frame), None, client)[1]["a"].item() == 2.0
    with pytest.raises(InvalidObjectError, match="NaN of pandas"):
        vt.Dataset(client.put(pd.DataFrame({"a": [1.0, np.nan]})), None, client)


def test_bad_input(client: Client) -> None:
    table, scalar = client.put(TABLE), client.put(torch.tensor(1.0))
    for key, columns, words in (
        (table, ["word"], "'word' is of string"),
        (table, ["hole"], "'hole' has nulls"),
        (table, ["none"], "no column 'none'"),
        (table, [], "no columns"),
        (client.put(IMAGES), ["x"], "has no columns"),
        (client.put("text"), None, "is or holds a str"),
        (scalar, None, "is or holds a Tensor"),
        (client.put(np.array(["x"])), None, "is or holds a ndarray"),
        (client.put((torch.ones(2), torch.ones(3))), None, "2 lengths"),
    ):
        with pytest.raises(InvalidObjectError, match=words):
            vt.Dataset(key, columns, client)
    data = vt.Dataset(table, ["x"], client)
    for index in (N, -N - 1, [0, N], [-N - 1]):
        with pytest.raises(IndexError, match="10000"):
            data[index]
    for index in (1.5, [[1]], [True], [0.5]):
        with pytest.raises(InvalidObjectError, match="not chosen by"):
            data[index]
    with pytest.raises(ObjectNotFoundError):
        vt.Dataset("nobody", None, client)

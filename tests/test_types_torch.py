"""PyTorch tensors: every dtype and layout, shared memory that is safe to write to, modules."""

from __future__ import annotations

import collections
import dataclasses
import sys
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from lazily import lazily
from types_harness import (
    assert_same as same_value,
)
from types_harness import (
    check_in_other_process,
    encode,
    lies_within,
    part_addresses,
    place_of,
    roundtrip,
    run_other_process,
    store,
    typenames,
)

from vineyard_arrow.client import Client
from vineyard_arrow.errors import (
    InvalidObjectError,
    ObjectNotFoundError,
    ResolverNotFoundError,
)
from vineyard_arrow.registry import StoredObject, default_registry

torch = lazily("torch")
pytestmark = pytest.mark.filterwarnings(
    "ignore:Sparse .* tensor support is in beta",
    "ignore:Sparse invariant checks are implicitly disabled",
    "ignore:ComplexHalf support is experimental",
)

N = 64 << 10
NUMBERS = "bool uint8 int8 int16 int32 int64 uint16 uint32 uint64 float16 float32 float64"
OTHERS = "bfloat16 complex32 complex64 complex128 float8_e4m3fn float8_e5m2"
DTYPES = f"{NUMBERS} {OTHERS}".split()


def numbers(dtype: str, *shape: int) -> Any:
    kind = getattr(torch, dtype)
    flat = torch.arange(0, torch.Size(shape).numel() * kind.itemsize) % 50
    return flat.to(torch.uint8).remainder(2 if dtype == "bool" else 50).view(kind).reshape(shape)


def assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape, a.layout) == (b.dtype, b.shape, b.layout)
        assert (a.requires_grad, vars(a).keys()) == (b.requires_grad, vars(b).keys())
        if a.layout is torch.strided:
            if a.numel() > 1 and a.is_contiguous():
                assert b.is_contiguous()
            x, y = (t.detach().resolve_conj().resolve_neg().contiguous().view(-1) for t in (a, b))
            assert torch.equal(x.view(torch.uint8), y.view(torch.uint8))
        else:
            assert str(a) == str(b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, torch.nn.Module):
        assert str(a) == str(b)
        assert_same(a.state_dict(), b.state_dict())
    elif isinstance(a, torch.utils.data.TensorDataset):
        assert_same(a.tensors, b.tensors)
    elif dataclasses.is_dataclass(a):
        assert_same(vars(a), vars(b))
    else:
        same_value(a, b)


@dataclasses.dataclass
class Batch:
    inputs: Any
    labels: Any


def model() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nn = torch.nn
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 4))


def tagged() -> Any:
    tensor = torch.arange(3.0)
    tensor.tag = {"from": "here"}
    return tensor


def coo(coalesced: bool) -> Any:
    indices = torch.tensor([[0, 1, 1], [2, 0, 0]])
    tensor = torch.sparse_coo_tensor(indices, torch.tensor([1.0, 2, 3]), (2, 3))
    return tensor.coalesce() if coalesced else tensor


def compressed(layout: str, block: tuple[int, int] | None = None) -> Any:
    dense = torch.arange(24.0).reshape(4, 6) * (torch.arange(24).reshape(4, 6) % 3 == 0)
    return dense.to_sparse(layout=getattr(torch, layout), blocksize=block)


def in_order(*pairs: Any) -> Any:
    return collections.OrderedDict(pairs)


SHAPES = ((6,), (2, 3, 4), (), (0, 3), (40, 50))
VALUES = (
    [
        (f"{dtype}-{'x'.join(map(str, shape))}", lambda d=dtype, s=shape: numbers(d, *s))
        for dtype in DTYPES
        for shape in SHAPES
    ]
    + [(name, lambda name=name: compressed(name)) for name in ("sparse_csr", "sparse_csc")]
    + [(name, lambda name=name: compressed(name, (2, 3))) for name in ("sparse_bsr", "sparse_bsc")]
    + [
        ("transposed", lambda: numbers("float32", 40, 50).t()),
        ("channels-last", lambda: numbers("float32", 2, 3, 4, 5).contiguous(
            memory_format=torch.channels_last)),
        ("gaps", lambda: numbers("int64", 40, 50)[::2, 3:9]),
        ("expanded", lambda: torch.arange(3).expand(4, 3)),
        ("conjugate", lambda: numbers("complex64", 4).conj()),
        ("imaginary", lambda: numbers("complex64", 4).conj().imag),
        ("grad", lambda: torch.ones(3, requires_grad=True)),
        ("not-a-leaf", lambda: torch.ones(3, requires_grad=True) * 2),
        ("parameter", lambda: torch.nn.Parameter(torch.ones(3, 4))),
        ("frozen", lambda: torch.nn.Parameter(torch.ones(3), requires_grad=False)),
        ("tagged", tagged),
        ("coo", lambda: coo(False)),
        ("coo-coalesced", lambda: coo(True)),
        ("coo-grad", lambda: coo(True).requires_grad_()),
        ("quantized-free", lambda: torch.tensor([1, 2]).to(torch.int8)),
        ("state-dict", lambda: model().state_dict()),
        ("ordered", lambda: in_order(("b", torch.ones(2)), ("a", torch.zeros(300)))),
        ("module", model),
        ("dataset", lambda: torch.utils.data.TensorDataset(torch.ones(5, 2), torch.arange(5))),
        ("nested", lambda: {"a": [torch.ones(3), (torch.zeros(300), 1)], "d": torch.float16}),
        ("dataclass", lambda: Batch(torch.ones(300), torch.arange(3))),
    ]
)  # fmt: skip


@pytest.mark.parametrize("make", [m for _, m in VALUES], ids=[name for name, _ in VALUES])
@pytest.mark.parametrize("writable", [False, True])
def test_tensors_come_back_exactly(make: Any, writable: bool) -> None:
    assert_same(make(), roundtrip(make(), writable))


@pytest.mark.parametrize("mode", ["ro", "cow", "copy"])
def test_tensors_come_back_from_a_store(client: Client, mode: str) -> None:
    for _, make in VALUES:
        assert_same(make(), client.get(client.put(make()), mode=mode))


def test_tensors_come_back_in_another_process(client: Client) -> None:
    check_in_other_process(client, __name__)


WRAPS = {
    "alone": lambda t: t,
    "list": lambda t: [t],
    "dict": lambda t: {"k": (1, t)},
    "dataclass": lambda t: Batch(t, 1),
    "parameter": lambda t: torch.nn.Parameter(t),
    "state-dict": lambda t: in_order(("w", t)),
    "dataset": lambda t: torch.utils.data.TensorDataset(t),
    "module": lambda t: torch.nn.ParameterList([torch.nn.Parameter(t)]),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_tensors_in_anything_are_not_copied(wrap: Any) -> None:
    tensor = torch.arange(N, dtype=torch.float64)
    assert tensor.data_ptr() in part_addresses(encode(wrap(tensor)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_is_shared_both_ways(client: Client, dtype: str) -> None:
    tensor = numbers(dtype, N)
    assert tensor.data_ptr() in part_addresses(encode(tensor))
    assert place_of(client, client.get(client.put(tensor)).data_ptr()) == "private map"


def test_tensors_without_gaps_are_not_copied_by_a_put() -> None:
    tensor = numbers("float32", 64, 3, 16, 16)
    for ordered in (tensor.transpose(1, 2), tensor[3:9].permute(3, 0, 2, 1)):
        assert ordered.data_ptr() in part_addresses(encode(ordered))
        assert roundtrip(ordered).stride() == ordered.stride()
    gaps = tensor[:, 1]
    assert gaps.data_ptr() not in part_addresses(encode(gaps))
    assert roundtrip(gaps).is_contiguous()


def test_sparse_members_are_shared_both_ways(client: Client) -> None:
    indices, values = torch.arange(2 * N).reshape(2, N), torch.ones(N)
    tensor = torch.sparse_coo_tensor(indices, values, (2 * N, 2 * N))
    assert {indices.data_ptr(), values.data_ptr()} <= part_addresses(encode(tensor))
    back = client.get(client.put(tensor))
    assert place_of(client, back._indices().data_ptr()) == "private map"
    assert place_of(client, back._values().data_ptr()) == "private map"


def test_writing_to_a_tensor_changes_it_alone(client: Client) -> None:
    key = client.put({"t": torch.zeros(N), "a": torch.zeros(N).numpy()})
    mine, other = client.get(key), client.get(key)
    mine["t"].add_(1)
    mine["t"][5] = 7
    assert (mine["t"][:7].tolist(), other["t"].sum().item()) == ([1, 1, 1, 1, 1, 7, 1], 0)
    assert client.get(key)["t"].sum() == 0
    # What can be read-only in the same value is, and lies in the store itself.
    assert not mine["a"].flags.writeable
    assert place_of(client, mine["a"].ctypes.data) == "store"


WRITER = """
import sys, torch
from vineyard_arrow.client import connect
tensor = connect(sys.argv[1], autostart=False).get("weights")
tensor.mul_(0)
print(tensor.sum().item())
"""


def test_writing_in_another_process_changes_nothing_here(client: Client) -> None:
    client.put(torch.ones(N), name="weights")
    mine = client.get("weights")
    assert run_other_process(client, WRITER).strip() == "0.0"
    assert mine.sum() == N == client.get("weights").sum()


def test_tensors_of_a_deleted_object_stay(client: Client) -> None:
    key = client.put(torch.ones(N))
    tensor = client.get(key)
    client.delete(key)
    tensor[0] = 3
    assert tensor.sum() == N + 2


def test_models_train_on_stored_weights_and_data(client: Client) -> None:
    inputs = torch.arange(4 * 3 * 64.0).reshape(4, 3, 8, 8) / 768
    data = torch.utils.data.TensorDataset(inputs, torch.arange(4))
    results = []
    for module, dataset in (
        (model(), data),
        (client.get(client.put(model())), client.get(client.put(data))),
    ):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for inputs, labels in torch.utils.data.DataLoader(dataset, batch_size=2):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(inputs), labels).backward()
            optimizer.step()
        results.append(module.state_dict())
    assert_same(*results)


def test_shared_weights_stay_shared() -> None:
    module = torch.nn.ModuleList([torch.nn.Linear(300, 300), torch.nn.Linear(300, 300)])
    module[1].weight = module[0].weight
    assert typenames(module).count("vineyard.torch.tensor") == 3
    back = roundtrip(module)
    assert back[0].weight is back[1].weight


def test_state_dicts_keep_their_versions() -> None:
    state = model().state_dict()
    back = roundtrip(state)
    assert type(back) is collections.OrderedDict
    assert back._metadata == state._metadata
    assert not model().load_state_dict(back).missing_keys


def test_what_cannot_be_mapped_anew_is_copied() -> None:
    class Gone:
        def read_private(self, stored: StoredObject) -> Any:
            raise ObjectNotFoundError("deleted meanwhile")

    tensor = torch.arange(N)
    stored, buffers = store(encode([tensor]))
    back = StoredObject(stored.parts, default_registry, Gone()).resolve()[0]
    assert not lies_within(back.data_ptr(), buffers)
    assert_same(tensor, back.add_(1).sub_(1))


def test_recurrent_modules_and_optimizers_come_back() -> None:
    module = torch.nn.LSTM(4, 8)
    inputs = torch.ones(3, 1, 4)
    optimizer = torch.optim.Adam(module.parameters())
    module(inputs)[0].sum().backward()
    optimizer.step()
    back, state = roundtrip([module, optimizer.state_dict()])
    assert torch.equal(back(inputs)[0], module(inputs)[0])
    assert_same(optimizer.state_dict(), state)


def test_tensors_of_other_kinds_are_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = type("Mine", (torch.Tensor,), {"__module__": __name__})  # a class of somebody else
    monkeypatch.setattr(sys.modules[__name__], "Mine", mine, raising=False)
    value = torch.arange(3.0).as_subclass(mine)
    assert typenames(value) == ["vineyard.pickle"]
    assert_same(value, roundtrip(value))
    meta = roundtrip(torch.empty(3, device="meta"))
    assert (meta.device.type, meta.shape) == ("meta", (3,))


def test_arrays_as_tensors_and_back(client: Client) -> None:
    value = np.arange(100_000, dtype=np.float32).reshape(100, -1)
    oid = client.put(value)
    for as_ in ("torch", torch.Tensor):
        tensor = client.get(oid, as_=as_)
        assert torch.equal(tensor, torch.from_numpy(value))
        tensor[0, 0] = -1  # nobody else sees it
        assert client.get(oid)[0, 0] == 0
    back = client.get(client.put(torch.arange(10)), as_="numpy")
    assert back.tolist() == list(range(10))


def test_a_column_is_handed_on_by_its_handle(client: Client) -> None:
    for value in (pa.array([1.0, 2.0]), pl.Series([1.0, 2.0])):
        oid = client.put(value)
        with pytest.raises(ResolverNotFoundError, match=r"torch.from_dlpack takes a handle"):
            client.get(oid, as_="torch")
        tensor = torch.from_dlpack(client.get_object(oid))
        tensor[0] = 5.0  # nobody else sees it
        assert tensor.tolist() == [5.0, 2.0]
        assert client.get(oid, as_="numpy").tolist() == [1.0, 2.0]


def test_dtypes_that_the_other_library_has_not(client: Client) -> None:
    for value, as_, words in (
        (np.array(["a", "b"]), "torch", "PyTorch has no tensors of <U1"),
        (np.zeros(2, "M8[s]"), torch.Tensor, "PyTorch has no tensors of datetime64"),
        (torch.ones(2, dtype=torch.bfloat16), "numpy", "NumPy has no arrays of torch.bfloat16"),
    ):
        with pytest.raises(InvalidObjectError, match=words):
            client.get(client.put(value), as_=as_)


def test_handles_hand_tensors_on(client: Client) -> None:
    for dtype in ("float32", "bfloat16"):
        value = torch.arange(N).to(getattr(torch, dtype))
        view = torch.from_dlpack(client.get_object(client.put(value)))
        assert torch.equal(view, value)
        assert place_of(client, view.data_ptr()) == "private map"

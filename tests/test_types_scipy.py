"""SciPy's sparse matrices and arrays: types, dtypes and flags kept, memory shared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from types_harness import (
    assert_same as same_value,
)
from types_harness import (
    check_in_other_process,
    encode,
    part_addresses,
    place_of,
    roundtrip,
    typenames,
)

from vineyard_arrow.client import Client

sp = pytest.importorskip("scipy.sparse")

FORMATS = ("csr", "csc", "coo", "bsr", "dia", "lil", "dok")
SHARED = ("csr", "csc", "coo", "bsr", "dia")
CLASSES = [getattr(sp, f"{form}_{kind}") for form in FORMATS for kind in ("matrix", "array")]
DENSE = np.array([[1, 0, 2, 0], [0, 0, 3, 0], [0, 0, 0, 0]])
N = 20_000


def arrays_of(matrix: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays a matrix is made of, by attribute."""
    found = {k: v for k, v in vars(matrix).items() if isinstance(v, np.ndarray)}
    return found | {f"coords{i}": c for i, c in enumerate(getattr(matrix, "coords", ()))}


def assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    assert (a.shape, a.dtype, a.dtype.str, a.nnz) == (b.shape, b.dtype, b.dtype.str, b.nnz)
    assert vars(a).keys() == vars(b).keys()
    if a.format == "dok":
        assert_dicts_same(a._dict, b._dict)
        return
    mine, back = arrays_of(a), arrays_of(b)
    assert mine.keys() == back.keys()
    for name in mine:
        same_value(mine[name], back[name])
    for flag in ("has_sorted_indices", "has_canonical_format"):
        assert getattr(a, flag, None) == getattr(b, flag, None)


def assert_dicts_same(a: dict[Any, Any], b: dict[Any, Any]) -> None:
    assert list(a) == list(b)
    for x, y in zip(a.values(), b.values(), strict=True):
        same_value(x, y)


def unsorted(cls: Any) -> Any:
    data, indices, indptr = np.arange(3.0), np.array([2, 0, 0], "i4"), np.array([0, 2, 3], "i4")
    return cls((data, indices, indptr), shape=(2, 3) if "csr" in cls.__name__ else (3, 2))


def wide_indices() -> Any:
    matrix = sp.csr_array(DENSE)
    matrix.indices, matrix.indptr = matrix.indices.astype("i8"), matrix.indptr.astype("i8")
    return matrix


def with_duplicates() -> Any:
    return sp.coo_array((np.ones(3), (np.array([0, 0, 1]), np.array([1, 1, 0]))), shape=(2, 2))


VALUES = (
    [(cls.__name__, lambda cls=cls: cls(DENSE.astype("f8"))) for cls in CLASSES]
    + [(f"{cls.__name__}-empty", lambda cls=cls: cls((0, 3), dtype="f4")) for cls in CLASSES[:-4]]
    + [(f"{cls.__name__}-none", lambda cls=cls: cls((5, 3), dtype="i2")) for cls in CLASSES]
    + [
        (f"{form}-{dtype}", lambda f=form, d=dtype: getattr(sp, f"{f}_array")(DENSE.astype(d)))
        for form in FORMATS
        for dtype in ("?", "i1", "u2", "i4", "i8", "f4", "c8", "c16", "g")
    ]
    + [(f"{c.__name__}-unsorted", lambda c=c: unsorted(c)) for c in (sp.csr_array, sp.csc_matrix)]
    + [
        ("csr-int64", wide_indices),
        ("coo-duplicates", with_duplicates),
        ("csr-1d", lambda: sp.csr_array(np.array([1.0, 0, 2]))),
        ("coo-1d", lambda: sp.coo_array(np.array([1.0, 0, 2]))),
        ("dok-1d", lambda: sp.dok_array(np.array([1.0, 0, 2]))),
        ("coo-3d", lambda: sp.coo_array(np.arange(24.0).reshape(2, 3, 4) % 3)),
        ("bsr-blocks", lambda: sp.bsr_array(np.kron(np.eye(3), np.ones((2, 3))), blocksize=(2, 3))),
        ("dia-two", lambda: sp.dia_array((np.arange(8.0).reshape(2, 4), [0, -1]), shape=(4, 4))),
        ("lil-big-endian", lambda: sp.lil_array(DENSE.astype("f8"))[::-1]),
    ]
)  # fmt: skip


def large(form: str) -> Any:
    if form == "dia":
        return sp.dia_array((np.arange(4.0 * N).reshape(4, N), range(4)), shape=(N, N))
    matrix = sp.random_array((N, N), density=2e-4, format="csr", rng=np.random.default_rng(0))
    return matrix.tobsr((2, 2)) if form == "bsr" else matrix.asformat(form)


@pytest.mark.parametrize("make", [m for _, m in VALUES], ids=[name for name, _ in VALUES])
@pytest.mark.parametrize("writable", [False, True])
def test_matrices_come_back_exactly(make: Any, writable: bool) -> None:
    back = roundtrip(make(), writable)
    assert_same(make(), back)
    assert (make() != back).nnz == 0 if back.ndim == 2 else True
    if back.format in SHARED:
        assert all(a.flags.writeable == writable or not a.size for a in arrays_of(back).values())


def test_matrices_come_back_in_another_process(client: Client) -> None:
    check_in_other_process(client, __name__)


def test_typenames() -> None:
    kinds = [typenames(cls(DENSE))[0] for cls in CLASSES]
    assert kinds == [f"vineyard.scipy.{cls.__name__}" for cls in CLASSES]
    assert "vineyard.scipy.csr_array" in typenames({"m": [sp.csr_array(DENSE)]})


@pytest.mark.parametrize("form", SHARED)
def test_memory_is_shared_both_ways(client: Client, form: str) -> None:
    matrix = large(form)
    own = {array.ctypes.data for array in arrays_of(matrix).values()}
    assert own == part_addresses(encode(matrix))
    key = client.put(matrix)
    back = client.get(key)
    assert all(place_of(client, a.ctypes.data) == "store" for a in arrays_of(back).values())
    again = client.put(back)
    assert client.get_meta(again).copied == 0
    assert client.get_meta(again).shared >= matrix.data.nbytes
    with pytest.raises(ValueError, match="read-only"):
        back.data[0] = 1


def test_unknown_flags_are_found_out_on_read_only_memory() -> None:
    back = roundtrip(sp.csr_array(unsorted(sp.csr_array)))
    assert not back.has_sorted_indices
    assert back.sorted_indices().has_sorted_indices
    with pytest.raises(ValueError, match="read-only"):
        back.sort_indices()


def test_matrices_got_from_the_store_compute(client: Client) -> None:
    import scipy.sparse.linalg as la

    matrix = sp.csr_array(large("csr")[:300, :300] + sp.eye_array(300) * 10)
    back = client.get(client.put(matrix))
    vector = np.arange(300.0)
    np.testing.assert_array_equal(back @ vector, matrix @ vector)
    np.testing.assert_array_equal((back @ back.T).toarray(), (matrix @ matrix.T).toarray())
    np.testing.assert_array_equal(back[5:20, [1, 7]].toarray(), matrix[5:20, [1, 7]].toarray())
    np.testing.assert_allclose(la.spsolve(back.tocsc(), vector), la.spsolve(matrix.tocsc(), vector))
    np.testing.assert_array_equal((back + back).tocoo().data, (matrix + matrix).tocoo().data)


class Mine(sp.csr_array):
    """A class of somebody else."""


def test_attributes_of_others_are_kept() -> None:
    value = sp.csr_array(DENSE, maxprint=7)
    assert roundtrip(value).maxprint == 7
    value.name = "mine"
    assert roundtrip(value).name == "mine"


def test_subclasses_are_pickled_with_their_arrays_outside() -> None:
    value = Mine(large("csr"))
    assert typenames(value)[0] == "vineyard.pickle"
    assert value.data.ctypes.data in part_addresses(encode(value))
    assert_same(value, roundtrip(value))

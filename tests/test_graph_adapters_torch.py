"""Graphs as tensors of PyTorch, and for PyTorch Geometric."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from graph_oracle import LOCAL, Slow, examples, fast, multigraphs
from hypothesis import given
from hypothesis import strategies as st
from lazily import lazily

from vineyard_arrow.client import Client
from vineyard_arrow.errors import InvalidGraphError, LabelNotFoundError
from vineyard_arrow.graph import Graph
from vineyard_arrow.graph.adapters import from_pyg, to_pyg, to_pyg_hetero, to_tensors

torch = lazily("torch")
NAMES: Any = {"vertex_label": "v", "edge_label": "e", "client": LOCAL}
TRIPLE = ("v", "e", "v")
pytestmark = pytest.mark.filterwarnings(
    "ignore:Sparse .* tensor support is in beta",
    "ignore:Sparse invariant checks are implicitly disabled",
)


def features(rows: int, *shape: int) -> np.ndarray:
    return np.arange(rows * np.prod(shape, dtype=int), dtype=np.float32).reshape(rows, *shape)


def graph_of_tensors(directed: bool = True, client: Any = LOCAL) -> Graph:
    """Columns of all kinds, big enough to have memory of their own in a store."""
    n, m = 5_000, 20_000
    rng = np.random.default_rng(0)
    vertices = pa.table(
        {
            "oid": np.arange(n),
            "h": pa.FixedSizeListArray.from_arrays(pa.array(features(n, 8).reshape(-1)), 8),
            "image": pa.FixedShapeTensorArray.from_numpy_ndarray(features(n, 2, 3)),
            "age": rng.integers(0, 99, n),
            "adult": rng.integers(0, 2, n).astype(bool),
            "name": ["x"] * n,
            "hole": pa.array([None, *range(n - 1)]),
            "inner": pa.FixedSizeListArray.from_arrays(pa.array([None, *range(n - 1)]), 1),
        }
    )
    edges = {
        "src": rng.integers(0, n, m), "dst": rng.integers(0, n, m),
        "weight": rng.random(m), "kind": rng.integers(0, 3, m).astype(np.int8),
    }  # fmt: skip
    return Graph.from_tables({"v": vertices}, {TRIPLE: edges}, directed=directed, client=client)


@examples(25)
@given(multigraphs())
def test_tensors(slow: Slow) -> None:
    graph = fast(slow)
    out = [(u, v, eid) for u in range(slow.num) for v, eid in slow.out[u]]
    into = [(u, v, eid) for v in range(slow.num) for u, eid in slow.into[v]]
    src, dst = to_tensors(graph)
    assert list(zip(src.tolist(), dst.tolist(), strict=True)) == [(u, v) for u, v, _ in out]
    for format, expected, side in (("csr", out, 1), ("csc", into, 0)):
        indptr, indices, ids = to_tensors(graph, format=format)
        assert {each.dtype for each in (src, dst, indptr, indices, ids)} == {torch.int64}
        assert indices.tolist() == [edge[side] for edge in expected]
        assert ids.tolist() == [edge[2] for edge in expected]
        matrix = torch.sparse_csr_tensor(
            indptr, indices, torch.ones(len(indices)), size=(slow.num, slow.num),
            check_invariants=False,
        )  # fmt: skip
        assert matrix.crow_indices().diff().tolist() == [
            sum(edge[1 - side] == v for edge in expected) for v in range(slow.num)
        ]
    with pytest.raises(InvalidGraphError, match="'dense'"):
        to_tensors(graph, format="dense")  # type: ignore[arg-type]


@pytest.mark.parametrize("directed", [True, False])
def test_pyg(directed: bool) -> None:
    pytest.importorskip("torch_geometric")
    graph = graph_of_tensors(directed)
    data = to_pyg(graph, x=["age", "adult", "h"], edge_attr=["weight", "kind"])
    data.validate()
    vertices, a = graph.vertices(), graph.adjacency()
    assert set(data.keys()) == {
        "x", "oid", "image", "edge_index", "edge_attr", "num_nodes"
    }  # fmt: skip
    assert (data.num_nodes, data.num_edges) == (5_000, len(a.out_indices))
    assert data.is_directed() == directed
    assert torch.equal(data.edge_index[1], torch.from_numpy(a.out_indices.astype(np.int64)))
    age = torch.from_numpy(vertices["age"].to_numpy().copy())
    assert torch.equal(data.x[:, 0], age.float())
    assert torch.equal(data.x[:, 2:], torch.from_numpy(features(5_000, 8)))
    assert torch.equal(data.image, torch.from_numpy(features(5_000, 2, 3)))
    weights = graph.edge_columns()["weight"].to_numpy()
    ids = np.arange(len(weights)) if directed else a.edge_ids
    np.testing.assert_array_equal(data.edge_attr[:, 0].numpy(), weights[ids].astype(np.float32))
    whole = to_pyg(graph)
    assert {"h", "age", "adult", "edge_weight", "edge_kind"} <= set(whole.keys())
    assert not {"name", "hole", "inner"} & set(whole.keys())
    assert to_pyg(graph, x=["h"]).x.dtype == torch.float32
    for name, why in (("name", "string"), ("hole", "1 nulls"), ("inner", "no tensor")):
        with pytest.raises(InvalidGraphError, match=why):
            to_pyg(graph, x=[name])


def test_pyg_trains_and_samples() -> None:
    pyg = pytest.importorskip("torch_geometric")
    data = to_pyg(graph_of_tensors(), x=["h"])
    layer = pyg.nn.GCNConv(8, 2)
    out = layer(data.x, data.edge_index, data.edge_weight.float())
    assert out.shape == (5_000, 2)
    out.sum().backward()


@examples(25)
@given(multigraphs(directed=True), st.booleans())
def test_pyg_and_back(slow: Slow, hetero: bool) -> None:
    pytest.importorskip("torch_geometric")
    graph = fast(slow)
    back = from_pyg((to_pyg_hetero if hetero else to_pyg)(graph), **NAMES)
    mine, others = graph.members(), back.members()
    assert mine.keys() == others.keys()
    for name, member in mine.items():
        assert others[name].equals(member), name


def test_pyg_of_several_labels() -> None:
    pytest.importorskip("torch_geometric")
    graph = Graph.from_tables(
        {
            "user": pa.table({"oid": [5, 6, 7], "age": [1.0, 2.0, 3.0]}),
            "item": pa.table({"oid": ["a", "b"], "price": [1, 2]}),
        },
        {
            ("user", "buys", "item"): pa.table({"src": [7, 5], "dst": ["a", "b"], "n": [3, 4]}),
            ("user", "knows", "user"): pa.table({"src": [5], "dst": [6]}),
        },
        client=LOCAL,
    )
    data = to_pyg_hetero(graph, x={"user": ["age"]}, edge_attr={("user", "buys", "item"): ["n"]})
    data.validate()
    assert data.metadata() == (["user", "item"], [e.triple for e in graph.schema.edges])
    assert data["user"].x.tolist() == [[1.0], [2.0], [3.0]]
    assert data["user"].oid.tolist() == [5, 6, 7]
    assert "oid" not in data["item"]  # a text
    assert data["user", "buys", "item"].edge_index.tolist() == [[0, 2], [1, 0]]
    assert data["user", "buys", "item"].edge_attr.tolist() == [[4.0], [3.0]]
    back = from_pyg(data, client=LOCAL)
    assert [v.count for v in back.schema.vertices] == [3, 2]
    assert back.edge_columns("buys")["attr"].to_pylist() == [[4.0], [3.0]]
    assert back.vertices("item")["oid"].to_pylist() == [0, 1]
    assert to_pyg_hetero(graph, ["knows"]).node_types == ["user"]
    assert to_pyg(graph, "knows").num_nodes == 3
    with pytest.raises(InvalidGraphError, match="both ends"):
        to_pyg(graph, "buys")
    with pytest.raises(LabelNotFoundError, match="'size'"):
        to_pyg(graph, "knows", x=["size"])


def test_tensors_of_read_only_memory_are_copies(client: Client) -> None:
    pytest.importorskip("torch_geometric")
    oid = client.put(graph_of_tensors(client=client))
    graph = client.get(oid)
    data = to_pyg(graph)
    before = graph.vertices()
    for name in ("h", "image", "age", "adult"):
        data[name].zero_()  # were it the mapped memory, the process would be gone
    data.edge_weight.zero_()
    data.edge_index.zero_()
    assert before.equals(client.get(oid).vertices())
    assert before["age"].to_numpy().any()
    graph.validate()


def test_tensors_of_private_memory_are_views(client: Client) -> None:
    pytest.importorskip("torch_geometric")
    oid = client.put(graph_of_tensors(client=client))
    graph = client.get(oid, mode="cow")
    data = to_pyg(graph)
    vertices, edges = graph.vertices(), graph.edge_columns()

    def address(column: pa.ChunkedArray) -> int:
        array = column.chunk(0)
        array = array.storage if isinstance(array, pa.ExtensionArray) else array
        return int((array.values if hasattr(array, "values") else array).buffers()[1].address)

    for name in ("h", "image", "age"):
        assert data[name].data_ptr() == address(vertices[name])
    assert data.edge_weight.data_ptr() == address(edges["weight"])
    # The index stays what it is, for kernels trust it.
    indices = graph.arrow()["out.indices"].buffers()[1]
    for tensor in to_tensors(graph, format="csc"):
        assert not indices.address <= tensor.data_ptr() < indices.address + indices.size
    del graph, vertices, edges
    data.age.fill_(7)
    data.h.zero_()
    assert int(data.age.sum()) == 7 * 5_000
    assert client.get(oid).vertices()["age"].to_numpy().max() > 7  # nobody else sees it


def test_attributes_that_make_no_properties() -> None:
    pyg = pytest.importorskip("torch_geometric")
    data = pyg.data.Data(
        x=torch.ones(3, 2, dtype=torch.bfloat16),
        edge_index=torch.tensor([[0, 1], [1, 2]]),
        num_nodes=3,
    )
    with pytest.raises(InvalidGraphError, match="'x'"):
        from_pyg(data, **NAMES)
    data.x, data.oid = None, torch.tensor([4, 4, 4])
    with pytest.raises(InvalidGraphError, match="duplicate"):
        from_pyg(data, **NAMES)
    data.oid = torch.tensor([4, 5, 6])
    data.t = torch.zeros(3, 2, 2)
    graph = from_pyg(data, **NAMES)
    assert graph.ids("v", 6) == 2
    assert graph.vertices()["t"].chunk(0).to_numpy_ndarray().shape == (3, 2, 2)
    data.edge_index = None
    assert from_pyg(data, **NAMES).num_edges() == 0
    data.adj = torch.eye(3).to_sparse_csr()
    with pytest.raises(InvalidGraphError, match="no edge_index"):
        from_pyg(data, **NAMES)


def test_names_that_are_taken() -> None:
    pytest.importorskip("torch_geometric")
    ends = pa.table({"src": [1], "dst": [1], "index": [1]})
    vertices = {"v": pa.table({"oid": [1], "x": [2.0]})}
    graph = Graph.from_tables(vertices, {TRIPLE: ends}, client=LOCAL)
    with pytest.raises(InvalidGraphError, match="'edge_index'"):
        to_pyg(graph)
    graph = Graph.from_tables(vertices, {TRIPLE: ends.drop(["index"])}, client=LOCAL)
    assert to_pyg(graph).x.tolist() == [2.0]
    with pytest.raises(InvalidGraphError, match="'x'"):
        to_pyg(graph, x=["oid"])


@pytest.mark.parametrize("ends", [[[0], [2]], [[-1], [0]]])
def test_edges_that_end_at_no_node(ends: list[list[int]]) -> None:
    data = pytest.importorskip("torch_geometric.data").Data(torch.zeros(2, 1), torch.tensor(ends))
    with pytest.raises(InvalidGraphError, match=r"edge_index of v-e-v goes from .* has 2 nodes"):
        from_pyg(data, **NAMES)

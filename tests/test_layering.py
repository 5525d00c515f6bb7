"""Imports only point down, as docs/architecture.md draws it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import vineyard_arrow

PACKAGE = Path(vineyard_arrow.__file__).parent

# A module may import from the layers below its own, and from its own.
LAYERS = [
    {"errors", "objects", "plugins", "_compat", "_build_info", "__version__"},
    {"machine"},
    {"metadata.backend"},
    {"metadata.embedded", "metadata.records", "metadata.groups", "metadata.mirror"},
    {"metadata.membership", "metadata.etcd"},
    {"config", "config_values", "registry", "contexts", "codegen.model", "codegen.hints"},
    {"store", "partitions", "distributed"},
    {"graph"},
    {"ipc.protocol", "ipc.mounts", "ipc._core", "ipc.loop", "ipc.schemas", "ipc.stored"},
    {
        "ipc.connection",
        "ipc.hugepages",
        "ipc.server",
        "types",
        "composition",
        "extension_types",
    },
    {"ipc.memory", "ipc.starter", "ipc.fork"},
    {"metadata.catalog", "ipc.attached", "ipc.blocks", "sessions"},
    {"ipc.streams", "waits", "describing", "reading", "blobs"},
    {"handles", "notebook"},
    {"streaming", "streams"},
    {"puts", "finds", "cluster"},
    {"sharing"},
    {"service", "ipc.process"},
    {"clustering", "partition_calls"},
    {"client"},
    {"migration"},
    {"rpc"},
    {"fetching"},
    {"joined"},
    {"partitioning"},
    {"drivers"},
    {"saving"},
    {"integrations"},
    {"joining"},
    {"daemon", "shared_memory"},
    {"codegen"},
    {"cli", "__main__"},
    {"dashboard"},
]


def layer(module: str) -> int | None:
    for i, names in enumerate(LAYERS):
        if any(module == n or module.startswith(n + ".") for n in names):
            return i
    return None


def imports(path: Path) -> set[str]:
    """Modules of ours that a file imports at its top level, relative to the package."""
    here = path.relative_to(PACKAGE).with_suffix("").parts
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = list(here[: len(here) - node.level])
            elif (node.module or "").split(".")[0] == "vineyard_arrow":
                base = []
            else:
                continue
            tail = (node.module or "").removeprefix("vineyard_arrow").strip(".")
            base += tail.split(".") if tail else []
            for alias in node.names:
                full = [*base, alias.name]
                target = PACKAGE.joinpath(*full)
                is_module = (
                    target.with_suffix(".py").exists() or target.with_suffix(".pyx").exists()
                )
                found.add(".".join(full if is_module or not base else base))
    return found


def test_imports_point_down() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if name.endswith("__init__"):
            continue
        own = layer(name)
        assert own is not None, f"{name} has no place in LAYERS"
        for target in imports(path):
            if (below := layer(target)) is not None and below > own:
                wrong.append(f"{name} imports {target}")
    assert not wrong


def test_import_is_light() -> None:
    code = (
        "import sys, pyarrow; before = set(sys.modules); import vineyard_arrow;"
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    heavy = {"pandas", "polars", "etcd3", "grpc", "msgspec", "duckdb", "asyncio", "subprocess"}
    assert not heavy & set(done.stdout.split())


def test_engines_are_imported_only_for_their_values() -> None:
    code = (
        "import sys, pyarrow as pa, vineyard_arrow.client;"
        "from vineyard_arrow.registry import Encoder, default_registry;"
        "Encoder(default_registry).add([1, {'k': pa.table({'a': [1]})}, ..., Encoder]);"
        "default_registry.resolver_for('vineyard.table');"
        "print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    engines = {
        "etcd3",
        "grpc",
        "polars",
        "duckdb",
        "torch",
        "scipy",
        "sparse",
        "xarray",
    }  # pyarrow itself imports pandas
    assert not engines & set(done.stdout.split())

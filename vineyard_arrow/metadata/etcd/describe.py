"""Makes ``rpc.binpb``, what `stubs` loads: descriptors of etcd's messages and services.

Run it with grpcio-tools installed, over the sources of etcd (Debian has them in the package
golang-etcd-server-dev)::

    python -m vineyard_arrow.metadata.etcd.describe /usr/share/gocode/src/go.etcd.io/etcd

Options of gogoproto and of Google's HTTP gateway are left out: they change no byte on the wire,
and their definitions would have to be shipped too. Nothing imports this module.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

FILES = {
    "mvccpb/kv.proto": "mvcc/mvccpb/kv.proto",
    "authpb/auth.proto": "auth/authpb/auth.proto",
    "rpc.proto": "etcdserver/etcdserverpb/rpc.proto",
}
_IMPORT = re.compile(r'import "(gogoproto|google/api)/[^"]*";')
_FILE_OPTION = re.compile(r"option \(gogoproto\.[^;]*;")
_METHOD_OPTION = re.compile(r"option \(google\.api\.http\) = \{.*?\};", re.DOTALL)
_FIELD_OPTION = re.compile(r"\[\(gogoproto\.[^\]]*\]")


def plain(text: str) -> str:
    """A ``.proto`` file without options that other files define."""
    for pattern in (_IMPORT, _FILE_OPTION, _METHOD_OPTION, _FIELD_OPTION):
        text = pattern.sub("", text)
    return re.sub(r'"etcd/(mvcc|auth)/(\w+/\w+\.proto)"', r'"\2"', text)


def describe(sources: Path) -> bytes:
    """The serialized FileDescriptorSet of etcd's client interface."""
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        for name, source in FILES.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(plain((sources / source).read_text()))
        out = folder / "out"
        arguments = ["protoc", f"-I{folder}", f"--descriptor_set_out={out}", *FILES]
        if protoc.main(arguments) != 0:
            raise SystemExit("protoc failed")
        return out.read_bytes()


if __name__ == "__main__":
    Path(__file__).with_name("rpc.binpb").write_bytes(describe(Path(sys.argv[1])))

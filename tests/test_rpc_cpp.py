"""A stock Flight client in another language: C++, built against the library in pyarrow."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest
from cpp_harness import COMPILE_S, DEADLINE_S, NATIVE, compile_flags
from rpc_harness import Served
from rpc_harness import served as served
from rpc_harness import shared_served as shared_served

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    pytest.mark.timeout(600),  # it compiles
]


def test_a_client_in_cpp(served: Served, tmp_path: Path) -> None:
    program, certs = tmp_path / "flight_client", tmp_path / "ca.pem"
    library = f"-l:libarrow_flight.so.{pa.cpp_build_info.so_version}"
    subprocess.run(
        [
            *("g++", "-std=c++20", "-O0", "-Wall", "-Wextra", "-Werror"),
            *(str(NATIVE / "flight_client.cpp"), "-o", str(program), *compile_flags(), library),
        ],
        check=True,
        timeout=COMPILE_S,
    )
    certs.write_bytes(served.tls_root_certs or b"")
    place = f"grpc+tls://{served.address}"
    done = subprocess.run(
        [str(program), place, str(certs), str(served.token), "squares"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    with served.daemon.connect() as client:
        oid = client.get_name("squares")
        assert client.get(oid)["square"].to_pylist() == [i * i for i in range(1000)]
    assert done.stdout.splitlines() == [
        str(oid),
        "squares 1000",
        "square: int64, the last is 998001",
    ]

"""Every value comes back exactly from a real store, in this process and in another."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from types_harness import assert_same
from values import ALL_VALUES

from vineyard_arrow.client import Client


@pytest.mark.parametrize("mode", ["ro", "cow", "copy"])
def test_values_come_back_exactly(client: Client, mode: str) -> None:
    failed: dict[str, str] = {}
    for name, make in ALL_VALUES:
        try:
            assert_same(make(), client.get(client.put(make()), mode=mode))
        except Exception as error:
            failed[name] = repr(error)
    assert not failed


OTHER_PROCESS = """
import sys
from types_harness import assert_same
from values import ALL_VALUES
from vineyard_arrow.client import connect

client = connect(sys.argv[1], autostart=False)
failed = []
for name, make in ALL_VALUES:
    try:
        assert_same(make(), client.get(name))
    except BaseException as error:
        failed.append((name, repr(error)))
print(failed)
sys.exit(bool(failed))
"""


def test_all_values_come_back_in_another_process(client: Client, request: Any) -> None:
    client.put_many([make() for _, make in ALL_VALUES], names=[name for name, _ in ALL_VALUES])
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, str(client._a.socket)],
        cwd=request.path.parent,
        env={"PYTHONPATH": f"{request.path.parents[1]}:{request.path.parent}"},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr

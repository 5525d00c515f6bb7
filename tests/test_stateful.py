"""The store against a dict: random steps of several clients, compared at every get.

Clients are attachments of their own in this process, and child processes that get killed.
A value once got must keep its bytes whatever happens to the object, its writer or the memory.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from test_faults import Child, helper, spawn  # noqa: F401  # fixtures

from vineyard_arrow.client import Client
from vineyard_arrow.config import client_config
from vineyard_arrow.errors import ObjectExistsError, ObjectNotFoundError
from vineyard_arrow.ipc.attached import Attached

NAMES = [f"name-{i}" for i in range(6)]
CLIENTS = 3


def value_of(seed: int, pool: pa.MemoryPool | None = None) -> pa.Table:
    """A table of any of several shapes, the same for the same seed."""
    rng = np.random.default_rng(seed)
    rows = [0, 1, 7, 1000, 9000, 20_000, 60_000][seed % 7]
    numbers = rng.integers(-(1 << 62), 1 << 62, rows)
    columns = {"n": pa.array(numbers.tolist() if pool else numbers, pa.int64(), memory_pool=pool)}
    if seed % 2:
        columns["s"] = pc.cast(columns["n"], pa.string(), memory_pool=pool)
    if seed % 3 == 0:
        columns["b"] = pc.greater(columns["n"], 0, memory_pool=pool)
    if seed % 5 == 0:
        columns["d"] = pa.array(numbers % 5).dictionary_encode()
    table = pa.table(columns)
    return pa.concat_tables([table, table.slice(rows // 3)]) if seed % 4 == 0 else table


def open_client(path: Any) -> Client:
    """A client that shares its attachment with nobody."""
    attached = Attached(client_config(socket=str(path), autostart=False))
    attached.users = 1
    return Client(attached)


def child_obey(lines: Any, path: str) -> None:
    """Do as told, until killed."""
    client = open_client(path)
    pins: list[tuple[pa.Table, pa.Table]] = []
    while (told := lines.hear()) is not None:
        match told:
            case ["put", seed, name]:
                lines.say(int(client.put(value_of(seed), name=name)))
            case ["pin", oid]:
                pins.append((client.get(oid), client.get(oid, mode="copy")))
                lines.say(len(pins))
            case ["check"]:
                lines.say(all(a.equals(b) for a, b in pins))
            case ["pool", seed]:
                lines.say(int(client.put(value_of(seed, client.memory_pool))))
            case ["leave unsealed", nbytes]:
                held = client.create_blob(nbytes)  # noqa: F841
                lines.say(nbytes)


class Store(RuleBasedStateMachine):
    """What the store does, beside what a dict does."""

    daemon: Any
    spawn: Callable[..., Child]
    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.clients = [open_client(self.daemon.socket) for _ in range(CLIENTS)]
        self.objects: dict[int, pa.Table] = {}
        self.names: dict[str, int] = {}
        self.pins: list[tuple[int, pa.Table, pa.Table]] = []  # client, got, expected
        self.gone: list[int] = []
        self.child: Child | None = None
        self.left = itertools.count(CLIENTS)  # numbers for clients that have left

    def teardown(self) -> None:
        try:
            self.compare_and_empty()
        finally:
            self.pins.clear()
            for client in self.clients:
                client.close()
            self.clients.clear()
            gc.collect()
        status = self.daemon.status()
        assert not status.clients
        assert (status.memory_used, status.memory_charged) == (0, 0)

    def check_pins(self) -> None:
        for _, got, expected in self.pins:
            assert got.equals(expected)

    def compare_and_empty(self) -> None:
        self.check_pins()
        self.check_lists()
        if self.child is not None:
            self.tell("check")
            self.child.kill()
        self.pins.clear()
        self.clients[0].clear()
        status = self.clients[0].status()
        assert (status.objects, status.names, status.deleted_pinned) == (0, 0, 0)
        assert status.memory_used == 0
        assert sum(c.pins for c in status.clients) == 0

    # ---- choices

    def pick_object(self, data: Any) -> int:
        return int(data.draw(st.sampled_from(sorted(self.objects)), label="object"))

    def pick_pin(self, data: Any) -> int:
        # By number: hypothesis would keep the values themselves, and their pins, alive.
        return int(data.draw(st.integers(0, len(self.pins) - 1), label="pin"))

    def tell(self, *what: Any) -> Any:
        if self.child is None:
            self.child = type(self).spawn("test_stateful.obey", str(self.daemon.socket))
        self.child.say(*what)
        heard = self.child.hear()
        assert heard is not None, "the child died by itself"
        return heard[0]

    def free_name(self, name: str | None) -> str | None:
        return None if name in self.names else name

    def added(self, object_id: int, value: pa.Table, name: str | None = None) -> None:
        assert object_id not in self.objects
        assert object_id not in self.gone
        self.objects[object_id] = value
        if name is not None:
            self.names[name] = object_id

    # ---- rules

    @rule(
        who=st.integers(0, CLIENTS - 1),
        seed=st.integers(0, 1000),
        name=st.none() | st.sampled_from(NAMES),
        overwrite=st.booleans(),
        strict=st.sampled_from([False] * 5 + [True]),
    )
    def put(self, who: int, seed: int, name: str | None, overwrite: bool, strict: bool) -> None:
        client = self.clients[who]
        options: Any = {"name": name, "seal": "strict" if strict else "shared"}
        if name in self.names and not overwrite:
            with pytest.raises(ObjectExistsError):
                client.put(value_of(seed), **options)
        else:
            oid = client.put(value_of(seed), overwrite=overwrite, **options)
            self.added(oid, value_of(seed), name)

    @rule(who=st.integers(0, CLIENTS - 1), seeds=st.lists(st.integers(0, 1000), max_size=5))
    def put_many(self, who: int, seeds: list[int]) -> None:
        values = [value_of(seed) for seed in seeds]
        for oid, value in zip(self.clients[who].put_many(values), values, strict=True):
            self.added(oid, value)

    @rule(who=st.integers(0, CLIENTS - 1), seed=st.integers(0, 1000), keep=st.booleans())
    def put_pool_built(self, who: int, seed: int, keep: bool) -> None:
        client = self.clients[who]
        table = value_of(seed, client.memory_pool)
        self.added(client.put(table), value_of(seed))
        if keep:  # the writer's own view of what it sealed
            self.pins.append((who, table, value_of(seed)))

    @precondition(lambda self: self.objects)
    @rule(
        data=st.data(),
        who=st.integers(0, CLIENTS - 1),
        mode=st.sampled_from(["ro", "ro", "cow", "copy"]),
        pin=st.booleans(),
    )
    def get(self, data: Any, who: int, mode: Any, pin: bool) -> None:
        oid = self.pick_object(data)
        got = self.clients[who].get(oid, mode=mode)
        assert got.equals(self.objects[oid])
        assert got.schema.equals(self.objects[oid].schema)
        if pin:
            self.pins.append((who, got, self.objects[oid]))

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def look_at_pinned(self, data: Any) -> None:
        _, got, expected = self.pins[self.pick_pin(data)]
        assert got.equals(expected)

    @precondition(lambda self: self.pins)
    @rule(data=st.data(), all_of_them=st.sampled_from([False, False, True]))
    def unpin(self, data: Any, all_of_them: bool) -> None:
        if all_of_them:
            self.check_pins()
            self.pins.clear()
        else:
            _, got, expected = self.pins.pop(self.pick_pin(data))
            assert got.equals(expected)

    @precondition(lambda self: self.pins)
    @rule(data=st.data(), how=st.sampled_from(["slice", "append", "select", "twice"]))
    def derive(self, data: Any, how: str) -> None:
        """Put what shares memory with a stored object, by the client that has it."""
        who, got, expected = self.pins[self.pick_pin(data)]
        start = data.draw(st.integers(0, max(got.num_rows, 1)), label="row")

        def change(table: pa.Table) -> pa.Table:
            if how == "slice":
                return table.slice(start, 5000)
            if how == "append":
                return table.append_column(f"c{table.num_columns}", pa.array(range(len(table))))
            if how == "select":
                return table.select(table.column_names[:1])
            return pa.concat_tables([table, table])

        if len(got.column_names) < 6 and got.num_rows < 200_000:
            self.added(self.clients[who % CLIENTS].put(change(got)), change(expected))

    @precondition(lambda self: self.objects)
    @rule(data=st.data(), who=st.integers(0, CLIENTS - 1), more=st.booleans())
    def delete(self, data: Any, who: int, more: bool) -> None:
        ids = {self.pick_object(data)} | ({self.pick_object(data)} if more else set())
        self.clients[who].delete(sorted(ids))
        for oid in ids:
            del self.objects[oid]
            self.gone.append(oid)
        self.names = {n: i for n, i in self.names.items() if i not in ids}

    @precondition(lambda self: self.gone)
    @rule(data=st.data(), who=st.integers(0, CLIENTS - 1))
    def look_for_deleted(self, data: Any, who: int) -> None:
        oid = data.draw(st.sampled_from(self.gone), label="deleted")
        for call in (self.clients[who].get, self.clients[who].delete, self.clients[who].get_meta):
            with pytest.raises(ObjectNotFoundError):
                call(oid)
        assert not self.clients[who].exists(oid)

    @precondition(lambda self: self.objects)
    @rule(
        data=st.data(),
        who=st.integers(0, CLIENTS - 1),
        name=st.sampled_from(NAMES),
        overwrite=st.booleans(),
    )
    def put_name(self, data: Any, who: int, name: str, overwrite: bool) -> None:
        oid = self.pick_object(data)
        if name in self.names and not overwrite:
            with pytest.raises(ObjectExistsError):
                self.clients[who].put_name(oid, name)
        else:
            self.clients[who].put_name(oid, name, overwrite=overwrite)
            self.names[name] = oid

    @rule(who=st.integers(0, CLIENTS - 1), name=st.sampled_from(NAMES))
    def drop_name(self, who: int, name: str) -> None:
        if name in self.names:
            self.clients[who].drop_name(name)
            del self.names[name]
        else:
            with pytest.raises(ObjectNotFoundError):
                self.clients[who].drop_name(name)

    @rule(who=st.integers(0, CLIENTS - 1), name=st.sampled_from(NAMES))
    def get_by_name(self, who: int, name: str) -> None:
        client = self.clients[who]
        if name in self.names:
            assert client.get_name(name) == self.names[name]
            assert client.get(name).equals(self.objects[self.names[name]])
        else:
            with pytest.raises(ObjectNotFoundError):
                client.get(name)

    @rule()
    def check_lists(self) -> None:
        client = self.clients[0]
        listed = {int(m.id): set(m.names) for m in client.list_objects()}
        expected: dict[int, set[str]] = {oid: set() for oid in self.objects}
        for name, oid in self.names.items():
            expected[oid].add(name)
        assert listed == expected
        assert {n: int(i) for n, i in client.list_names().items()} == self.names
        status = client.status()
        assert (status.objects, status.names) == (len(self.objects), len(self.names))
        assert status.memory_charged <= status.memory_limit

    @rule(who=st.integers(0, CLIENTS - 1))
    def trim(self, who: int) -> None:
        self.clients[who].memory_trim()

    @rule(who=st.integers(0, CLIENTS - 1))
    def leave_and_come_back(self, who: int) -> None:
        """What the old attachment gave stays valid; derived puts of it are copies then."""
        if len({client for client, _, _ in self.pins} - set(range(CLIENTS))) > 8:
            return  # each attachment takes terabytes of address space
        self.pins = [(w if w != who else next(self.left), g, e) for w, g, e in self.pins]
        self.clients[who].close()
        self.clients[who] = open_client(self.daemon.socket)

    # ---- a process that gets killed

    @rule(seed=st.integers(0, 1000), name=st.none() | st.sampled_from(NAMES))
    def child_puts(self, seed: int, name: str | None) -> None:
        name = self.free_name(name)
        self.added(self.tell("put", seed, name), value_of(seed), name)

    @rule(seed=st.integers(0, 1000))
    def child_puts_pool_built(self, seed: int) -> None:
        self.added(self.tell("pool", seed), value_of(seed))

    @precondition(lambda self: self.objects)
    @rule(data=st.data())
    def child_pins(self, data: Any) -> None:
        self.tell("pin", self.pick_object(data))

    @precondition(lambda self: self.child)
    @rule()
    def child_checks_its_pins(self) -> None:
        assert self.tell("check") is True

    @precondition(lambda self: self.child)
    @rule(unsealed=st.sampled_from([0, 100_000, 100_001]))
    def kill_child(self, unsealed: int) -> None:
        assert self.child is not None
        if unsealed:
            self.tell("leave unsealed", unsealed)
        self.child.kill()
        self.child = None


def count_steps(machine: type[Store]) -> None:
    """Have every rule count."""
    execute = machine.check_invariants

    def counted(self: Store, *args: Any, **kwargs: Any) -> Any:
        machine.steps += 1
        return execute(self, *args, **kwargs)

    machine.check_invariants = counted  # type: ignore[method-assign]


def run(daemon: Any, spawn: Any, examples: int, steps: int) -> int:  # noqa: F811
    class Machine(Store):
        pass

    Machine.daemon, Machine.spawn = daemon, staticmethod(spawn)
    count_steps(Machine)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return Machine.steps


def test_the_store_is_a_dict(daemon: Any, spawn: Any) -> None:  # noqa: F811
    assert run(daemon, spawn, 15, 50) >= 500


@pytest.mark.stress
@pytest.mark.timeout(300)
def test_the_store_is_a_dict_for_10000_steps(daemon: Any, spawn: Any) -> None:  # noqa: F811
    assert run(daemon, spawn, 130, 100) >= 10_000


def test_the_store_is_a_dict_on_huge_pages(huge_daemon: Any, spawn: Any) -> None:  # noqa: F811
    assert run(huge_daemon, spawn, 5, 50) >= 150

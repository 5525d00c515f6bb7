"""The command line, as real processes against a daemon of their own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from vineyard_arrow.cli import main
from vineyard_arrow.cli.doctor import left_over, pids_of_deleted
from vineyard_arrow.cli.listing import exclusive_nbytes, union
from vineyard_arrow.cli.parser import FORMATS, PACKED
from vineyard_arrow.cli.report import Bar, Grid, Line, Pairs, clean, jsonable, plain
from vineyard_arrow.client import connect
from vineyard_arrow.drivers import formats
from vineyard_arrow.errors import StreamFailedError
from vineyard_arrow.objects import ObjectMeta
from vineyard_arrow.shared_memory import SharedMemory

ROOT = Path(__file__).parents[1]
PROGRAM = [sys.executable, "-m", "vineyard_arrow"]
TABLE = pa.table({"n": range(1000), "s": [f"row {i}" for i in range(1000)]})


class Cli:
    """Runs commands against one socket."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        kept = {k: v for k, v in os.environ.items() if not k.startswith("VINEYARD_ARROW_")}
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.env = kept | {"PYTHONPATH": paths, "XDG_CONFIG_HOME": str(socket.parent / "none")}

    def run(self, *args: str, status: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [*PROGRAM, "--socket", str(self.socket), *args]
        options = {"stdin": subprocess.DEVNULL, "timeout": 30} | options
        done = subprocess.run(
            command, capture_output=True, text=True, env=self.env, check=False, **options
        )
        assert done.returncode == status, (done.stdout, done.stderr)
        return done

    def call(self, *args: str, status: int = 0) -> tuple[str, str]:
        """The same in this process, which is faster; returns its two outputs."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            assert main(["--socket", str(self.socket), *args]) == status, err.getvalue()
        return out.getvalue(), err.getvalue()

    def json(self, *args: str, **options: Any) -> Any:
        return json.loads(self.run(*args, "--json", **options).stdout)

    def json_call(self, *args: str, status: int = 0) -> Any:
        return json.loads(self.call(*args, "--json", status=status)[0])

    def fails(self, *args: str, status: int = 1) -> str:
        """The one line of the error."""
        _, said = self.call(*args, status=status)
        assert said.startswith("vineyard-arrow: ")
        assert said.count("\n") == 1
        return said

    def start(self) -> Any:
        return self.json("start", "--memory-limit", "256MiB", "--pages", "small")


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Cli]:
    """Without a daemon; one that a test starts is stopped."""
    cli = Cli(tmp_path / "s.sock")
    yield cli
    cli.call("stop")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    cli = Cli(tmp_path_factory.mktemp("cli") / "s.sock")
    cli.start()
    yield cli
    cli.call("stop")


@pytest.fixture
def cli(shared: Cli) -> Cli:
    """With a daemon that is empty."""
    with connect(shared.socket, autostart=False) as client:
        client.clear()
    return shared


def put(cli: Cli, value: Any, name: str | None = None) -> str:
    with connect(cli.socket, autostart=False) as client:
        return str(client.put(value, name=name))


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    path = tmp_path / "t.parquet"
    pq.write_table(TABLE, path)
    return path


# ---- the daemon's process


def test_start_and_stop(idle: Cli) -> None:
    started = idle.start()
    assert started["started"]
    assert started["memory_limit"] == 256 << 20
    assert Path(f"/proc/{started['pid']}").exists()
    again = idle.json_call("start")
    assert (again["started"], again["pid"]) == (False, started["pid"])
    assert "pid" in idle.call("start")[0]
    assert idle.json("stop")["pid"] == started["pid"]
    assert not idle.socket.exists()
    assert "no daemon runs" in idle.call("stop")[0]


def test_start_beside_a_daemon_with_another_limit(idle: Cli) -> None:
    idle.start()
    assert (
        "with a limit other than 1 MiB: stop it first"
        in idle.call("start", "--memory-limit", "1MiB")[0]
    )
    for limit in ((), ("--memory-limit", "256MiB")):
        assert "other than" not in idle.call("start", *limit)[0]


def test_a_folder_that_is_not_there(idle: Cli) -> None:
    missing = idle.socket.parent / "missing"
    away = Cli(missing / "s.sock")
    for command in ("start", "serve"):
        said = away.fails(command)
        assert f"folder {missing} does not exist (hint: mkdir -p {missing}" in said
    assert "--group NAME" in idle.fails("start", "--mode", "0660")


def test_started_daemon_is_detached(idle: Cli) -> None:
    pid = idle.start()["pid"]
    assert os.getsid(pid) not in (os.getsid(0), pid)
    assert Path(f"/proc/{pid}/cwd").resolve() == Path("/")
    fds = [os.readlink(f) for f in Path(f"/proc/{pid}/fd").iterdir()]
    assert not [f for f in fds if f.endswith(".start")]
    assert len([f for f in fds if f.endswith(".log")]) == 2


def test_start_reports_what_the_daemon_says(idle: Cli) -> None:
    assert "memory_limit is 100 TiB" in idle.fails("start", "--memory-limit", "100TiB")
    assert "allowed: auto, huge, small" in idle.fails("start", "--pages", "tiny")


def test_serve_in_the_foreground(idle: Cli) -> None:
    command = [*PROGRAM, "serve", "--socket", str(idle.socket), "--memory-limit", "64MiB"]
    options = {"env": idle.env, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "--log-format", "json"], **options) as process:
        assert process.stderr is not None
        assert "serving" in json.loads(process.stderr.readline())["message"]
        assert idle.json("status")["pid"] == process.pid
        process.send_signal(2)
        assert process.wait(60) == 0


def test_serve_tells_a_wrong_setting_to_who_waits(idle: Cli) -> None:
    ready, told = os.pipe()
    try:
        command = ["serve", "--memory-limit", "much", "--ready-fd", str(told)]
        idle.run(*command, pass_fds=[told])
    finally:
        os.close(told)
    with open(ready) as pipe:
        said = pipe.read()
    assert said.startswith("config\nsetting memory_limit is 'much'")


@pytest.mark.parametrize("command", ["status", "ls", "du", "top --once", "get x", "rm x"])
def test_readers_start_no_daemon(idle: Cli, command: str) -> None:
    assert "no daemon listens" in idle.fails(*command.split(), status=3)
    assert not idle.socket.exists()


# ---- looking


def test_status(cli: Cli) -> None:
    put(cli, TABLE, "t")
    status = cli.json("status")
    assert (status["objects"], status["names"], status["clients"]) == (1, 1, [])
    assert status["memory_limit"] == 256 << 20
    assert status["segments"][0]["kind"] == "catalog"
    text = cli.run("status").stdout
    assert "of 256 MiB" in text
    assert max(map(len, text.splitlines())) <= 80


def test_ls(cli: Cli) -> None:
    ids = [put(cli, TABLE, "one"), put(cli, {"x": 1})]
    listed = cli.json("ls")
    assert [o["id"] for o in listed["objects"]] == ids
    assert listed["objects"][0]["names"] == ["one"]
    assert [o["id"] for o in cli.json_call("ls", "on*")["objects"]] == ids[:1]
    assert cli.json_call("ls", "--limit", "1")["total"] == 2
    assert "1 more" in cli.call("ls", "--limit", "1")[0]
    assert "created" in cli.call("ls", "--long")[0]
    assert "no object is zz" in cli.call("ls", "zz")[0]


def test_the_size_of_what_is_composed(cli: Cli) -> None:
    with connect(cli.socket, autostart=False) as client:
        meta = ObjectMeta("shop.basket")
        for name in "ab":
            meta.add_member(name, client.put(pa.array([1.0, 2.0])))
        client.create_metadata(meta, name="basket")
    assert " 0 B +32 B in 2 members " in cli.call("ls", "basket")[0]
    assert "(0 bytes) +32 B in 2 members" in cli.call("ls", "basket", "--long")[0]
    assert " 0 B +32 B in 2 members " in cli.call("du")[0]
    assert cli.call("du")[0].endswith("3 objects, 32 B of memory\n")


def test_du_tells_shared_from_exclusive(cli: Cli) -> None:
    with connect(cli.socket, autostart=False) as client:
        big = client.put(pa.table({"a": pa.array(range(100_000))}))
        wider = client.get(big).append_column("b", pa.array(range(100_000), pa.int32()))
        both = client.put(wider)
    usage = cli.json("du")
    by_id = {o["id"]: o for o in usage["objects"]}
    assert (by_id[str(big)]["exclusive"], by_id[str(big)]["shared"]) == (0, 800_000)
    assert (by_id[str(both)]["exclusive"], by_id[str(both)]["shared"]) == (400_000, 800_000)
    assert usage["objects"][0]["id"] == str(both)
    assert usage["total"] == {"objects": 2, "apparent": 2_000_000, "distinct": 1_200_000}
    assert "if nothing were shared" in cli.call("du")[0]


def test_top_once(cli: Cli) -> None:
    object_id = put(cli, TABLE, "t")
    assert cli.json("top")["largest"][0]["id"] == object_id
    assert object_id in cli.run("top", "--once").stdout


def test_top_on_a_terminal_leaves_on_q(cli: Cli) -> None:
    put(cli, TABLE, "seen-in-top")
    leader, follower = pty.openpty()
    command = [*PROGRAM, "--socket", str(cli.socket), "top", "--interval", "60"]
    env = cli.env | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    with subprocess.Popen(command, stdin=follower, stdout=follower, env=env) as process:
        os.close(follower)
        seen = b""
        while b"q leaves" not in seen:
            assert select.select([leader], [], [], 20)[0], seen
            seen += os.read(leader, 1 << 16)
        assert b"seen-in-top" in seen
        os.write(leader, b"q")
        assert process.wait(60) == 0
    os.close(leader)


def test_doctor_names_who_reads_deleted_objects(cli: Cli) -> None:
    assert cli.json("doctor")["ok"]
    with connect(cli.socket, autostart=False) as client:
        value = client.get(client.put(pa.array(range(100_000))))
        client.clear()
        found = [f["what"] for f in cli.json("doctor")["findings"]]
        assert any("still read: 1 object " in w and f"pid {os.getpid()}" in w for w in found), found
        del value
    assert "deleted" not in cli.call("doctor")[0]


def test_doctor_says_what_is_wrong(cli: Cli) -> None:
    with connect(cli.socket, autostart=False) as client:
        blob = client.create_blob(240 << 20)
        report = cli.json("doctor", status=1)
        assert not report["ok"]
        wrong = [f["what"] for f in report["findings"] if f["level"] == "wrong"]
        assert any("nearly full" in w for w in wrong)
        assert any(f"pid {os.getpid()}" in w and "240 MiB" in w for w in wrong)
        blob.drop()


def test_doctor_without_a_daemon(idle: Cli) -> None:
    report = idle.json("doctor", status=3)
    assert report["pid"] is None
    assert not report["ok"]


def test_doctor_finds_what_a_dead_daemon_left(idle: Cli) -> None:
    pid = idle.start()["pid"]
    gone = os.pidfd_open(pid)
    os.kill(pid, 9)
    assert select.select([gone], [], [], 10)[0]
    os.close(gone)
    assert [f.level for f in left_over(idle.socket)] == ["note"]
    assert "died" in next(left_over(idle.socket)).what


# ---- values


def test_put_and_get_a_file(cli: Cli, parquet: Path) -> None:
    (done,) = cli.json("put", str(parquet), "--name", "t")
    assert (done["rows"], done["names"]) == (1000, ["t"])
    assert done["copied"] + done["gathered"] + done["shared"] == done["nbytes"]
    got = cli.json("get", "t", "--head", "2")
    assert got["rows"] == [[0, "row 0"], [1, "row 1"]]
    assert got["num_rows"] == 1000
    text = cli.run("get", done["id"]).stdout
    assert "row 9" in text
    assert "990 more rows" in text


def test_put_moves_a_name(cli: Cli, parquet: Path) -> None:
    old = put(cli, 1, "t")
    (done,) = cli.json_call("put", str(parquet), "--name", "t", "--overwrite")
    assert done["names"] == ["t"]
    assert [o["names"] for o in cli.json_call("ls")["objects"] if o["id"] == old] == [[]]


def test_hints_name_options(cli: Cli, parquet: Path, tmp_path: Path) -> None:
    put(cli, 1, "t")
    cli.call("export", "t", str(tmp_path / "out"))
    assert "--names keep" in cli.fails("import", str(tmp_path / "out"))
    assert "is no export" in cli.fails("import", str(parquet))
    assert "--format " in cli.fails("put", __file__)


def test_tables_of_databases_and_formats_are_named(cli: Cli, tmp_path: Path) -> None:
    put(cli, TABLE, "t")
    file = str(tmp_path / "a.db")
    assert "'table'" in cli.fails("get", "t", "--to", file)
    for _ in range(2):  # what is there is replaced
        cli.call("get", "t", "--to", file, "--table", "rows")
    assert "--table" in cli.fails("put", file)
    assert cli.json_call("put", file, "--table", "rows")[0]["rows"] == 1000
    query = "SELECT n FROM rows WHERE n < 7"
    assert cli.json_call("put", f"sqlite:///{file}", "--query", query)[0]["rows"] == 7
    cli.call("get", "t", "--to", str(tmp_path / "odd"), "--format", "csv")
    assert cli.json_call("put", str(tmp_path / "odd"), "--format", "csv")[0]["rows"] == 1000


def test_put_builds_in_shared_memory(cli: Cli, tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array(range(100_000))}), tmp_path / "big.parquet")
    (done,) = cli.json("put", str(tmp_path / "big.parquet"))
    assert (done["copied"], done["shared"]) == (0, 800_000)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".arrow", ".feather"])
def test_formats_round_trip(cli: Cli, tmp_path: Path, suffix: str) -> None:
    put(cli, TABLE, "t")
    path = tmp_path / f"out{suffix}"
    assert cli.json_call("get", "t", "--to", str(path))["rows"] == 1000
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    (done,) = cli.json_call("put", str(path))
    with connect(cli.socket, autostart=False) as client:
        assert client.get(done["id"]).equals(TABLE)


def test_put_json_lines_and_csv_together(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n{"x": 2}\n')
    pyarrow.csv.write_csv(TABLE, tmp_path / "b.csv")
    done = cli.json("put", str(tmp_path / "a.jsonl"), str(tmp_path / "b.csv"))
    assert [d["rows"] for d in done] == [2, 1000]


def test_get_other_values(cli: Cli) -> None:
    put(cli, list(range(1000)), "list")
    assert cli.json("get", "list")["repr"].startswith("[0, 1, 2")
    assert len(cli.call("get", "list")[0]) < 500
    assert "not a table" in cli.fails("get", "list", "--to", "x.csv")


def test_rm(cli: Cli) -> None:
    first, second = put(cli, 1, "one"), put(cli, 2)
    assert cli.json("rm", "one", second) == {
        "deleted": 2,
        "ids": [first, second],
        "streams": [],
    }
    put(cli, 3)
    assert "nobody to ask" in cli.fails("rm", "--all", status=2)
    assert cli.json("rm", "--all", "--yes")["deleted"] == 1
    assert cli.json_call("ls")["total"] == 0


def test_rm_all_says_what_it_is_about_to_delete(cli: Cli) -> None:
    put(cli, 1, "one")
    leader, follower = pty.openpty()
    with connect(cli.socket, autostart=False) as client:
        writer = client.create_stream(pa.schema([]))
        block = SharedMemory(create=True, size=1, client=client)
        command = [*PROGRAM, "--socket", str(cli.socket), "rm", "--all"]
        with subprocess.Popen(
            command, stdin=follower, stdout=-1, stderr=-1, text=True, env=cli.env
        ) as process:
            os.write(leader, b"y\n")
            out, asked = process.communicate(timeout=150)
        told = "1 object (those without a name and members too), 1 stream, 1 block of shared memory"
        assert asked == f"delete everything: {told}? [y/N] "
        assert out == f"deleted {told}\n"
        with pytest.raises(StreamFailedError):
            writer.close()
        block.close()
    for end in (leader, follower):
        os.close(end)


def test_streams(cli: Cli) -> None:
    assert cli.call("ls", "--streams")[0] == "no streams\n"
    batch = pa.record_batch({"a": [1]})
    with connect(cli.socket, autostart=False) as client:
        with (
            client.create_stream(batch.schema, name="live") as named,
            client.create_stream(batch.schema) as other,
        ):
            named.write(batch)
            other.write(batch)
        listed = cli.json_call("ls", "--streams")["streams"]
        assert [(s["id"], s["batches"]) for s in listed] == [(str(named.id), 1), (str(other.id), 1)]
        head, line = cli.call("ls", "--streams", "li*")[0].splitlines()
        assert head.split() == ["ID", "STATE", "BATCHES", "SIZE", "STORED", "READERS", "NAME"]
        assert line.split() == [str(named.id), "ended", "1", "8", "B", "1", "0", "live"]
        examined = cli.call("doctor")[0]
        assert f"in 2 batches: live, {other.id}" in examined
        assert re.search(r"\nnothing wrong; (1 note|\d+ notes)\n$", examined)
        assert "is a stream: open_stream('live')" in cli.fails("get", "live")
        one = put(cli, 1, "one")
        assert "no name 'nope'" in cli.fails("rm", "live", "one", "nope")
        done = cli.json_call("rm", "live", "one", str(other.id))
        assert done == {"deleted": 1, "ids": [one], "streams": [str(named.id), str(other.id)]}
        assert not client.list_streams()


def test_errors_of_values(cli: Cli, tmp_path: Path, parquet: Path) -> None:
    put(cli, 1, "taken")
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"nothing of the kind")
    assert "no name 'nope'" in cli.fails("get", "nope")
    assert "no name 'nope'" in cli.fails("rm", "taken", "nope")
    said = cli.fails("put", str(parquet), "--name", "taken")
    assert "is taken" in said
    assert "--overwrite moves it" in said
    assert "it is damaged, or of another format" in cli.fails("put", str(parquet), str(bad))
    assert "none.csv does not exist" in cli.fails("put", str(tmp_path / "none.csv"))
    assert "tell a format" in cli.fails("put", __file__)
    assert "--name" in cli.fails("put", str(parquet), "--overwrite", status=2)
    assert "--name is for one file" in cli.fails("put", "a", "b", "--name", "n", status=2)
    assert cli.json_call("ls")["total"] == 1


def test_put_that_does_not_fit(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "large.parquet"
    pq.write_table(pa.table({"zeros": np.zeros(4 << 20)}), path)
    with connect(cli.socket, autostart=False) as client:
        blob = client.create_blob(240 << 20)
        assert "no room for" in cli.fails("put", str(path))
        blob.drop()
    assert cli.json_call("ls")["total"] == 0


# ---- the program


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["frobnicate"])
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.startswith("vineyard-arrow 0.")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    def of(command: str) -> str:
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        return " ".join(capsys.readouterr().out.split())

    assert "Write the shared classes of a Python file" in of("codegen")
    assert all(
        ending in of(command) for command in ("put", "get") for ending in FORMATS.split(", ")
    )
    assert FORMATS.split(", ") == [e for endings in formats.FORMATS.values() for e in endings]
    assert PACKED.split(", ") == list(formats.PACKINGS)
    assert "one that is there is replaced" in of("get")
    assert "delete everything: objects, streams, blocks of shared memory" in of("rm")


def test_output_that_nobody_reads(cli: Cli) -> None:
    command = [*PROGRAM, "--socket", str(cli.socket), "ls", "--json"]
    ends = os.pipe()
    os.close(ends[0])
    with open(ends[1], "w") as closed:
        done = subprocess.run(
            command, stdout=closed, stderr=subprocess.PIPE, env=cli.env, check=False, timeout=30
        )
    assert (done.returncode, done.stderr) == (141, b"")


# ---- without processes


def test_plain_blocks() -> None:
    blocks = [
        Line("a\x1b"),
        Pairs([("k", "v")]),
        Bar(0.5, "half"),
        Grid(("A", ">B"), [("x", "10")]),
    ]
    assert plain(blocks).splitlines() == [
        "a\\x1b",
        "k  v",
        "[###############---------------] half",
        "A   B",
        "x  10",
    ]


def test_json_of_what_json_has_no_word_for() -> None:
    assert jsonable({"a": float("nan"), 1: (b"x", None)}) == {"a": "nan", "1": ["b'x'", None]}
    assert clean("a\nb") == "a\\nb"


def test_ranges() -> None:
    assert union([(10, 0), (0, 4), (4, 4)]) == [(0, 8)]
    found = {1: [(0, 10), (5, 10)], 2: [(10, 10)], 3: []}
    assert exclusive_nbytes(found) == ({1: 10, 2: 5, 3: 0}, 20)


def test_pids_of_deleted_of_nothing() -> None:
    class Status:
        clients = ()

    assert pids_of_deleted(Status(), []) == []  # type: ignore[arg-type]

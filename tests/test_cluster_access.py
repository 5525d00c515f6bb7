"""Daemons of an etcd that asks who they are: by password, by token of a login, by certificate."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from cluster_harness import SMALL, TABLE, agree, until
from conftest import QUICK_ETCD, Daemon

from vineyard_arrow.config import daemon_config
from vineyard_arrow.errors import (
    AccessDeniedError,
    ConfigError,
    MetadataUnavailableError,
    VineyardArrowError,
)
from vineyard_arrow.ipc.starter import child_environment
from vineyard_arrow.joining import open_cluster
from vineyard_arrow.metadata.etcd.backend import EtcdBackend
from vineyard_arrow.metadata.etcd.client import EtcdAddress, rpc
from vineyard_arrow.metadata.etcd.server import EtcdServers

CLUSTER = "guarded"
LEASE_S = 4  # of etcd's tokens 1: they end between keep-alives
WAIT_S = 60.0


def secret(folder: Path, name: str, text: str | bytes) -> str:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(0o600)
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Names of files with certificates: of the authority, of one that it signed, of strangers."""
    folder = tmp_path_factory.mktemp("certificates")
    made = {}
    for who in ("ours", "theirs"):
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        made[f"{who}-ca"] = secret(folder, f"{who}-ca", authority.cert_pem.bytes())
        made[f"{who}-cert"] = secret(folder, f"{who}-cert", issued.cert_chain_pems[0].bytes())
        made[f"{who}-key"] = secret(folder, f"{who}-key", issued.private_key_pem.bytes())
    made["garbage"] = secret(folder, "garbage", "this is no certificate")
    made["missing"] = str(folder / "missing")
    return made


@pytest.fixture(scope="module")
def encrypted(files: dict[str, str]) -> Iterator[EtcdServers]:
    """A server that shows a certificate, and wants one of its clients."""
    certificates = tuple(Path(files[f"ours-{kind}"]) for kind in ("ca", "cert", "key"))
    options = [*QUICK_ETCD, "--client-cert-auth", f"--trusted-ca-file={certificates[0]}"]
    with EtcdServers(options=options, certificates=certificates) as servers:
        yield servers


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServers]:
    """A server with users, whose tokens end after a second: ours may use one cluster alone."""
    with EtcdServers(options=[*QUICK_ETCD, "--auth-token-ttl=1"]) as servers:
        backend = EtcdBackend(servers.address)
        client, auth = backend.client, backend.client.auth_stub
        prefix = f"/vineyard/{CLUSTER}/".encode()
        permission = {"permType": 2, "key": prefix, "range_end": prefix[:-1] + b"0"}  # both ways
        calls = [(auth.RoleAdd, rpc.AuthRoleAddRequest(name=role)) for role in ("root", "ours")]
        calls.append(
            (
                auth.RoleGrantPermission,
                rpc.AuthRoleGrantPermissionRequest(name="ours", perm=permission),
            )
        )
        for user in ("root", "ours", "guest"):
            calls.append((auth.UserAdd, rpc.AuthUserAddRequest(name=user, password="right")))
        for name in ("root", "ours"):
            calls.append((auth.UserGrantRole, rpc.AuthUserGrantRoleRequest(user=name, role=name)))
        calls.append((auth.AuthEnable, rpc.AuthEnableRequest()))
        for method, request in calls:
            client.call(method, request, WAIT_S)
        backend.close()
        yield servers


def live(join: Callable[[], Daemon], backend: EtcdBackend, rounds: int) -> None:
    """A cluster's life: two instances, that do something after every few keep-alives."""
    client = backend.client

    def left_s(lease: int) -> int:
        request = rpc.LeaseTimeToLiveRequest(ID=lease)
        return client.call(client.leasestub.LeaseTimeToLive, request, WAIT_S).TTL

    with join().connect() as a, join().connect() as b:
        kept = a.put(TABLE, name="kept")
        a.persist(kept)
        until(lambda: b.exists(kept))
        lease = next(info.lease for info in a.instances() if info.number == a.instance)
        for _ in range(rounds):
            for _ in range(2):  # it runs down and is renewed
                until(lambda: 0 < left_s(lease) < LEASE_S - 1)
                until(lambda: left_s(lease) >= LEASE_S - 1)
            oid = a.put(TABLE)
            a.persist(oid)
            until(lambda oid=oid: b.exists(oid))
            a.delete(oid)
        assert not a.status().fenced
        assert not b.status().fenced
        agree([a, b], backend)


def test_a_password_is_good_for_the_whole_life(locked, make_daemon, connect_etcd, tmp_path) -> None:
    login = ("--meta-login-file", secret(tmp_path, "login", "ours:right\n"))
    meta = ("--meta", f"etcd://{locked.address}/{CLUSTER}", "--meta-lease-s", str(LEASE_S))
    root = EtcdAddress(
        locked.address.endpoints, login_file=Path(secret(tmp_path, "root", "root:right"))
    )
    # Its token ends several times meanwhile.
    live(lambda: make_daemon(*SMALL, *meta, *login), connect_etcd(root), 2)


def test_certificates_of_both_sides(encrypted, make_daemon, connect_etcd, files) -> None:
    options = ["--meta", f"etcd://{encrypted.address}/{CLUSTER}", "--meta-lease-s", str(LEASE_S)]
    for kind in ("ca", "cert", "key"):
        options += [f"--meta-{kind}-file", files[f"ours-{kind}"]]
    live(lambda: make_daemon(*SMALL, *options), connect_etcd(encrypted.address), 1)


def test_a_password_that_is_changed_is_read_anew(
    locked, make_daemon, connect_etcd, tmp_path
) -> None:
    path = tmp_path / "login"
    login = ("--meta-login-file", secret(tmp_path, "login", "ours:right"))
    root = EtcdAddress(
        locked.address.endpoints, login_file=Path(secret(tmp_path, "root", "root:right"))
    )
    backend = connect_etcd(root)

    def change(password: str) -> None:
        request = rpc.AuthUserChangePasswordRequest(name="ours", password=password)
        backend.client.call(backend.client.auth_stub.UserChangePassword, request, WAIT_S)

    where = f"etcd://{locked.address}/{CLUSTER}"
    with make_daemon(
        *SMALL, "--meta", where, "--meta-lease-s", str(LEASE_S), *login
    ).connect() as a:
        try:
            kept = a.put(TABLE)
            a.persist(kept)
            change("new")
            with pytest.raises(AccessDeniedError, match="authentication failed") as caught:
                a.persist(a.put(TABLE, name="late"))
            assert "--meta-login-file" in caught.value.hint
            assert a.get(kept) == TABLE
            assert not a.get_meta("late").persisted
            path.write_text("ours:new")
            a.persist(a.get_name("late"))
            agree([a], backend)
        finally:
            change("right")


# ---- who is refused


def refused(folder: Path, *options: str) -> str:
    """What `serve` says when it does not start: one line at last, and no traceback."""
    socket = folder / "refused"
    command = [sys.executable, "-m", "vineyard_arrow", "serve", "--socket", str(socket)]
    done = subprocess.run(
        [*command, *SMALL, *options],
        capture_output=True,
        text=True,
        timeout=100,
        env=child_environment(),
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert not socket.exists()
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("vineyard-arrow: ")
    assert "(hint: " in said
    assert "put and got" not in said  # nothing can be: it never started
    return said


def not_joined(folder: Path, where: str, **options: str) -> str:
    """What `open_cluster` raises, with its hint."""
    config = daemon_config(socket=str(folder / "refused"), meta=where, **options)
    with pytest.raises(VineyardArrowError) as caught, open_cluster(config):
        pass
    assert caught.value.hint
    return str(caught.value)


def test_a_start_that_is_refused_says_why_in_a_line(locked, encrypted, tmp_path, files) -> None:
    login = ("--meta-login-file", secret(tmp_path, "login", "ours:wrong"))
    said = refused(tmp_path, "--meta", f"etcd://{locked.address}/{CLUSTER}", *login)
    assert "authentication failed" in said
    ca = ("--meta-ca-file", files["theirs-ca"])
    said = refused(tmp_path, "--meta", f"etcd://{encrypted.address}/{CLUSTER}", *ca)
    assert "cannot join etcd://" in said


LOGINS = [
    ("login", "ours:wrong", "authentication failed", "--meta-login-file"),
    ("login", "nobody:right", "authentication failed", "--meta-login-file"),
    ("login", "guest:right", "permission denied", "grant this user the prefix"),
    ("login", "ours", "has no password", "user:password"),
    ("token", "made-up.1", "invalid auth token", "--meta-token-file"),
    (None, "", "user name is empty", "--meta-login-file"),
]


@pytest.mark.parametrize(("kind", "text", "message", "hint"), LOGINS)
def test_who_may_not_come_in(locked, tmp_path, kind, text, message, hint) -> None:
    more = {} if kind is None else {f"meta_{kind}_file": secret(tmp_path, "s", text)}
    said = not_joined(tmp_path, f"etcd://{locked.address}/{CLUSTER}", **more)
    assert message in said
    assert hint in said


def test_another_cluster_than_was_granted(locked, tmp_path) -> None:
    login = secret(tmp_path, "login", "ours:right")
    said = not_joined(tmp_path, f"etcd://{locked.address}/other", meta_login_file=login)
    assert "permission denied" in said
    assert "grant this user the prefix" in said


CERTIFICATES = [
    ({"ca": "theirs-ca"}, "CERTIFICATE_VERIFY_FAILED", "--meta-ca-file"),
    ({"ca": "ours-ca"}, "cannot join etcd://", "--meta-cert-file"),
    (
        {"ca": "ours-ca", "cert": "theirs-cert", "key": "theirs-key"},
        "cannot join etcd://",
        "--meta-cert-file",
    ),
    ({"ca": "ours-ca", "cert": "ours-cert", "key": "theirs-key"}, "no certificate and its key", ""),
    ({"ca": "garbage"}, "has no certificate", "BEGIN CERTIFICATE"),
    ({"ca": "missing"}, "cannot read", "--meta-*-file"),
]


@pytest.mark.parametrize(("given", "message", "hint"), CERTIFICATES)
def test_wrong_certificates(encrypted, tmp_path, files, given, message, hint) -> None:
    options = {f"meta_{kind}_file": files[of] for kind, of in given.items()}
    said = not_joined(tmp_path, f"etcd://{encrypted.address}/{CLUSTER}", **options)
    assert message in said
    assert hint in said


def test_a_certificate_of_another_host(encrypted, tmp_path, files) -> None:
    where = str(encrypted.address).replace("127.0.0.1", "localhost")
    options = {f"meta_{kind}_file": files[f"ours-{kind}"] for kind in ("ca", "cert", "key")}
    said = not_joined(tmp_path, f"etcd://{where}/{CLUSTER}", **options)
    assert "Hostname Verification" in said
    assert "--meta-ca-file" in said


def test_an_authority_for_an_etcd_without_certificates(etcd, connect_etcd, files) -> None:
    """At the first try; a start goes on trying, as an etcd that is not up yet looks like that."""
    client = connect_etcd(EtcdAddress(etcd.address.endpoints, Path(files["ours-ca"]))).client
    request = client.range_request(b"a", b"", 1, 0)
    with pytest.raises(MetadataUnavailableError) as caught:
        client.call(client.kvstub.Range, request, WAIT_S, retry=False)
    assert "an etcd without TLS wants no such files" in caught.value.hint


def test_wrong_certificates_are_refused_at_once_by_all_of_several(encrypted, files) -> None:
    """Long before the deadline, which fails the test by its own."""
    endpoints = 2 * encrypted.address.endpoints
    backend = EtcdBackend(EtcdAddress(endpoints, Path(files["theirs-ca"])))
    with pytest.raises(MetadataUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
        backend.range("a", timeout_s=1000.0)
    backend.close()


def test_errors_of_a_start_are_what_a_client_gets(
    locked, encrypted, make_daemon, tmp_path, files
) -> None:
    """The same, for who starts a daemon and waits for it."""
    login = ("--meta-login-file", secret(tmp_path, "wrong", "ours:wrong"))
    with pytest.raises(AccessDeniedError, match="authentication failed") as caught:
        make_daemon(*SMALL, "--meta", f"etcd://{locked.address}/{CLUSTER}", *login)
    assert "--meta-login-file" in caught.value.hint
    ca = ("--meta-ca-file", files["theirs-ca"])
    with pytest.raises(MetadataUnavailableError, match="cannot join") as caught:
        make_daemon(*SMALL, "--meta", f"etcd://{encrypted.address}/{CLUSTER}", *ca)
    assert "--meta-ca-file" in caught.value.hint
    empty = ("--meta-login-file", secret(tmp_path, "empty", "\n"))
    with pytest.raises(ConfigError, match="is empty"):
        make_daemon(*SMALL, "--meta", f"etcd://{locked.address}/{CLUSTER}", *empty)

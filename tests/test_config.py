"""Where each setting comes from, and what is said about one that is wrong."""

import os
from pathlib import Path

import pytest

from vineyard_arrow import config
from vineyard_arrow.config import ClientConfig, DaemonConfig, client_config, daemon_config
from vineyard_arrow.errors import ConfigError
from vineyard_arrow.machine import total_memory


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A user without settings, whose runtime and configuration folders are under tmp_path."""
    for name in [name for name in os.environ if name.startswith("VINEYARD_ARROW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def write_file(place, text):
    path = place / "config" / "vineyard-arrow" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_defaults(place):
    socket = place / "vineyard-arrow.sock"
    assert daemon_config() == DaemonConfig(socket=socket)
    assert client_config(timeout_s=None) == ClientConfig(socket=socket)
    assert daemon_config().max_objects == 1 << 20
    assert client_config().timeout_s == 30


def test_arguments_before_environment_before_file(place, monkeypatch):
    write_file(place, 'pages = "small"\nmax_objects = 7\nidle_trim_s = 0\nautostart = false\n')
    monkeypatch.setenv("VINEYARD_ARROW_PAGES", "huge")
    monkeypatch.setenv("VINEYARD_ARROW_MAX_OBJECTS", "8")
    monkeypatch.setenv("VINEYARD_ARROW_LOG_LEVEL", "")
    daemon = daemon_config(max_objects=9)
    assert (daemon.max_objects, daemon.pages, daemon.idle_trim_s) == (9, "huge", 0.0)
    assert daemon.log_level == "INFO"
    assert client_config().autostart is False


def test_the_file_can_be_named(place, monkeypatch):
    write_file(place, 'pages = "small"')
    other = place / "other.toml"
    other.write_text('pages = "huge"')
    monkeypatch.setenv("VINEYARD_ARROW_CONFIG", str(other))
    assert daemon_config().pages == "huge"
    other.unlink()
    with pytest.raises(ConfigError, match=r"other\.toml.*VINEYARD_ARROW_CONFIG.*not exist"):
        daemon_config()


def test_a_changed_file_is_seen(place):
    path = write_file(place, "timeout_s = 1")
    assert client_config().timeout_s == 1
    path.write_text("timeout_s = 2")
    assert client_config().timeout_s == 2
    path.unlink()
    assert client_config().timeout_s == 30


@pytest.mark.parametrize("text", ["pages = ", b"\xff", "[daemon]\npages = 'huge'", "page = 1"])
def test_a_bad_file_is_named(place, text):
    path = write_file(place, "")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=r"config\.toml"):
        client_config()


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("memory_limit", "4GiB", 4 << 30),
        ("memory_limit", "512MB", 512_000_000),
        ("memory_limit", 12345, 12345),
        ("memory_limit", "50%", total_memory() // 2),
        ("group", "root", 0),
        ("group", "12", 12),
        ("log_level", "debug", "DEBUG"),
        ("log_format", "json", "json"),
        ("log_file", "/var/log/x", Path("/var/log/x")),
        ("log_file", "~root/x", Path(os.path.expanduser("~root/x"))),
        ("socket", "s.sock", Path.cwd() / "s.sock"),
        ("pages", "small", "small"),
        ("idle_trim_s", "1.5", 1.5),
        ("max_objects", "100", 100),
    ],
)
def test_daemon_values(name, raw, value):
    extra = {"mode": "0660", "socket": "/run/x"} if name == "group" else {}
    assert getattr(daemon_config(**{name: raw}, **extra), name) == value


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("memory_limit", "lots"),
        ("memory_limit", "0"),
        ("memory_limit", "0%"),
        ("memory_limit", "101%"),
        ("memory_limit", "nan%"),
        ("memory_limit", "-1"),
        ("mode", "0777"),
        ("group", "no such group"),
        ("log_level", "loud"),
        ("log_format", "xml"),
        ("pages", "tiny"),
        ("idle_trim_s", "-1"),
        ("idle_trim_s", "inf"),
        ("max_objects", "0"),
        ("max_objects", "1.5"),
        ("socket", "/" + "x" * 107),
    ],
)
def test_wrong_values_name_setting_origin_and_what_is_allowed(place, monkeypatch, name, raw):
    variable = f"VINEYARD_ARROW_{name.upper()}"
    origins = [
        (f"argument {name}", {name: raw}, ("", ""), ""),
        (f"environment variable {variable}", {}, (variable, raw), ""),
        (rf"config\.toml: {name}", {}, ("", ""), f'{name} = "{raw}"'),
    ]
    for origin, arguments, (key, value), text in origins:
        write_file(place, text)
        with monkeypatch.context() as patch:
            if key:
                patch.setenv(key, value)
            with pytest.raises(ConfigError, match=rf"^setting {name} is .*{origin}.*allowed: \S"):
                daemon_config(**arguments)


@pytest.mark.parametrize("raw", [0, "0", -1, True, "soon", [], float("nan")])
def test_wrong_timeouts(raw):
    with pytest.raises(ConfigError, match="above 0"):
        client_config(timeout_s=raw)


@pytest.mark.parametrize(
    ("raw", "value"), [("1", True), ("No", False), (True, True), ("off", False)]
)
def test_switches(raw, value):
    assert client_config(autostart=raw).autostart is value
    with pytest.raises(ConfigError, match="true or false"):
        client_config(autostart="perhaps")


def test_wrong_types_from_a_file(place):
    for text in ("socket = 5", "memory_limit = 1.5", "pages = 1", "max_objects = true"):
        write_file(place, text)
        with pytest.raises(ConfigError, match="allowed"):
            daemon_config()


def test_an_unknown_argument_is_a_programming_error():
    with pytest.raises(TypeError, match="'sockets'"):
        client_config(sockets="x")


def test_group_access_needs_group_and_a_reachable_socket(place):
    with pytest.raises(ConfigError, match="needs a group"):
        daemon_config(mode="0660", socket=place / "s")
    with pytest.raises(ConfigError, match="needs a socket outside"):
        daemon_config(mode="0660", group="root")
    with pytest.raises(ConfigError, match="no effect"):
        daemon_config(group="root")
    assert daemon_config(mode="0660", group="root", socket=place / "s").group == 0


class TestSocketInTmp:
    """The folder in /tmp, for those without $XDG_RUNTIME_DIR: here moved under tmp_path."""

    @pytest.fixture
    def folder(self, place, monkeypatch):
        monkeypatch.delenv("XDG_RUNTIME_DIR")
        monkeypatch.setattr(config, "TMP", place)
        return place / f"vineyard-arrow-{os.geteuid()}"

    def test_the_daemon_makes_it_private(self, folder):
        assert client_config().socket == folder / "store.sock"
        assert not folder.exists()
        assert daemon_config().socket == folder / "store.sock"
        assert folder.stat().st_mode & 0o777 == 0o700
        assert daemon_config().socket == client_config().socket

    @pytest.mark.parametrize("resolve", [daemon_config, client_config])
    def test_a_link_a_file_or_an_open_folder_is_refused(self, folder, place, resolve):
        (place / "mine").mkdir(mode=0o700)
        folder.symlink_to(place / "mine")
        with pytest.raises(ConfigError, match="only this user"):
            resolve()
        folder.unlink()
        folder.touch(mode=0o600)
        with pytest.raises(ConfigError, match="only this user"):
            resolve()
        folder.unlink()
        folder.mkdir()
        folder.chmod(0o770)
        with pytest.raises(ConfigError, match=r"drwxrwx---"):
            resolve()
        assert resolve(socket="/run/own").socket == Path("/run/own")

    def test_another_users_folder_is_refused(self, folder, monkeypatch):
        folder.mkdir(mode=0o700)
        uid = os.geteuid()
        theirs = folder.with_name(f"vineyard-arrow-{uid + 1}")
        theirs.mkdir(mode=0o700)
        monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
        with pytest.raises(ConfigError, match=f"of user {uid}"):
            daemon_config()

    def test_a_runtime_folder_that_is_missing_or_not_ours_is_not_used(self, folder, monkeypatch):
        for runtime in ("relative", "/nonexistent", "/" + "x" * 200, "/proc/self/exe"):
            monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
            assert client_config().socket == folder / "store.sock"

"""The files in deploy/ are well formed, and name only what this version has.

No engine for containers runs here: what the Dockerfile does with the package is done in an
environment of the test's own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from vineyard_arrow import config
from vineyard_arrow.cli.parser import build_parser
from vineyard_arrow.ipc import mounts
from vineyard_arrow.machine import parse_size

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "vineyard-arrow.service"
DOCKERFILE = DEPLOY / "Dockerfile"
COMPOSE = DEPLOY / "compose.yaml"
DAEMONSET = DEPLOY / "kubernetes" / "daemonset.yaml"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
METRICS = "/metrics"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
SETTINGS = {
    field.name for cls in (config.DaemonConfig, config.ClientConfig) for field in fields(cls)
}


def documents(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each is not None]


def services() -> dict[str, Any]:
    return documents(COMPOSE)[0]["services"]


def instances() -> dict[str, Any]:
    return {name: each for name, each in services().items() if name.startswith("instance-")}


def pod(path: Path) -> dict[str, Any]:
    workload = documents(path)[-1]
    return workload["spec"].get("template", workload)["spec"]


def commands() -> dict[str, list[str]]:
    """All command lines of ours, without the program's name."""
    text = DOCKERFILE.read_text()
    found = {"Dockerfile": re.findall(r'"([^"]*)"', re.search(r"^CMD \[(.*)\]$", text, re.M)[1])}
    found |= {f"compose: {name}": each["command"] for name, each in instances().items()}
    found["daemonset"] = pod(DAEMONSET)["containers"][0]["args"]
    unit = re.search(r"^ExecStart=\S*/vineyard-arrow (.*)$", UNIT.read_text(), re.M)
    found["unit"] = unit[1].split()
    return found


# ---- what the files name is there


@pytest.mark.parametrize("where", commands())
def test_every_option_is_one_of_the_parser(where: str) -> None:
    arguments = [each.replace("$(POD_IP)", "10.0.0.1") for each in commands()[where]]
    parsed = build_parser().parse_args(arguments)
    assert parsed.command == "serve"


@pytest.mark.parametrize("where", commands())
def test_every_setting_has_a_value_that_is_allowed(where: str, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("VINEYARD_ARROW_SOCKET", str(tmp_path / "s"))
    monkeypatch.setenv("VINEYARD_ARROW_CONFIG", "")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    arguments = [each.replace("$(POD_IP)", "10.0.0.1") for each in commands()[where]]
    parsed = vars(build_parser().parse_args(arguments))
    config.daemon_config(**{k: v for k, v in parsed.items() if k in SETTINGS})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_variable_is_one_of_a_setting(path: Path) -> None:
    used = {name.lower() for name in re.findall(r"VINEYARD_ARROW_([A-Z_]+)", path.read_text())}
    assert used <= SETTINGS | {"config"}


def test_the_configuration_file_has_settings_only(tmp_path, monkeypatch) -> None:
    text = (DEPLOY / "systemd" / "config.toml").read_text()
    assert tomllib.loads(text)["mode"] == "0660"
    # With what is commented out, too.
    text = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.M)
    # This machine has another group.
    text = text.replace('"vineyard-arrow"', f'"{os.getgid()}"')
    file = tmp_path / "config.toml"
    file.write_text(text)
    monkeypatch.setenv("VINEYARD_ARROW_CONFIG", str(file))
    for name in SETTINGS:
        monkeypatch.delenv(f"VINEYARD_ARROW_{name.upper()}", raising=False)
    assert config.daemon_config().rpc == ("node-1.example", 7070)


# ---- systemd


def systemd(*arguments: object) -> str:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not on this machine")
    done = subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def here(tmp_path: Path) -> Path:
    """The unit with a program that this machine has."""
    copy = tmp_path / UNIT.name
    copy.write_text(re.sub(r"(?m)^(ExecStart=)\S+", rf"\g<1>{sys.executable}", UNIT.read_text()))
    return copy


def test_systemd_takes_the_unit(tmp_path) -> None:
    systemd("verify", here(tmp_path))


def test_the_unit_is_hardened(tmp_path) -> None:
    said = systemd("security", "--offline=true", here(tmp_path))
    assert float(re.search(r"exposure level for \S+: ([\d.]+)", said)[1]) <= 2.5


def test_the_unit_lets_the_helper_make_huge_pages() -> None:
    """What `ipc.mounts` calls is allowed, and the namespaces that it enters."""
    text = UNIT.read_text()
    assert set(re.search(r"(?m)^RestrictNamespaces=(.*)$", text)[1].split()) == {"user", "mnt"}
    allowed: set[str] = set()
    for line in re.findall(r"(?m)^SystemCallFilter=(.*)$", text):
        names = expand(line.lstrip("~").split())
        allowed = allowed - names if line.startswith("~") else allowed | names
    used = {name[1:].lower() for name in vars(mounts) if re.fullmatch(r"_[A-Z]+(_[A-Z]+)?", name)}
    used &= expand(["@mount"])
    assert {"fsopen", "fsconfig", "fsmount", "open_tree", "mount_setattr"} <= used
    assert used | {"mount", "unshare", "memfd_create", "mprotect", "sendmsg"} <= allowed
    assert not {"umount2", "pivot_root", "ptrace", "setuid", "bpf"} & allowed


def expand(names: list[str]) -> set[str]:
    """System calls, and those of groups."""
    found: set[str] = set()
    for name in names:
        if name.startswith("@"):
            lines = [line.strip() for line in systemd("syscall-filter", name).splitlines()[1:]]
            found |= expand([line for line in lines if line and not line.startswith("#")])
        else:
            found.add(name)
    return found


# ---- containers


def test_compose_has_a_majority_and_limits_that_hold() -> None:
    etcds = {name: each for name, each in services().items() if name.startswith("etcd-")}
    assert len(etcds) == 3
    for name, each in etcds.items():
        environment = each["environment"]
        assert environment["ETCD_NAME"] == name
        assert f"{name}=http://{name}:2380" in environment["ETCD_INITIAL_CLUSTER"].split(",")
    assert len(instances()) >= 2
    for each in instances().values():
        limit = next(a.partition("=")[2] for a in each["command"] if "memory-limit" in a)
        own = parse_size(each["mem_limit"].replace("m", "MiB")) - parse_size(limit)
        assert own >= 512 << 20
        assert each["healthcheck"]["test"] == ["CMD", "vineyard-arrow", "status"]
        host, _, port = each["environment"]["VINEYARD_ARROW_RPC"].rpartition(":")
        assert (host, port) == (each["hostname"], "7070")
        assert each["ulimits"]["nofile"] >= 65536
        assert set(each["depends_on"]) == set(etcds)
    (mount,) = services()["client"]["volumes"]
    assert mount in services()["instance-1"]["volumes"]


def test_compose_names_what_it_has() -> None:
    (text,) = documents(COMPOSE)
    for each in text["services"].values():
        for volume in each["volumes"]:
            assert volume.partition(":")[0] in text["volumes"]
        assert set(each.get("networks", [])) <= set(text["networks"])
        assert set(each.get("secrets", [])) <= set(text["secrets"])
        assert set(each.get("depends_on", {})) <= set(text["services"])


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_of_kubernetes(path: Path) -> None:
    for document in documents(path):
        if document["kind"] == "ServiceMonitor":  # of the operator
            continue
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


# ---- dashboards and metrics


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_pods_are_scraped_where_they_show_themselves() -> None:
    template = documents(DAEMONSET)[-1]["spec"]["template"]
    container = template["spec"]["containers"][0]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    options = dict(each.partition("=")[::2] for each in container["args"])
    assert options["--dashboard-open"] == "true"
    assert port_of(options["--dashboard"]) == ports["dashboard"]
    assert options["--dashboard"].startswith("$(POD_IP):")  # requests must name an address
    assert port_of(options["--rpc"]) == ports["rpc"]
    told = template["metadata"]["annotations"]
    assert told["prometheus.io/scrape"] == "true"
    assert int(told["prometheus.io/port"]) == ports["dashboard"]
    assert told["prometheus.io/path"] == METRICS


def test_the_operator_finds_every_instance() -> None:
    template = documents(DAEMONSET)[-1]["spec"]["template"]
    pods = template["metadata"]["labels"].items()
    names = {each["name"] for each in template["spec"]["containers"][0]["ports"]}
    service, policy, monitor = documents(DEPLOY / "kubernetes" / "monitoring.yaml")
    assert service["spec"]["selector"].items() <= pods
    assert {each["targetPort"] for each in service["spec"]["ports"]} <= names
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["spec"].keys() == {"selector", "endpoints"}
    assert (
        monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    )
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint.keys() == {"port", "path", "interval"}
    assert endpoint["port"] in {each["name"] for each in service["spec"]["ports"]}
    assert endpoint["path"] == METRICS
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pods
    open_to = {rule["ports"][0]["port"]: "from" in rule for rule in policy["spec"]["ingress"]}
    assert open_to == {"rpc": False, "dashboard": True}
    for each in (service, policy, monitor):
        assert each["metadata"]["namespace"] == documents(DAEMONSET)[-1]["metadata"]["namespace"]


def test_compose_shows_dashboards_to_this_machine_alone(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("VINEYARD_ARROW_CONFIG", "")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    published = []
    for name, each in instances().items():
        for key, value in each["environment"].items():
            monkeypatch.setenv(key, value)
        found = config.daemon_config(rpc_open=True)
        assert found.dashboard == (name, 8080)
        assert found.dashboard_open
        (port,) = each["ports"]
        address, outer, inner = port.split(":")
        assert (address, inner) == ("127.0.0.1", "8080")
        published.append(outer)
    assert len(set(published)) == len(published)
    (scraped,) = documents(DEPLOY / "prometheus.yaml")[0]["scrape_configs"]
    assert scraped["static_configs"] == [{"targets": [f"{name}:8080" for name in instances()]}]
    file = documents(COMPOSE)[0]["configs"]["prometheus"]["file"]
    assert (DEPLOY / file).exists()


def test_by_default_nothing_is_shown(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("VINEYARD_ARROW_CONFIG", "")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config.daemon_config().dashboard is None
    with pytest.raises(config.ConfigError):
        config.daemon_config(dashboard="10.0.0.1:8080")  # not by mistake


def test_the_schema_refuses_a_misspelt_field() -> None:
    workload = documents(DAEMONSET)[-1]
    workload["spec"]["template"]["spec"]["containers"][0]["resorces"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(workload, kubernetes_validate.latest_version(), strict=True)


def test_pods_can_share_memory_within_their_limits() -> None:
    daemon, client = pod(DAEMONSET), pod(DEPLOY / "kubernetes" / "client.yaml")
    container = daemon["containers"][0]
    limit = next(a.partition("=")[2] for a in container["args"] if "memory-limit" in a)
    memory = container["resources"]["limits"]["memory"]
    assert parse_size(f"{memory}B") >= parse_size(limit) + (1 << 30)
    assert container["resources"]["requests"]["memory"] == memory
    for each in (daemon, client):
        assert each["securityContext"]["runAsGroup"] == 10001
        assert each.get("hostUsers", True)
        paths = [v["hostPath"]["path"] for v in each["volumes"] if "hostPath" in v]
        assert paths == ["/run/vineyard-arrow"]


def test_hadolint_finds_nothing() -> None:
    tool = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    done = subprocess.run([tool, DOCKERFILE], capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_dockerfile_copies_is_there() -> None:
    copied = re.search(r"(?m)^COPY (?!--)(.*) \./$", DOCKERFILE.read_text())[1].split()
    sent = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for name in [*copied, "vineyard_arrow"]:
        assert (ROOT / name).exists()
        assert f"!{name}" in sent


# ---- the image's package


def test_the_wheel_is_whole(tmp_path) -> None:
    """As in the image: a wheel of what is copied, installed elsewhere, runs an instance.

    The native modules are those that were built here: compiling them takes minutes.
    """
    source, target = tmp_path / "src", tmp_path / "site"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "vineyard_arrow",
        source / "vineyard_arrow",
        ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.cpp"),
    )
    if (ROOT / "build" / "cython").exists():
        shutil.copytree(ROOT / "build" / "cython", source / "build" / "cython")
    later = time.time() + 3600
    platform = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    for built in (ROOT / "vineyard_arrow").rglob("_*.so"):
        folder = source / "build" / f"lib.{platform}" / built.parent.relative_to(ROOT)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(built, folder)
        os.utime(folder / built.name, (later, later))  # later than what it was made of
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    quick = ["--no-deps", "--no-index", "-q"]
    wheel = [*pip, "wheel", *quick, "--no-build-isolation", "-w", str(tmp_path), str(source)]
    run(wheel)
    (made,) = tmp_path.glob("vineyard_arrow-*.whl")
    run([*pip, "install", *quick, "--target", str(target), str(made)])
    env = os.environ | {"PYTHONPATH": str(target), "VINEYARD_ARROW_SOCKET": str(tmp_path / "s")}
    where = "import vineyard_arrow as v; print(v.__file__, v.get_include())"
    assert run([sys.executable, "-c", where], env, tmp_path).count(str(target)) == 2
    script = target / "bin" / "vineyard-arrow"
    run([script, "start", "--memory-limit", "64MiB", "--pages", "small"], env, tmp_path)
    try:
        assert "memfd" in run([script, "status"], env, tmp_path)
    finally:
        run([script, "stop"], env, tmp_path)
    assert (target / "vineyard_arrow" / "metadata" / "etcd" / "rpc.binpb").exists()


def run(command: list[object], env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(each) for each in command],
        capture_output=True,
        text=True,
        timeout=150,  # pip, on a busy machine
        env=env,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

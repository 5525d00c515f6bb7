"""The dashboard in a real browser: what it shows, of a dead daemon and of a cluster too."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from chromium import Chromium, Page, pixels
from cluster_harness import LEASE_S, heard, persisted, rows, until
from conftest import Daemon, run_daemon
from test_dashboard import OPTIONS, answers, client, shown  # noqa: F401  # fixtures

from vineyard_arrow.client import Client
from vineyard_arrow.metadata.etcd.server import EtcdServers

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
OBJECTS = "document.querySelectorAll('#objects tbody tr').length"
NONE = "\N{EN DASH}"
ALERT = "!document.getElementById('alert').hidden"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    path = os.environ.get("VINEYARD_CHROMIUM")
    assert path, "VINEYARD_CHROMIUM must name a Chromium: make test-browser says how"
    browser = Chromium(path, tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


def page_of(chromium: Chromium, daemon: Daemon, **options: object) -> Page:
    return chromium.open(f"http://{daemon.status().dashboard}/", **options)  # type: ignore[arg-type]


def test_names_are_shown_as_text(shown: Daemon, client: Client, chromium: Chromium) -> None:  # noqa: F811
    client.put(pa.table({"x": [1]}), name="a table of mine")
    client.put(pa.table({"x": [1]}), name=HOSTILE)
    page = page_of(chromium, shown)
    page.until(f"{OBJECTS} === 2")
    assert sorted(page.texts("#objects td:first-child")) == [HOSTILE, "a table of mine"]
    assert page.value("document.querySelectorAll('img').length") == 0
    assert page.value("document.title") == "vineyard-arrow"


def test_an_empty_store_says_how_to_begin(
    shown: Daemon,  # noqa: F811
    client: Client,  # noqa: F811
    chromium: Chromium,
) -> None:
    page = page_of(chromium, shown)
    page.until("!document.getElementById('empty').hidden")
    assert str(shown.socket) in page.texts("#how")[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_looks_like_something(
    shown: Daemon,  # noqa: F811
    client: Client,  # noqa: F811
    chromium: Chromium,
    scheme: str,
) -> None:
    for i in range(5):
        client.put(np.zeros(1_000_000), name=f"tensor {i}")
    page = page_of(chromium, shown, scheme=scheme)
    page.until(f"{OBJECTS} === 5")

    def looks_right() -> bool:
        image = pixels(page.screenshot())[:, :, :3].reshape(-1, 3).astype(int)
        assert (np.median(image) > 128) == (scheme == "light")
        colours, counts = np.unique(image, axis=0, return_counts=True)
        bright = colours.max(axis=1) - colours.min(axis=1) > 40
        # Five objects, each in a colour of its own, on strips of many pixels.
        return (bright & (counts > 300)).sum() >= 5

    until(looks_right)  # figures of memory may be those of just before the last put


def test_nothing_reaches_out_of_a_narrow_window(
    shown: Daemon,  # noqa: F811
    client: Client,  # noqa: F811
    chromium: Chromium,
) -> None:
    client.put(np.zeros(15_000_000), name="a_long_name_without_any_blank_" * 8)
    page = page_of(chromium, shown, width=360, height=700)
    page.until(f"{OBJECTS} === 1")
    page.until("document.querySelector('.card b').innerText === '114 MiB'")
    assert page.value("document.documentElement.scrollWidth") <= 360
    widths = "[...document.querySelectorAll('.card b')].map(e => [e.scrollWidth, e.clientWidth])"
    assert [each for each in page.value(widths) if each[0] > each[1]] == []


def test_a_dead_daemon_is_told_and_the_next_one_shown(
    folder: Path, make_daemon: Callable[..., Daemon], chromium: Chromium
) -> None:
    daemon = make_daemon(*OPTIONS)
    place = daemon.status().dashboard
    with daemon.connect() as client:  # noqa: F811
        client.put(pa.table({"x": [1]}), name="kept on the page")
    page = page_of(chromium, daemon)
    page.until(f"{OBJECTS} === 1")
    assert not page.value(ALERT)
    daemon.kill()
    page.until(ALERT)
    (said,) = page.texts("#alert")
    assert "does not answer" in said
    assert "last said" in said
    assert page.texts("#objects td:first-child") == ["kept on the page"]
    assert page.value("getComputedStyle(document.querySelector('main')).opacity") == "0.5"

    until(lambda: not answers(f"http://{place}/"))
    heir = run_daemon(folder, "heir", *OPTIONS[:-1], place)
    try:
        page.until(f"!({ALERT})")
        page.until("!document.getElementById('empty').hidden")
        page.until("document.getElementById('who').textContent.includes('heir')")
    finally:
        heir.stop()


def test_a_cluster(
    etcd: EtcdServers, make_daemon: Callable[..., Daemon], chromium: Chromium
) -> None:
    meta = ("--meta", f"etcd://{etcd.address}/browser", "--meta-lease-s", LEASE_S)
    first, second = make_daemon(*OPTIONS, *meta), make_daemon(*OPTIONS[:-2], *meta)
    with first.connect() as a, second.connect() as b:
        here, there = persisted(a, rows(0, 10)), persisted(b, rows(10, 20))
        heard(a, there)
        whole = a.create_global([here, there], name="whole").id
        a.put_name(there, "elsewhere")
        page = page_of(chromium, first)
        page.until("document.querySelectorAll('#globals tbody tr').length === 2")
        numbers = {f"{a.instance:06x} (this)", f"{b.instance:06x}"}
        assert set(page.texts("#instances td:first-child")) == numbers
        assert page.texts("#cluster-note")[0].endswith("2 instances")
        shown = {
            name: (size, members, missing, key)
            for name, _, size, members, missing, key in (
                row.split("\t") for row in page.texts("#globals tbody tr")
            )
        }
        assert shown["whole"] == ("480 B", "2", NONE, str(whole))
        assert shown["elsewhere"] == ("320 B", "0", NONE, str(there))
        assert [row.split("\t")[-1] for row in page.texts("#objects tbody tr")] == [str(here)]
        second.kill()
        page.until("document.querySelectorAll('#instances tbody tr').length === 1")
        missing = "[...document.querySelectorAll('#globals td.bad')].map(e => e.innerText)"
        page.until(f"{missing}.length === 1")
        assert page.value(missing) == [str(there)]
        a.delete(whole)

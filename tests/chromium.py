"""A Chromium without a window, driven over its DevTools protocol by two pipes."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import signal
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

DEADLINE_S = 120.0  # of one answer, and of what a page is waited for


class Chromium:
    """A browser process with a profile of its own in ``folder``."""

    def __init__(self, program: str, folder: Path) -> None:
        pipes = [_high(fd) for pair in (os.pipe(), os.pipe()) for fd in pair]
        theirs_in, self._out, self._in, theirs_out = pipes
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        flags += [f"--user-data-dir={folder}/profile", "--no-first-run", "about:blank"]
        quiet = os.open(os.devnull, os.O_RDWR)
        actions = [(os.POSIX_SPAWN_DUP2, fd, at) for fd, at in ((quiet, 1), (quiet, 2))]
        actions += [(os.POSIX_SPAWN_DUP2, theirs_in, 3), (os.POSIX_SPAWN_DUP2, theirs_out, 4)]
        self._pid = os.posix_spawn(
            program, [program, *flags], os.environ, file_actions=actions, setsid=True
        )
        for fd in (quiet, theirs_in, theirs_out):
            os.close(fd)
        self._asked, self._read = 0, b""
        self._target: str | None = None

    def open(self, url: str, width: int = 800, height: int = 500, scheme: str = "light") -> Page:
        """A page, instead of the last; ``scheme`` is ``light`` or ``dark``, sizes are pixels."""
        if self._target is not None:  # beside another it would be hidden, or hide it
            self.call("Target.closeTarget", targetId=self._target)
        self._target = self.call("Target.createTarget", url="about:blank")["targetId"]
        found = self.call("Target.attachToTarget", targetId=self._target, flatten=True)
        page = Page(self, found["sessionId"])
        page.resize(width, height)
        wanted = {"name": "prefers-color-scheme", "value": scheme}
        page.call("Emulation.setEmulatedMedia", features=[wanted])
        page.call("Page.navigate", url=url)
        page.until("location.href !== 'about:blank' && document.readyState === 'complete'")
        return page

    def call(self, method: str, session: str | None = None, **params: Any) -> Any:
        """Ask, and wait for the answer."""
        self._asked += 1
        message = {"id": self._asked, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (reply := self._hear()).get("id") != self._asked:
            pass  # events
        assert "error" not in reply, (method, reply)
        return reply["result"]

    def _hear(self) -> Any:
        while b"\0" not in self._read:
            assert select.select([self._in], [], [], DEADLINE_S)[0], "Chromium does not answer"
            more = os.read(self._in, 1 << 20)
            assert more, "Chromium has ended"
            self._read += more
        line, _, self._read = self._read.partition(b"\0")
        return json.loads(line)

    def close(self) -> None:
        os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._in)
        os.close(self._out)


class Page:
    """A page of a browser; made by `Chromium.open`."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser, self._session = browser, session

    def call(self, method: str, **params: Any) -> Any:
        return self._browser.call(method, self._session, **params)

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def value(self, script: str) -> Any:
        """What an expression of JavaScript gives."""
        reply = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def until(self, script: str) -> Any:
        """Wait until an expression is true; what it gives then."""
        deadline = time.monotonic() + DEADLINE_S
        while not (found := self.value(script)):
            assert time.monotonic() < deadline, f"never true: {script}\n{self.texts('body')}"
            time.sleep(0.05)
        return found

    def texts(self, selector: str) -> list[str]:
        """What is written in all elements of a selector."""
        out = self.value(f"[...document.querySelectorAll({selector!r})].map(e => e.innerText)")
        assert isinstance(out, list)
        return out

    def screenshot(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])


def pixels(png: bytes) -> np.ndarray[Any, Any]:
    """Those of an image as Chromium writes it, of shape (height, width, 3 or 4)."""
    data, at = b"", 8
    while at < len(png):
        nbytes, kind = struct.unpack_from(">I4s", png, at)
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack_from(">IIBB", png, at + 8)
        elif kind == b"IDAT":
            data += png[at + 8 : at + 8 + nbytes]
        at += nbytes + 12
    assert depth == 8
    n = {2: 3, 6: 4}[colour]
    rows, above, raw = [], bytearray(width * n), zlib.decompress(data)
    for y in range(height):
        kind, *row = raw[y * (width * n + 1) : (y + 1) * (width * n + 1)]
        for x in range(width * n):
            left, up, corner = (row[x - n], above[x], above[x - n]) if x >= n else (0, above[x], 0)
            nearest = min((left, up, corner), key=lambda v: abs(left + up - corner - v))
            row[x] = (row[x] + (0, left, up, (left + up) // 2, nearest)[kind]) & 255
        above = bytearray(row)
        rows.append(above)
    return np.frombuffer(b"".join(rows), np.uint8).reshape(height, width, n)


def _high(fd: int) -> int:
    """The same, but not among those that the browser's will be."""
    out = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(fd)
    return out

"""Headless Chromium for the tests of pages, through its DevTools protocol.

`python tests/chromium_harness.py report.html PICTURE.png [WIDTH [HEIGHT [dark]]]` takes a picture
of a report, the whole of it without a height.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

SECONDS = 60
"""How long to wait for the browser, also on a busy machine."""


def find_chromium() -> str | None:
    """The browser's command; None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


class Chromium:
    """A browser with one page; all that the page says and asks for is kept in `events`."""

    def __init__(self, home: Path) -> None:
        command = [
            find_chromium() or "chromium",
            "--headless",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
            "--disable-background-networking",
            "--remote-debugging-port=0",
            f"--user-data-dir={home / 'profile'}",
            "about:blank",
        ]
        if os.geteuid() == 0:
            command.insert(1, "--no-sandbox")
        self.process = subprocess.Popen(
            command,
            env=os.environ | {"HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.events: list[dict[str, Any]] = []
        self.loop = asyncio.new_event_loop()
        self.last_id = 0
        self.page: str | None = None
        try:
            self.loop.run_until_complete(self._connect(home / "profile" / "DevToolsActivePort"))
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            attach = self.call("Target.attachToTarget", targetId=target, flatten=True)
            self.page = attach["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    async def _connect(self, ready: Path) -> None:
        deadline = time.monotonic() + SECONDS
        while not (ready.exists() and ready.read_text().count("\n")):
            assert self.process.poll() is None, "chromium ended as it started"
            assert time.monotonic() < deadline, "chromium does not listen"
            await asyncio.sleep(0.02)
        port, path = ready.read_text().split("\n")[:2]
        self.session = aiohttp.ClientSession()
        self.socket = await self.session.ws_connect(
            f"ws://127.0.0.1:{port}{path}", max_msg_size=0, compress=0
        )

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command; what happens meanwhile goes to `events`."""
        return self.loop.run_until_complete(
            asyncio.wait_for(self._call(method, parameters), SECONDS)
        )

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self.last_id += 1
        message: dict[str, Any] = {"id": self.last_id, "method": method, "params": parameters}
        if self.page is not None:
            message["sessionId"] = self.page
        await self.socket.send_json(message)
        while True:
            answer = await self.socket.receive_json()
            if answer.get("id") == self.last_id:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            if "method" in answer:
                self.events.append(answer)

    def open(self, path: Path, ready: str, width: int = 1280, height: int = 900) -> None:
        """Open a file and wait until the script expression `ready` is true."""
        self.events.clear()
        self.resize(width, height)
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait_for(f"location.protocol === 'file:' && ({ready})")

    def resize(self, width: int, height: int = 900) -> None:
        """Give the page another size."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def darken(self, dark: bool) -> None:
        """Prefer dark colours, or light ones."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page, awaited if it is a promise."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, script: str) -> None:
        """Return as soon as an expression in the page is true; fail if it never is."""
        deadline = time.monotonic() + SECONDS
        while not self.evaluate(f"Boolean({script})"):
            assert time.monotonic() < deadline, f"waited in vain for {script}: {self.complaints()}"
            time.sleep(0.02)

    def move(self, x: float, y: float) -> None:
        """Move the mouse to a point of the window, by way of one beside it."""
        for step in (3, 0):
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + step, y=y + step)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse at a point of the window, move it to another and let it go."""
        for kind, (x, y) in (
            ("mousePressed", start),
            ("mouseMoved", end),
            ("mouseReleased", end),
        ):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=x,
                y=y,
                button="left",
                buttons=int(kind != "mouseReleased"),
                clickCount=1,
            )

    def press(self, key: str) -> None:
        """Press a key, such as `Enter`, on what has the focus."""
        code = {"Enter": 13, " ": 32}.get(key, 0)
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                text="\r" if key == "Enter" and kind == "keyDown" else "",
                windowsVirtualKeyCode=code,
            )

    def complaints(self) -> list[Any]:
        """Exceptions, and all that the page or the browser logged as a warning or an error."""
        found: list[Any] = []
        for event in self.events:
            method, content = event["method"], event["params"]
            if method == "Runtime.exceptionThrown":
                found.append(content["exceptionDetails"])
            if method == "Runtime.consoleAPICalled" and content["type"] in ("error", "warning"):
                found.append([value.get("value") for value in content["args"]])
            if method == "Log.entryAdded" and content["entry"]["level"] in ("error", "warning"):
                found.append(content["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """All that the page has asked for, but for what it carries itself."""
        sent = (event for event in self.events if event["method"] == "Network.requestWillBeSent")
        urls = (event["params"]["request"]["url"] for event in sent)
        return [url for url in urls if not url.startswith(("data:", "blob:"))]

    def picture(self, path: Path, height: int | None = None) -> None:
        """A PNG of the page from its top, the whole of it without a height."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        if height is not None:
            clip["height"] = min(height, size["height"])
        shot = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """End the browser and all its processes."""
        if hasattr(self, "socket"):
            self.loop.run_until_complete(self.socket.close())
        if hasattr(self, "session"):
            self.loop.run_until_complete(self.session.close())
        self.loop.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(SECONDS)


def main(page: str, picture: str, width: str = "1280", height: str = "", dark: str = "") -> None:
    """Take a picture of a report."""
    with tempfile.TemporaryDirectory() as home:
        browser = Chromium(Path(home))
        try:
            browser.darken(bool(dark))
            drawn = "document.body && document.body.dataset.drawnMs"
            browser.open(Path(page), drawn, width=int(width))
            browser.picture(Path(picture), int(height) if height else None)
        finally:
            browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

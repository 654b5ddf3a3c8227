"""A headless Chromium driven over its DevTools protocol: pages are opened, clicked and looked at as a person does."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NO_BROWSER = "no Chromium on the PATH (Debian: apt-get install chromium)"
START_S, REPLY_S = 60, 60
PHONE_PX = 600


class Browser:
    """One page of a headless Chromium; a context manager. `requests` are the addresses that the page asked for."""

    def __init__(self) -> None:
        from websockets.sync.client import connect

        self._folder = tempfile.mkdtemp()
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")
        self._process = subprocess.Popen(
            [str(CHROMIUM), *options, "--remote-debugging-port=0", f"--user-data-dir={self._folder}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": self._folder},
        )
        port = self._port(Path(self._folder) / "DevToolsActivePort")
        asked = http.client.HTTPConnection("127.0.0.1", port, timeout=REPLY_S)
        asked.request("PUT", "/json/new?about:blank")
        target = json.loads(asked.getresponse().read())
        self._open = ExitStack()
        self._socket = self._open.enter_context(connect(target["webSocketDebuggerUrl"], max_size=None, proxy=None))
        self._number = 0
        self.requests: list[str] = []
        self.errors: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._send(f"{domain}.enable")

    def _port(self, file: Path) -> int:
        end = time.monotonic() + START_S
        while time.monotonic() < end and self._process.poll() is None:
            if file.is_file() and (lines := file.read_text().splitlines()):
                return int(lines[0])
            time.sleep(0.05)
        raise RuntimeError(f"Chromium did not open its port within {START_S} s (exit code {self._process.poll()}).")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while (reply := json.loads(self._socket.recv(timeout=REPLY_S))).get("id") != self._number:
            self._note(reply)
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']}")
        return reply["result"]

    def _note(self, event: dict[str, Any]) -> None:
        found = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(found["request"]["url"][:200])
        elif event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(found["exceptionDetails"])[:500])
        elif event.get("method") == "Log.entryAdded" and found["entry"]["level"] == "error":
            self.errors.append(found["entry"]["text"])

    def open(self, url: str, width: int = 1280, height: int = 900, *, script: bool = True) -> None:
        """Open a page at this size and wait until it has loaded; without `script` as with JavaScript turned off."""
        self.requests, self.errors = [], []
        self._send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self._send("Emulation.setScriptExecutionDisabled", value=not script)
        self._send("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        reply = self._send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in reply:
            raise RuntimeError(f"{expression}: {reply['exceptionDetails']}")
        return reply["result"].get("value")

    def wait(self, expression: str, seconds: float = 20) -> None:
        """Wait until the expression is true."""
        end = time.monotonic() + seconds
        while not self.run(expression):
            assert time.monotonic() < end, f"not within {seconds} s: {expression}"
            time.sleep(0.05)

    def place(self, selector: str, across: float = 0.5, down: float = 0.5) -> tuple[float, float]:
        """Scroll an element into view; return a point in it, in pixels of the window."""
        area = self.run(
            "(e => { e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            f"return [r.left, r.top, r.width, r.height]; }})(document.querySelector({json.dumps(selector)}))"
        )
        return area[0] + across * area[2], area[1] + down * area[3]

    def move(self, selector: str, across: float = 0.5, down: float = 0.5) -> None:
        """Move the mouse over an element."""
        x, y = self.place(selector, across, down)
        self._send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        """Click into the middle of an element."""
        x, y = self.place(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self._send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int) -> None:
        """Press a key that has no text, such as Tab (9) or ArrowDown (40), or Enter (13)."""
        text = {"text": "\r"} if key == "Enter" else {}
        self._send("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **text)
        self._send("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def write(self, text: str) -> None:
        """Type text into the element that has the focus."""
        self._send("Input.insertText", text=text)

    def set_media(self, kind: str) -> None:
        """Lay pages out for "print", or for the "screen" again."""
        self._send("Emulation.setEmulatedMedia", media=kind)

    def picture(self, path: Path) -> None:
        """Save the whole page as PNG."""
        size = self._send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        data = self._send("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
        path.write_bytes(base64.b64decode(data))

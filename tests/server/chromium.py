"""A real Chromium for the tests of the console: started without a window, driven over its own protocol."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from programs import find_program

START_S_MAX = 30.0
PAGE_S_MAX = 15.0
_URL = re.compile(r"DevTools listening on ws://([^/]+)/")


class Chromium:
    """One page of a browser."""

    def __init__(self, link: ClientConnection) -> None:
        self._link = link
        self._number = 0
        self.requests: list[str] = []
        """What the page has asked for, by address."""
        self.complaints: list[str] = []
        """What it has complained of: errors of scripts, and what its policy refused."""
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> Any:
        """Send a command; return its result."""
        self._number += 1
        self._link.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while (message := json.loads(self._link.recv(timeout=PAGE_S_MAX))).get("id") != self._number:
            self._note(message)
        assert "error" not in message, message
        return message["result"]

    def value(self, expression: str) -> Any:
        """Return the value of an expression on the page; a promise is waited for."""
        found = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str, limit_s: float = PAGE_S_MAX) -> Any:
        """Return the first true value of an expression on the page."""
        end_s = time.monotonic() + limit_s
        while time.monotonic() < end_s:
            if found := self.value(expression):
                return found
            time.sleep(0.05)
        raise AssertionError(f"not true on the page: {expression}; {self.complaints}")

    def open(self, url: str, width: int = 1280, height: int = 900, theme: str = "light") -> None:
        """Open a page in a window of a size, in points."""
        self.send("Emulation.setScrollbarsHidden", hidden=True)
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self.send("Page.navigate", url=url)

    def picture(self, path: Path) -> None:
        """Write the whole page as a PNG."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _note(self, message: dict[str, Any]) -> None:
        """Keep what the page asks for and complains of."""
        parameters = message.get("params", {})
        match message["method"]:
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(parameters["exceptionDetails"].get("exception", parameters)))
            case "Log.entryAdded":
                self.complaints.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")


@contextmanager
def chromium() -> Iterator[Chromium]:
    """Start a browser, and end it with the block."""
    program = find_program("chromium", "chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
                   "--remote-debugging-port=0", "--disable-dev-shm-usage", "--disable-background-networking",
                   "--disable-component-update", f"--user-data-dir={home}", "about:blank"]  # fmt: skip
        log = Path(home) / "stderr"
        with log.open("wb") as stderr:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
        try:
            end_s = time.monotonic() + START_S_MAX
            while (found := _URL.search(log.read_text(errors="replace"))) is None:
                assert process.poll() is None and time.monotonic() < end_s, log.read_text(errors="replace")  # noqa: PT018
                time.sleep(0.05)
            with connect(_page_url(found[1]), max_size=None, proxy=None) as link:
                yield Chromium(link)
        finally:
            process.terminate()
            process.wait(10)


def _page_url(address: str) -> str:
    """Return where the first page of a browser is driven."""
    from urllib.request import urlopen

    end_s = time.monotonic() + START_S_MAX
    while time.monotonic() < end_s:
        with urlopen(f"http://{address}/json/list", timeout=5) as answer:
            pages = [each for each in json.loads(answer.read()) if each["type"] == "page"]
        if pages:
            return str(pages[0]["webSocketDebuggerUrl"])
        time.sleep(0.05)
    raise AssertionError("no page")

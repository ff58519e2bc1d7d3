"""A headless Chromium, driven over its DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from waiting import WAIT_S, until
from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio")
_COMPLAINTS = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")


class Tab:
    """One page of the browser. said: all that came to its console, errors of its script and of loading among it."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self.said: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def open(self, address: str, *, width: int = 1280, dark: bool = False) -> None:
        """Go there, in a window so many pixels wide."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500
        )
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url=address)

    def value(self, expression: str) -> Any:
        """What the expression, or its promise, comes to."""
        found = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until it is true."""
        until(lambda: self.value(expression), lambda: (expression, self.said))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(WAIT_S))
            if message.get("method") in _COMPLAINTS:
                self.said.append(json.dumps(message["params"]))
            if message.get("id") == self._number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result


@contextmanager
def browsing(profile: Path) -> Iterator[Tab]:
    """A browser with an empty profile in this folder, until the end."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
    with (profile / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with connect(_socket_of_tab(process, profile / "log"), max_size=1 << 26) as connection:
            yield Tab(connection)
    finally:
        process.kill()
        process.wait()


def _socket_of_tab(process: subprocess.Popen[bytes], log: Path) -> str:
    def address() -> re.Match[str] | None:
        return re.search(r"DevTools listening on ws://([\d.:]+)/", log.read_text())

    until(lambda: address() or process.poll() is not None, log.read_text)
    found = address()
    assert found is not None, log.read_text()
    listed = f"http://{found[1]}/json/list"

    def sockets() -> list[str]:
        with urllib.request.urlopen(listed, timeout=WAIT_S) as answer:
            return [target["webSocketDebuggerUrl"] for target in json.load(answer) if target["type"] == "page"]

    until(sockets)
    return sockets()[0]

"""The requests of a browser that shows the live page, as a process of its own; without torch, so that it starts at once."""

from __future__ import annotations

import json
import time
import urllib.request
from multiprocessing.synchronize import Event

ASKS_EVERY_S = 2.0


def watch(port: int, watching: Event) -> None:
    """Request the new sections, as the script of the page does, while the event is set."""
    known: dict[str, str] = {}
    while True:
        watching.wait()
        query = "&".join(f"{name}={version}" for name, version in known.items())
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/sections?{query}", timeout=60) as response:
            known |= {name: version for name, (version, _) in json.load(response).items()}
        time.sleep(ASKS_EVERY_S)

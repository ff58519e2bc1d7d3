"""A browser's part of the live page, as a process of its own, without torch so that it starts at once."""

from __future__ import annotations

import json
import time
import urllib.request
from multiprocessing.synchronize import Event

ASKS_EVERY_S = 2.0


def watch(port: int, looks: Event) -> None:
    """Ask as the script of the page does for what is new, while it is told to look."""
    known: dict[str, str] = {}
    while True:
        looks.wait()
        query = "&".join(f"{name}={version}" for name, version in known.items())
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/sections?{query}", timeout=60) as answer:
            known |= {name: version for name, (version, _) in json.load(answer).items()}
        time.sleep(ASKS_EVERY_S)

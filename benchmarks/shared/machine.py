"""The machine on which a bench runs: its description, free ports and memory, and which of the compared packages are installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from random import SystemRandom
from typing import Any

from learner.errors import Failed

HOST = "127.0.0.1"
PORT_TRIES = 100
PORTS = range(15_000, 32_000)
"""Below those that Linux gives to outgoing connections: one of those could take a port between its choice and its use."""


def describe_machine(packages: Mapping[str, str]) -> dict[str, Any]:
    """Return the processor, cores, kernel and versions. packages: for each distribution the name of its module."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{
            name: importlib.metadata.version(name)
            for name, module in packages.items()
            if importlib.util.find_spec(module) is not None
        },
    }


def date() -> str:
    """Return the date and time of day with the offset of the time zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S%z")


def not_installed(needed: Mapping[str, str | None]) -> dict[str, str]:
    """Return, by name, why contenders cannot be measured here. needed: the module that each needs; None: none."""
    return {
        name: f"{module} is not installed: pip install -e '.[peers]'"
        for name, module in needed.items()
        if module is not None and importlib.util.find_spec(module) is None
    }


def free_port() -> int:
    """Return a TCP port that is free now, as is the next one, where a rig serves its spool. Raises Failed."""
    for port in SystemRandom().sample(PORTS, PORT_TRIES):
        with suppress(OSError), socket.create_server((HOST, port)), socket.create_server((HOST, port + 1)):
            return port
    raise Failed(
        f"no two neighbouring ports were free in {PORT_TRIES} tries: end some of the programs that listen here"
    )


def resident_bytes(pid: int | str = "self") -> int:
    """Return the resident memory of a process, bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def available_bytes() -> int:
    """Return the bytes of memory that a process can still get without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))

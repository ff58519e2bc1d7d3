"""How much memory this process can still get: the machine's, within the limits of its container and of `ulimit`."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_UNLIMITED_BYTES = 1 << 60
"""A limit of version 1 that is not set is nearly 2**63."""


_REFUSALS = (
    "allocate memory",  # PyTorch on the CPU, and the kernel (ENOMEM)
    "out of memory",  # PyTorch on a GPU
    "insufficient memory",  # OpenCV
    "failed to map segment",  # the loader, of a library
    "start new thread",  # Python: there is no room for its stack
    "bad_alloc",  # C++
    "bad alloc",
)
_MAX_TEXT = 200


def out_of_memory(error: BaseException) -> str | None:
    """Return a sentence with a remedy if an error means that no memory was left, else None.

    Libraries raise errors of many types for it, so their words decide, also those of the errors that led to this one.
    """
    seen, one = set[int](), error
    while id(one) not in seen:
        seen.add(id(one))
        text = str(one)
        if isinstance(one, MemoryError) or any(word in text.lower() for word in _REFUSALS):
            why = f" ({' '.join(text.split())[:_MAX_TEXT]})" if text else ""
            return (
                f"there is not enough memory{why}: raise the limit of the container or of `ulimit -v`, close other programs, or "
                "choose smaller images, batches or memory"
            )
        one = one.__cause__ or one.__context__ or one
    return None


def available_bytes(root: Path = Path("/")) -> int:
    """Return the bytes that the kernel, the control groups (versions 1 and 2) and `ulimit -v` and `-d` leave to this process.

    root: where `proc` and `sys` are.
    """
    meminfo = _numbers(root / "proc" / "meminfo")
    free = [1024 * meminfo["MemAvailable:"], *_left_in_groups(root), *_left_of_ulimits(root)]
    return max(0, min(free))


def _left_in_groups(root: Path) -> Iterator[int]:
    """Yield what is left in each control group around this process."""
    with suppress(OSError, ValueError):
        for line in (root / "proc" / "self" / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                yield from _left(root / "sys/fs/cgroup", path, "memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
                yield from _left(root / "sys/fs/cgroup/memory", path, *names)


def _left(mount: Path, path: str, limit: str, usage: str, cache: str) -> Iterator[int]:
    """Yield the limit less the use for a group and those around it. What the kernel can drop of its cache counts as free.

    In a container the path may be that of the host, which is not there; the container's own group is then the mount itself.
    """
    for group in (PurePosixPath(path), *PurePosixPath(path).parents):
        folder = mount / str(group).lstrip("/")
        with suppress(OSError, ValueError):
            limit_bytes = int((folder / limit).read_text())  # "max" is no limit
            if limit_bytes < _UNLIMITED_BYTES:
                cached_bytes = _numbers(folder / "memory.stat").get(cache, 0)
                yield limit_bytes - int((folder / usage).read_text()) + cached_bytes


def _left_of_ulimits(root: Path) -> Iterator[int]:
    used = _numbers(root / "proc" / "self" / "status")
    for limit, name in ((resource.RLIMIT_AS, "VmSize:"), (resource.RLIMIT_DATA, "VmData:")):
        soft = resource.getrlimit(limit)[0]
        if soft != resource.RLIM_INFINITY:
            yield soft - 1024 * used.get(name, 0)


def _numbers(path: Path) -> dict[str, int]:
    """Return the first number behind each name in a file of the kernel; {} if there is no such file."""
    words: list[list[str]] = []
    with suppress(OSError):
        words = [line.split() for line in path.read_text().splitlines()]
    return {word[0]: int(word[1]) for word in words if len(word) > 1 and word[1].isdecimal()}

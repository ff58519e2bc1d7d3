"""What is left of the machine's memory, of a container's limit and of ulimit."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import WAIT_S

from stream.host.memory import available_bytes

GIB = 1 << 30


def machine(root: Path, groups: str, files: dict[str, object]) -> Path:
    for name, text in {
        "proc/meminfo": f"MemTotal: 9 kB\nMemAvailable: {8 * GIB // 1024} kB\n",
        "proc/self/status": "VmSize: 1024 kB\n",
        "proc/self/cgroup": groups,
        **files,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


V1 = "sys/fs/cgroup/memory"
CASES: dict[str, tuple[str, dict[str, object], int]] = {
    "no control group": ("", {}, 8 * GIB),
    "version 2 without a limit": ("0::/a", {"sys/fs/cgroup/a/memory.max": "max"}, 8 * GIB),
    "version 2": (
        "0::/a/b",
        {
            "sys/fs/cgroup/a/b/memory.max": 3 * GIB,
            "sys/fs/cgroup/a/b/memory.current": 2 * GIB,
            "sys/fs/cgroup/a/b/memory.stat": f"anon 5\\ninactive_file {GIB}".replace("\\n", "\n"),
        },
        2 * GIB,
    ),
    "version 2, the limit is of the group around it": (
        "0::/a/b",
        {
            "sys/fs/cgroup/a/memory.max": 3 * GIB,
            "sys/fs/cgroup/a/memory.current": 2 * GIB,
            "sys/fs/cgroup/a/memory.stat": "anon 5",
            "sys/fs/cgroup/a/b/memory.max": "max",
        },
        GIB,
    ),
    "version 1 in a container, which sees the host's path": (
        "3:cpu,cpuacct:/x\n4:memory:/docker/1234",
        {
            f"{V1}/memory.limit_in_bytes": 2 * GIB,
            f"{V1}/memory.usage_in_bytes": GIB // 2,
            f"{V1}/memory.stat": "cache 7\ntotal_inactive_file 0",
        },
        3 * GIB // 2,
    ),
    "version 1 without a limit": (
        "4:memory:/",
        {f"{V1}/memory.limit_in_bytes": 0x7FFFFFFFFFFFF000, f"{V1}/memory.usage_in_bytes": GIB},
        8 * GIB,
    ),
    "more used than the limit allows": (
        "0::/",
        {
            "sys/fs/cgroup/memory.max": GIB,
            "sys/fs/cgroup/memory.current": 2 * GIB,
            "sys/fs/cgroup/memory.stat": "anon 5",
        },
        0,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_containers_limit_is_respected(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _limit: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    groups, files, left_bytes = CASES[case]
    assert available_bytes(machine(tmp_path, groups, files)) == left_bytes


def test_a_ulimit_is_respected() -> None:
    code = (
        "import resource as r; r.setrlimit(r.RLIMIT_AS, (1 << 30, 1 << 30));"
        "from stream.host.memory import available_bytes as a; print(a())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=WAIT_S)
    assert 0 < int(done.stdout) < 1 << 30

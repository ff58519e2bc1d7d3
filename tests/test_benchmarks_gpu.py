"""The bench on a GPU, rehearsed on the CPU with small sizes, and without the packages that a GPU machine may not have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MISSING = (
    *("zmq", "lz4", "msgspec", "tyro", "mcap", "google.protobuf", "foxglove_schemas_protobuf", "zlib_ng", "zstandard"),
    *("starlette", "uvicorn", "prometheus_client"),
)
"""What a machine with PyTorch need not have."""
ROOMS = ("device/sim", "learner/memory", "learner/networks", "learner/objectives", "learner/probes", "learner/views")
FILES = (
    *("benchmarks/__main__.py", "benchmarks/step/peers.py", "device/camera.py", "stream/host/program.py"),
    *("learner/config.py", "learner/footprint.py", "learner/guard.py", "learner/trainer.py"),
    *("learner/runs/checkpoint.py", "learner/weights/card.py", "learner/weights/export.py"),
)
NEEDS_THE_STREAM = {"learner.memory.decoding"}


def without_packages(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process that cannot import what is MISSING."""
    blocked = f"import sys\nfor name in {MISSING}: sys.modules[name] = None\n"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", blocked + code], capture_output=True, text=True, env=environment, timeout=300
    )


def test_what_the_bench_uses_is_imported_without_the_packages_of_the_stream_and_the_page() -> None:
    paths = [path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).glob("*.py")]
    names = {".".join(path.with_suffix("").parts) for path in (*paths, *map(Path, FILES))} - NEEDS_THE_STREAM
    done = without_packages(f"import importlib\nfor name in {sorted(names)}: importlib.import_module(name)")
    assert done.returncode == 0, done.stderr

"""What several test files share."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from spooled import A, open_spool

from buffer import trees
from device.spool.spool import Spool

# Nothing is timed in a test, so a slow machine fails none; CI tries the same examples every time, a person new ones.
settings.register_profile(
    "house",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
)
settings.load_profile("house")

MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 << 30
"""A run of the suite needs a tenth of it."""
SHARED_DATA = Path(os.environ.get("BABYAGENT_DATA", Path(__file__).parents[2] / "shared" / "data"))


def pytest_configure() -> None:
    """Keep temporary files in memory where it has room: a sync of a disk that others write to may take a minute.

    What Python compiles is kept, so that not each of the processes that tests start compiles it.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM_BYTES:
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None  # it is looked up again


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real stereo pairs and control sets beside the checkout: needed in CI, skipped with this reason elsewhere."""
    if not (SHARED_DATA / "stereo").is_dir():
        reason = f"no test data at {SHARED_DATA}: set BABYAGENT_DATA to the folder with stereo/ and control/"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return SHARED_DATA


@pytest.fixture
def own_signals() -> Iterator[None]:
    """The command takes SIGINT and SIGTERM; pytest gets them back."""
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """A small spool that is open."""
    with open_spool(tmp_path, epoch=A) as spool:
        yield spool


@pytest.fixture(scope="class", params=[trees.TOP_NODES, 2], ids=["flat trees", "deep trees"])
def any_depth(request: pytest.FixtureRequest) -> Iterator[None]:
    """A few keys fit into one level of a tree; with so small a top they make many. (A scope that hypothesis allows.)"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "TOP_NODES", request.param)
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one thread: sums come in one order, and test processes do not fight for the cores."""
    import torch  # here, so that the rig's tests need none

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

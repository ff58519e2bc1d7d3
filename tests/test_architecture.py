"""The arrows between the folders and between their rooms, read from the imports of every file."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ARROWS: dict[str, set[str]] = {
    "stream": set(),
    "buffer": set(),
    "device": {"stream"},
    "learner": {"stream", "buffer"},
    "benchmarks": {"learner", "buffer", "stream", "device"},
}
ROOMS: dict[str, dict[str, set[str]]] = {
    "stream": {
        "transport": {"host"},
        "calibration": {"recording"},
        "host": {"calibration"},
        "live": {"transport"},
        "recording": {"signals"},
        "signals": set(),
        "cli": {"host", "live", "recording", "signals", "transport"},
    },
    "device": {
        "board": set(),
        "sim": set(),
        "spool": set(),
        "cameras": {"sim"},
        "cli": {"board", "cameras", "sim", "spool"},
    },
    "learner": {
        "networks": {"distributed"},
        "views": {"distributed", "networks"},
        "parts": {"distributed", "networks"},
        "distributed": set(),
        "memory": {"views"},
        "probes": {"parts"},
        "objectives": {"distributed", "networks", "parts", "probes", "views"},
        "pretrained": {"networks"},
        "adapt": {"distributed", "networks", "objectives", "parts", "views"},
        "runs": {"adapt", "memory", "objectives", "pretrained", "views"},
        "weights": {"networks", "runs"},
        "report": {"memory", "objectives", "probes", "runs", "weights"},
        "http": set(),
        "page": {"distributed", "http", "memory", "report", "runs"},
        "service": {"memory", "networks", "page", "probes", "report", "runs", "weights"},
        "cli": {
            "adapt",
            "distributed",
            "http",
            "networks",
            "objectives",
            "page",
            "pretrained",
            "probes",
            "report",
            "runs",
            "service",
            "views",
            "weights",
        },
    },
    "benchmarks": {
        "shared": set(),
        "adapt": {"shared"},
        "ablation": {"shared"},
        "buffer": {"shared"},
        "compare": {"shared"},
        "faults": {"shared", "simulation"},
        "fleet": {"shared"},
        "floods": {"shared"},
        "gpu": {"shared", "step"},
        "junk": {"shared"},
        "feed": {"shared"},
        "league": {"shared"},
        "page": {"shared"},
        "regimes": {"shared"},
        "retention": {"shared"},
        "simulation": set(),
        "spool": {"shared"},
        "step": {"shared"},
        "streams": {"shared"},
        "transport": {"shared"},
    },
}
"""Which rooms of its own folder a room may import; files beside the rooms are free, but no two files may import in a circle."""
MAX_FILES = 13
"""In one room: what a reader can hold in the head."""
HOMES = {
    "zmq": {"stream", "benchmarks"},  # there only to measure against what others do with it
    "torch": {"learner", "benchmarks"},
    "timm": {"learner", "benchmarks"},
}
"""Third-party packages that only these folders touch."""


def imported(path: Path) -> Iterator[str]:
    """The first names of all that a file imports, at its top or later."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively; write the package's name"
            yield (node.module or "").split(".")[0]


def imported_modules(path: Path) -> Iterator[str]:
    """The whole names of our modules that a file imports at its top."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def rooms_of(folder: str) -> list[Path]:
    return sorted(path.parent for path in (ROOT / folder).glob("*/__init__.py"))


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", ARROWS)
def test_a_folder_imports_only_the_folders_its_arrows_point_to(folder: str) -> None:
    assert files(folder)
    for path in files(folder):
        ours = set(imported(path)) & {*ARROWS, "examples", "tests"} - {folder}
        more = {"device"} if path.parent == ROOT / "learner" / "cli" else set()
        assert ours <= ARROWS[folder] | more, f"{path} imports {ours - ARROWS[folder]}"


def test_a_learner_knows_a_camera_only_in_its_command_line() -> None:
    users = [path for path in files("learner") if "device" in imported(path)]
    assert {path.parent.name for path in users} == {"cli"}


def test_an_example_uses_what_anybody_may_use_and_no_other_example() -> None:
    assert files("examples")
    for path in files("examples"):
        names = {name for module in imported_modules(path) for name in module.split(".")}
        assert not names & {"examples", "tests"}, path
        assert not any(name.startswith("_") for name in names), path


@pytest.mark.parametrize("folder", ROOMS)
def test_a_room_imports_only_the_rooms_its_arrows_point_to(folder: str) -> None:
    assert {room.name for room in rooms_of(folder)} == set(ROOMS[folder])
    for room in rooms_of(folder):
        for path in room.rglob("*.py"):
            names = {module.split(".")[1] for module in imported_modules(path) if module.startswith(f"{folder}.")}
            others = names & set(ROOMS[folder]) - {room.name}
            assert others <= ROOMS[folder][room.name], f"{path} imports {others - ROOMS[folder][room.name]}"


@pytest.mark.parametrize("folder", ROOMS)
def test_the_arrows_between_rooms_make_no_circle(folder: str) -> None:
    assert list(TopologicalSorter(ROOMS[folder]).static_order())


def test_no_two_files_import_each_other_in_a_circle() -> None:
    paths = [path for folder in ARROWS for path in files(folder) if path.name != "__init__.py"]
    ours = {module_name(path): path for path in paths}
    graph = {name: {module for module in imported_modules(path) if module in ours} for name, path in ours.items()}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("folder", ARROWS)
def test_a_room_has_a_sentence_that_says_what_it_is_for_and_few_files(folder: str) -> None:
    for init in (ROOT / folder).rglob("__init__.py"):
        first = (ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        assert first.endswith((".", "?")), f"{init} does not say what its folder is for"
        count = len([path for path in init.parent.glob("*.py") if path.name != "__init__.py"])
        assert count <= MAX_FILES, f"{init.parent} has {count} files"


@pytest.mark.parametrize("package", HOMES)
def test_a_heavy_package_is_imported_only_in_its_home(package: str) -> None:
    for folder in ARROWS.keys() - HOMES[package]:
        for path in files(folder):
            assert package not in imported(path), f"{path} imports {package}"


def test_picamera2_is_imported_in_at_most_one_file_of_device() -> None:
    users = [path for folder in ARROWS for path in files(folder) if "picamera2" in imported(path)]
    assert [path.parent.name for path in users] in ([], ["cameras"])


def test_prometheus_is_imported_only_where_metrics_are_kept_or_served() -> None:
    users = {path.name for folder in ARROWS for path in files(folder) if "prometheus_client" in imported(path)}
    assert users <= {"metrics.py", "monitoring.py"}


@pytest.mark.parametrize("folder", ARROWS)
def test_a_package_resolves_inside_this_checkout(folder: str) -> None:
    found = importlib.import_module(folder).__file__
    assert found is not None
    assert Path(found).resolve().is_relative_to(ROOT.resolve())

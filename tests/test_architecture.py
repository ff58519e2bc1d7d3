"""The arrows between the folders, read from the imports of every file."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
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


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", ARROWS)
def test_a_folder_imports_only_the_folders_its_arrows_point_to(folder: str) -> None:
    assert files(folder)
    for path in files(folder):
        ours = set(imported(path)) & {*ARROWS, "tests"} - {folder}
        assert ours <= ARROWS[folder], f"{path} imports {ours - ARROWS[folder]}"


@pytest.mark.parametrize("package", HOMES)
def test_a_heavy_package_is_imported_only_in_its_home(package: str) -> None:
    for folder in ARROWS.keys() - HOMES[package]:
        for path in files(folder):
            assert package not in imported(path), f"{path} imports {package}"


def test_picamera2_is_imported_in_at_most_one_file_of_device() -> None:
    users = [path for folder in ARROWS for path in files(folder) if "picamera2" in imported(path)]
    assert [path.parent.name for path in users] in ([], ["cameras"])


def test_prometheus_is_imported_only_by_metrics_and_doors() -> None:
    users = {path.name for folder in ARROWS for path in files(folder) if "prometheus_client" in imported(path)}
    assert users <= {"metrics.py", "__main__.py"}


@pytest.mark.parametrize("folder", ARROWS)
def test_a_package_resolves_inside_this_checkout(folder: str) -> None:
    found = importlib.import_module(folder).__file__
    assert found is not None
    assert Path(found).resolve().is_relative_to(ROOT.resolve())

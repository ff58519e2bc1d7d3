"""What the documents say exists: links lead somewhere, files and modules are there, flags are flags."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT, environment

from device.cameras.open import CAMERAS
from learner.objectives.table import OBJECTIVES

FOLDERS = ("stream", "device", "buffer", "learner", "benchmarks", "examples", "tests", "deploy", "docs")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
HISTORY = {"log.md", "renamed.md", "CHANGELOG.md"}
"""Pages that also name what is no longer there."""
COMMANDS = ("device", "stream", "learner")
FLAGS_OF_OTHERS = {
    *("--config.file", "--nproc-per-node", "--system-site-packages", "--now", "--system", "--groups"),
    "--logdir",
    *("--etag-compare", "--etag-save", "--fail", "--header", "--output", "--show-error", "--silent"),
}
"""Of prometheus, torchrun, venv, systemctl, useradd, tensorboard and curl."""

LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
PATH = re.compile(rf"(?<![\w/])(?:{'|'.join(FOLDERS)})/[A-Za-z0-9_./-]*")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9.-]*[a-z0-9]")


def ids(page: Path) -> str:
    return page.name


def prose(page: Path) -> str:
    """The text without blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The names that the headings of a page have as targets of links."""
    heads = re.findall(r"^#+ +(.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in HISTORY], ids=ids)
def test_every_path_of_code_that_a_page_names_exists(page: Path) -> None:
    for code in CODE.findall(prose(page)):
        for path in PATH.findall(code):
            assert "NAME" in code or path == "deploy/targets/rigs.yml" or (ROOT / path).exists(), f"{page.name}: {code}"


def test_the_start_page_names_every_page() -> None:
    start = ROOT / "docs" / "README.md"
    linked = {(start.parent / link).resolve() for link in LINK.findall(start.read_text(encoding="utf-8"))}
    assert {page.resolve() for page in PAGES} - linked == {start}


def test_every_new_module_of_the_list_of_renames_exists() -> None:
    text = (
        (ROOT / "docs" / "renamed.md").read_text(encoding="utf-8").partition("\n## Modules\n")[2].partition("\n## ")[0]
    )
    new = [name for row in text.splitlines() if row.startswith("| `") for name in CODE.findall(row.split("|")[2])]
    assert len(new) > 100
    missing = [name for name in new if not (ROOT / f"{name.replace('.', '/')}.py").is_file()]
    assert not missing


def test_every_room_is_in_the_tables_of_the_house() -> None:
    readme, architecture = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "ARCHITECTURE.md"))
    for folder in ("stream", "device", "learner"):
        rooms = {path.parent.name for path in ROOT.glob(f"{folder}/*/__init__.py")}
        (row,) = re.findall(rf"^\| `{folder}/` \|[^|]*\|([^|]*)\|", readme, re.MULTILINE)
        assert set(CODE.findall(row)) == rooms
        assert set(re.findall(rf"^\| `{folder}/(\w+)/` \|", architecture, re.MULTILINE)) == rooms


def test_readme_lists_every_camera() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("| camera |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([\w.-]+)(?=[:`])", table)) >= set(CAMERAS)


def test_every_flag_that_a_page_names_is_a_flag() -> None:
    known = set(FLAGS_OF_OTHERS)
    # The pages also name settings of the objective that was the default before.
    asked = [[command, "--print-completion", "bash"] for command in COMMANDS]
    for words in (
        [sys.executable, "-m", *one] for one in (*asked, ["learner", "--objective", "babyagent", "--help-all"])
    ):
        known |= set(FLAG.findall(subprocess.check_output(words, cwd=ROOT, env=environment(), text=True)))
    for kind in OBJECTIVES.values():
        known |= {f"--objective.{one.name.replace('_', '-')}" for one in dataclasses.fields(kind.settings)}
    for path in (ROOT / "benchmarks").rglob("*.py"):  # their fields, since each of their helps loads torch
        text = path.read_text(encoding="utf-8")
        fields = re.findall(r"^    (\w+): ", text, re.MULTILINE)
        known |= {f"--{field.replace('_', '-')}" for field in fields}
        known |= set(re.findall(r'add_argument\(\s*"(--[\w-]+)"', text))
    for page in PAGES:
        if page.name not in HISTORY:
            unknown = (
                set(FLAG.findall(page.read_text(encoding="utf-8")))
                - known
                - {"--help", "--version", "--print-completion"}
            )
            assert not unknown, f"{page.name} names {unknown}"

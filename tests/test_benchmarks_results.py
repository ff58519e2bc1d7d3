"""Result lines of a bench: what is there is not run again, in whatever state a stop left the file."""

from __future__ import annotations

import inspect
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from waiting import until

from benchmarks.shared.results import Result, completed, fingerprint, in_processes
from learner.config import PRESETS, preset
from learner.errors import Failed
from learner.objectives.foreign import objective_named


@dataclass(frozen=True)
class Cell:
    name: str
    seed: int
    share: float


CELLS = [Cell(name, seed, 0.1) for seed in range(3) for name in ("a", "b")]


class Runner:
    """Counts what it is asked to run."""

    def __init__(self) -> None:
        self.ran: list[Cell] = []

    def __call__(self, cell: Cell) -> Result:
        self.ran.append(cell)
        return {"value": len(cell.name) + cell.seed}


def squared(cell: Cell) -> Result:
    return {"value": cell.seed**2}


def failing(cell: Cell, folder: Path) -> Result:
    (folder / str(cell.seed)).touch()
    raise KeyError(cell.seed)


class Noticed(Exception):
    """Touches a file where it is unpickled: in the process that is told of the failure."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.file = file

    def __reduce__(self) -> tuple[Callable[[Path], Noticed], tuple[Path]]:
        return noticed, (self.file,)


def noticed(file: Path) -> Noticed:
    file.touch()
    return Noticed(file)


def long_but_the_first(number: int, folder: Path) -> int:
    if number:
        (folder / "begun").touch()
        with suppress(AssertionError):
            until((folder / "never").exists)
        (folder / "ended").touch()
    return number


def failing_beside_another(cell: Cell, folder: Path) -> Result:
    if cell.seed == 0:
        until((folder / "begun").exists)
        raise Noticed(folder / "noticed")
    (folder / "begun").touch()
    until((folder / "noticed").exists)
    return {"value": cell.seed}


def killed(_cell: Cell) -> Result:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def test_each_cell_is_run_once_and_its_line_comes_back_in_order(tmp_path: Path) -> None:
    run, path = Runner(), tmp_path / "deep" / "results.jsonl"
    lines = completed(CELLS, path, run)
    assert run.ran == CELLS
    assert [(line["name"], line["seed"], line["value"]) for line in lines] == [
        (c.name, c.seed, 1 + c.seed) for c in CELLS
    ]
    assert completed(CELLS[::-1], path, run) == lines[::-1]
    assert run.ran == CELLS


def test_a_line_that_was_cut_short_is_run_again_and_a_foreign_one_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    completed(CELLS[:2], path, Runner())
    foreign = json.dumps({"name": "a", "seed": 0, "share": 0.2, "value": 99})
    whole = path.read_text().splitlines()
    path.write_text("\n".join([whole[0], foreign, "[1]", whole[1][:-5]]) + "\n")
    run = Runner()
    lines = completed(CELLS[:2], path, run)
    assert run.ran == [CELLS[1]]
    assert [line["value"] for line in lines] == [1, 1]
    assert foreign in path.read_text()


def test_the_line_after_one_that_was_cut_short_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"name": "a", "se')
    completed(CELLS[:2], path, Runner())
    run = Runner()
    completed(CELLS[:2], path, run)
    assert run.ran == []


def test_several_jobs_give_the_lines_of_one(tmp_path: Path) -> None:
    one = completed(CELLS, tmp_path / "one.jsonl", squared)
    assert completed(CELLS, tmp_path / "two.jsonl", squared, jobs=2) == one


def test_a_run_that_fails_stops_the_bench_before_the_others_begin(tmp_path: Path) -> None:
    cells = [Cell("a", seed, 0.1) for seed in range(2000)]
    with pytest.raises(KeyError):
        completed(cells, tmp_path / "results.jsonl", partial(failing, folder=tmp_path), jobs=2)
    assert len(list(tmp_path.iterdir())) < 1000


def test_a_run_beside_one_that_fails_ends_and_its_line_is_kept(tmp_path: Path) -> None:
    cells, path = [Cell("a", seed, 0.1) for seed in range(2)], tmp_path / "results.jsonl"
    with pytest.raises(Noticed):
        completed(cells, path, partial(failing_beside_another, folder=tmp_path), jobs=2)
    assert [json.loads(line)["seed"] for line in path.read_text().splitlines()] == [1]


def test_a_bench_that_is_interrupted_leaves_no_run_behind(tmp_path: Path) -> None:
    found = in_processes(partial(long_but_the_first, folder=tmp_path), range(20), jobs=2)
    assert next(found) == (0, 0)
    until((tmp_path / "begun").exists)
    found.close()
    until(lambda: not multiprocessing.active_children())
    assert not (tmp_path / "ended").exists()


def test_a_run_whose_process_is_killed_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="the process of a run was killed, perhaps because memory was full: try fewer"):
        completed(CELLS[:2], tmp_path / "results.jsonl", killed, jobs=2)


def test_a_line_of_before_a_field_was_there_counts_and_one_with_another_value_does_not(tmp_path: Path) -> None:
    run, path = Runner(), tmp_path / "results.jsonl"
    path.write_text('{"name": "a", "seed": 0, "value": 7}\n{"name": "b", "seed": 0, "share": 0.2, "value": 8}\n')
    lines = completed(CELLS[:2], path, run, later=("share",))
    assert run.ran == [CELLS[1]]
    assert [line["value"] for line in lines] == [7, 1]
    completed(CELLS[:1], path, run)
    assert run.ran == [CELLS[1], CELLS[0]]


def test_progress_reports_how_many_are_done_and_how_long_the_rest_may_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    completed(CELLS[:2], tmp_path / "results.jsonl", Runner(), describe=lambda line: f"value {line['value']}")
    reported = capsys.readouterr().err.splitlines()
    assert len(reported) == 2
    assert "min left" in reported[0]
    assert "2/2" in reported[1]
    assert reported[1].endswith("value 1")


def test_another_setting_gives_another_fingerprint_and_the_same_ones_the_same() -> None:
    config = PRESETS["cpu"]
    assert fingerprint(config) == fingerprint(replace(config))
    assert fingerprint(config) != fingerprint(replace(config, schedule=replace(config.schedule, learning_rate=0.5)))


@pytest.mark.parametrize(
    ("name", "is_foreign"),
    [
        ("ntxent", False),
        ("ntxent+autoencoder", False),
        ("examples.own_objective:Rotation", True),
        ("ntxent+examples.own_objective:Rotation", True),
    ],
)
def test_the_source_of_an_objective_of_ones_own_is_in_its_fingerprint(
    name: str, is_foreign: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = preset("cpu", objective_named(name))
    before = fingerprint(config)
    assert fingerprint(config) == before
    monkeypatch.setattr(inspect, "getsource", lambda module: f"another {module.__name__}")
    assert (fingerprint(config) != before) == is_foreign

"""A run from its start to its summary: stopped anywhere, resumed, limited; what it writes and what it says."""

from __future__ import annotations

import itertools
import json
import re
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from committing import Acknowledging
from learner_state import digest, trained
from poison import Poisonable, poisonable, white_pair
from service_run import Run
from tiny_learner import EPOCH, TINY, committed, make_pairs, tiny_learner
from waiting import until

from learner.errors import NonFiniteLoss, SettingsError
from learner.guard import GuardConfig
from learner.networks.encoder import Encoder
from learner.probes.control_sets import ControlSet, load_control
from learner.probes.probe import ProbeResult, run_probe
from learner.report.report import write_report
from learner.runs.folder import RunDirectory
from learner.service import prober
from learner.service.summary import describe
from learner.service.timing import AFTER_STOP_S, ROTATED_S, Times, is_logged
from stream.errors import EndOfStream
from stream.live.publisher import Publisher
from stream.live.subscriber import Subscriber
from stream.pair import EncodedPair
from stream.source import Cursor

SETTINGS = replace(TINY, max_refused_steps=1)


@pytest.fixture(scope="module")
def digits() -> ControlSet:
    return load_control("digits", size=16, limit_train=40, limit_test=30)


def test_a_run_leaves_everything_in_its_folder(tmp_path: Path, digits: ControlSet) -> None:
    run = Run(tmp_path, make_pairs(20), [digits])
    summary = run.run()
    write_report(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("config.json", "steps.jsonl", "probes.jsonl", "pairs.sqlite", "checkpoints", "export"),
        *("album.npz", "summary.json", "report.html"),
    }
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert (summary["pairs_received"], summary["steps"], summary["samples"]) == (20, 10, 80)
    assert summary["replay_ratio"] == 4.0
    assert summary["samples_per_s"] > 0
    assert 0 < summary["duty_cycle"] <= 1
    assert summary["loss_first"] > 0
    assert summary["reservoir"] == {"kept": 20, "capacity": 24, "fresh": 0, "dropped_fresh": 0, "quarantined": 0}
    accuracies = {f"{kind}_{who}" for kind in ("knn", "knn_10pct", "linear") for who in ("student", "teacher")}
    assert set(summary["probe"]) == {"digits"}
    assert summary["probed_steps"] == [0, 10]
    for when in ("before", "after"):
        assert summary["probe"]["digits"][when].keys() == accuracies
    turned = summary["rotation"]["digits"]
    assert turned.keys() == {"student", "teacher"}
    assert len(turned["student"]["knn"]) == len(turned["student"]["degrees"]) == 5
    assert [line["captured_ns"] for line in run.directory.lines("probes")] == [None, None, 19, 19]
    assert len(run.directory.lines("steps")) == 10
    assert [line["step"] for line in run.directory.lines("probes")] == [0, 0, 10, 10]
    assert digest(committed(tmp_path)) == digest(run.learner)


def test_a_long_run_logs_all_its_early_steps_and_ever_fewer_of_the_late_ones() -> None:
    noted = [step for step in range(1 << 18) if is_logged(step)]
    assert noted[: 1 << 14] == list(range(1 << 14))
    for doubling in range(14, 18):
        assert sum(1 << doubling <= step < 2 << doubling for step in noted) == 1 << 13


def test_a_run_is_the_loop_and_changes_nothing_about_its_weights(tmp_path: Path, digits: ControlSet) -> None:
    """Probes, commits and pictures in between leave no trace in the weights."""
    run = Run(tmp_path, make_pairs(20), [digits], probe_every_s=0.0, commit_every_s=0.0)
    run.run()
    alone = tiny_learner()
    trained(alone, make_pairs(20))
    assert digest(run.learner) == digest(alone)


def test_a_stop_at_any_look_commits_and_concludes(tmp_path: Path, digits: ControlSet) -> None:
    """The 1st, 2nd, 3rd, ... time it is asked: before and inside the first probe, between steps, in a later probe."""
    lengths = set()
    for asked in range(0, 27, 3):
        looks = itertools.count()
        path = tmp_path / str(asked)
        run = Run(path, make_pairs(12), [digits], stop=lambda n=asked, i=looks: next(i) >= n, probe_every_s=0.0)  # type: ignore[misc]
        summary = run.run()
        write_report(path)
        lengths.add(summary["steps"])
        assert digest(committed(path)) == digest(run.learner)
        assert (path / "summary.json").is_file()
        again = Run(path, make_pairs(12), [digits], max_steps=summary["steps"])
        assert again.run()["steps"] == summary["steps"]
        assert digest(again.learner) == digest(run.learner)
    assert 0 in lengths
    assert len(lengths) > 2


def test_a_run_stopped_and_started_again_ends_as_if_never_stopped(tmp_path: Path) -> None:
    pairs = make_pairs(40)
    looks = itertools.count()
    Run(tmp_path, pairs, [], stop=lambda: next(looks) > 9).run()
    second = Run(tmp_path, pairs, [])
    summary = second.run()
    whole = tiny_learner()
    reports = trained(whole, pairs)
    assert digest(second.learner) == digest(whole)
    assert [line["loss"] for line in second.directory.lines("steps")] == [report.loss for report in reports]
    assert summary["loss_first"] == reports[0].loss
    assert "resumed at step" in second.text.getvalue()


def test_a_run_killed_after_its_commit_forgets_the_lines_of_the_lost_steps(tmp_path: Path, digits: ControlSet) -> None:
    Run(tmp_path, make_pairs(8), []).run()
    (tmp_path / "steps.jsonl").unlink()
    directory = RunDirectory(tmp_path, TINY)
    for step in range(1, 9):
        directory.append("steps", {"step": step, "loss": 1.0, "refused": [], "seconds": 50.0 * step})
    with (tmp_path / "steps.jsonl").open("a") as file:
        file.write('{"step": 9')
    run = Run(tmp_path, make_pairs(10), [digits])
    summary = run.run()
    lines = run.directory.lines("steps")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[-1]["seconds"] >= 200
    assert summary["seconds"] >= 200


def test_a_run_killed_before_its_second_commit_begins_again_with_the_first_step(
    tmp_path: Path, digits: ControlSet
) -> None:
    Run(tmp_path, [], []).run()
    directory = RunDirectory(tmp_path, TINY)
    directory.append("probes", {"step": 0, "set": "digits", "encoder": "student"})
    directory.append("steps", {"step": 1})
    run = Run(tmp_path, make_pairs(8), [digits])
    run.run()
    assert [line["step"] for line in run.directory.lines("steps")] == [1, 2, 3, 4]
    assert [line["encoder"] for line in run.directory.lines("probes")] == ["student", "teacher"] * 2


def test_the_first_commit_is_durable_before_any_line_and_publishes_no_weights(tmp_path: Path) -> None:
    found = []

    def stop() -> bool:
        found.append(sorted(path.name for path in tmp_path.glob("*")))
        return True

    Run(tmp_path, make_pairs(8), [], stop=stop).run()
    assert [name for name in found[0] if "jsonl" not in name] == [
        "checkpoints",
        "config.json",
        "pairs.sqlite",
        "pairs.sqlite-shm",
        "pairs.sqlite-wal",
    ]
    assert (tmp_path / "checkpoints" / "commit-000001-step-0" / "SHA256SUMS").is_file()


def test_lines_without_a_commit_are_refused_and_stay(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path, TINY)
    directory.append("steps", {"step": 1})
    with pytest.raises(SettingsError, match=r"has steps\.jsonl of a run, but no commit"):
        Run(tmp_path, make_pairs(8), []).run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "steps.jsonl"]
    assert directory.lines("steps") == [{"step": 1}]


def test_a_control_set_that_is_new_to_a_run_is_measured_when_it_comes(tmp_path: Path, digits: ControlSet) -> None:
    Run(tmp_path, make_pairs(8), [digits]).run()
    other = replace(digits, name="more")
    summary = Run(tmp_path, make_pairs(10), [digits, other]).run()
    assert summary["probe"].keys() == {"digits", "more"}
    steps = [(line["set"], line["step"]) for line in RunDirectory(tmp_path, TINY).lines("probes")[::2]]
    assert steps == [("digits", 0), ("digits", 4), ("more", 4), ("digits", 5), ("more", 5)]
    assert [summary["probe"][name]["steps"] for name in ("digits", "more")] == [[0, 5], [4, 5]]
    told = describe(summary, tmp_path).splitlines()
    assert [" (step 4) -> " in line for line in told if line.startswith(("digits ", "more "))] == [False] * 6 + [
        True
    ] * 6
    card = (tmp_path / "export" / "student.md").read_text().splitlines()
    assert ["(step 4)" in line for line in card if line.startswith(("| digits", "| more"))] == [False] * 3 + [True] * 3


def test_other_images_under_a_name_that_the_run_knows_are_another_set(
    tmp_path: Path, digits: ControlSet, caplog: pytest.LogCaptureFixture
) -> None:
    Run(tmp_path, make_pairs(8), [digits]).run()
    fewer = replace(digits, test_images=digits.test_images[:20], test_labels=digits.test_labels[:20])
    for pairs in (10, 12):
        summary = Run(tmp_path, make_pairs(pairs), [fewer]).run()
        assert summary["probe"].keys() == {"digits", "digits-2"}
        assert "digits has other images than before in this run: it is measured as digits-2" in caplog.text
    assert summary["probe"]["digits"]["steps"] == [0, 4]
    assert summary["probe"]["digits-2"]["steps"] == [4, 6]


def test_a_set_with_other_images_takes_no_name_of_a_set_that_was_given(tmp_path: Path, digits: ControlSet) -> None:
    sets = [replace(digits, name=name) for name in ("floor-1", "floor-2", "floor", "floor-1-2")]
    Run(tmp_path, make_pairs(8), sets).run()
    fewer = [replace(one, test_images=one.test_images[:20], test_labels=one.test_labels[:20]) for one in sets[:1]]
    summary = Run(tmp_path, make_pairs(10), [*fewer, *sets[1:]]).run()
    assert summary["probe"].keys() == {*(one.name for one in sets), "floor-1-3"}
    assert summary["probe"]["floor-1-3"]["steps"] == [4, 5]


def test_the_limit_of_steps_ends_the_run_and_is_kept_when_resumed(tmp_path: Path) -> None:
    assert Run(tmp_path, make_pairs(40), [], max_steps=3).run()["steps"] == 3
    assert Run(tmp_path, make_pairs(40), [], max_steps=3).run()["steps"] == 3
    assert Run(tmp_path, make_pairs(40), [], max_steps=4).run()["steps"] == 4


def test_the_limit_of_seconds_counts_from_the_first_pair(tmp_path: Path) -> None:
    now = itertools.count(0.0, 1.0)
    with (
        Publisher("tcp://127.0.0.1:0", device="baby", epoch=EPOCH, on_full="wait") as publisher,
        Subscriber([publisher.endpoint]) as live,
    ):
        waits = iter(range(3))

        def stop() -> bool:
            """Looked at between events: after three waits the device begins."""
            if next(waits, None) is None and publisher.sent == 0:
                for pair in make_pairs(8):
                    publisher.send(pair)
                until(lambda: live.backlog() == 8)  # while it waits its clock goes on
            return False

        summary = Run(tmp_path, live, [], clock=lambda: next(now), train_s=30.0, stop=stop).run()
    assert summary["steps"] > 0
    assert 30 <= summary["seconds"] < 400


def test_a_run_without_any_pair_still_concludes(tmp_path: Path, digits: ControlSet) -> None:
    summary = Run(tmp_path, make_pairs(0), [digits]).run()
    write_report(tmp_path)
    assert (summary["pairs_received"], summary["steps"], summary["loss_first"]) == (0, 0, None)
    assert summary["rotation"] == {}  # of random weights they say nothing
    assert (summary["samples_per_s"], summary["duty_cycle"]) == (0.0, 0.0)


def test_a_loss_that_is_not_finite_commits_the_last_good_weights_and_is_raised(tmp_path: Path) -> None:
    Run(tmp_path, make_pairs(8), [], learner=tiny_learner(SETTINGS)).run()
    learner, whites = tiny_learner(SETTINGS), [white_pair(seq) for seq in range(8, 16)]
    learner.objective.__class__ = Poisonable
    run = Run(tmp_path, make_pairs(8) + whites, [], learner=learner)
    with pytest.raises(NonFiniteLoss):
        run.run()
    assert learner.steps == 5
    assert digest(committed(tmp_path, SETTINGS)) == digest(learner)


def test_a_refused_step_is_in_the_lines_with_the_names_of_its_pairs(tmp_path: Path) -> None:
    pairs = [*make_pairs(9), white_pair(9), *make_pairs(6, first=10)]
    run = Run(tmp_path, pairs, [], learner=poisonable())
    summary = run.run()
    assert [line["refused"] for line in run.directory.lines("steps") if line["refused"]] == [[f"baby/{EPOCH[:8]}/9"]]
    assert summary["reservoir"]["quarantined"] == 1
    assert summary["loss_last"] == summary["loss_last"]


def test_a_rollback_is_in_the_lines_the_summary_and_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(TINY, guard=GuardConfig(patience_steps=4))
    run = Run(tmp_path, make_pairs(12), [], learner=tiny_learner(config))
    gauges = {"teacher_information": torch.zeros(())}
    monkeypatch.setattr("learner.objectives.babyagent.target_gauges", lambda *_: gauges)
    summary = run.run()
    assert summary["rollbacks"] == 1
    lines = run.directory.lines("steps")
    assert [bool(line["rolled_back"]) for line in lines] == [step == 4 for step in range(1, 7)]
    assert "rollbacks after a collapse" in write_report(tmp_path).read_text()


def test_a_probe_that_fails_is_said_counted_and_left_out_and_training_goes_on(
    tmp_path: Path, digits: ControlSet, caplog: pytest.LogCaptureFixture
) -> None:
    """Its images break after the first probe; another set stays whole."""
    broken, looks = replace(digits, name="broken"), itertools.count()

    def stop() -> bool:
        if next(looks) == 12:
            object.__setattr__(broken, "test_images", broken.test_images[:, :5])
        return False

    learner = tiny_learner()
    run = Run(
        *(tmp_path, make_pairs(80), [broken, digits]),
        learner=learner,
        stop=stop,
        clock=lambda: float(learner.steps),
        probe_every_s=8.0,
    )
    assert run.run()["steps"] == 40
    failed = re.findall(r"probe failed step=(\d+) set=broken encoder=student: \w+Error", caplog.text)
    assert len(failed) > 1
    assert int(failed[0]) < 40 == int(failed[-1])
    lines = run.directory.lines("probes")
    last = {name: max(line["step"] for line in lines if line["set"] == name) for name in ("broken", "digits")}
    assert last["broken"] < last["digits"] == 40
    undisturbed = tiny_learner()
    trained(undisturbed, make_pairs(80))
    assert digest(undisturbed) == digest(run.learner) == digest(committed(tmp_path))
    write_report(tmp_path)


def full_disk(path: Path, *, look: int) -> Callable[[], bool]:
    """A stop that never stops, but leaves no room for this file from its so many-th look on."""
    looks = itertools.count()

    def stop() -> bool:
        if next(looks) == look:
            path.unlink()
            path.symlink_to("/dev/full")
        return False

    return stop


def test_a_full_disk_for_the_probes_does_not_stop_training(
    tmp_path: Path, digits: ControlSet, caplog: pytest.LogCaptureFixture
) -> None:
    stop = full_disk(tmp_path / "probes.jsonl", look=12)
    assert Run(tmp_path, make_pairs(20), [digits], stop=stop, probe_every_s=0.0).run()["steps"] == 10
    assert "probe failed step=10 set=digits encoder=student: OSError(28" in caplog.text


def test_a_process_without_descriptors_trains_on_and_commits_once_it_has_some(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    looks = itertools.count()

    def stop() -> bool:
        if next(looks) == 4:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        elif "the next commit tries again" in caplog.text:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            return True
        elif resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 3:
            time.sleep(0.25)  # the commit goes on in its own thread; there are pairs for 50 s of looks
        return False

    try:
        run = Run(tmp_path, make_pairs(400), [], stop=stop, commit_every_s=0.0)
        run.run()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "the next commit tries again" in caplog.text
    assert digest(committed(tmp_path)) == digest(run.learner)


def test_a_full_disk_for_the_steps_does_not_stop_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stop = full_disk(tmp_path / "steps.jsonl", look=4)
    run = Run(tmp_path, make_pairs(20), [], stop=stop)
    run.run()
    assert run.learner.steps == committed(tmp_path).steps == 10
    said = [record.message for record in caplog.records if "has no line in steps.jsonl" in record.message]
    assert 1 < len(said) < 6


def test_while_no_device_is_there_it_says_where_it_waits_for_one(tmp_path: Path) -> None:
    seconds = itertools.count()
    looks = itertools.count()
    with Subscriber(["tcp://127.0.0.1:9"]) as live:
        run = Run(tmp_path, live, [], stop=lambda: next(looks) > 8, clock=lambda: float(next(seconds)))
        run.run()
    assert re.search(r"waiting for a device at tcp://127.0.0.1:9 \(\d+ s so far\)\n", run.text.getvalue())


class Closing(Acknowledging):
    """Remembers in which order it was used."""

    def __init__(self, pairs: list[EncodedPair]) -> None:
        super().__init__(pairs)
        self.events: list[str] = []

    def receive(self, limit: int, timeout_s: float) -> list[EncodedPair]:
        try:
            return super().receive(limit, timeout_s)
        except EndOfStream:
            self.events.append("ended")
            raise

    def acknowledge(self, cursor: Cursor) -> None:
        self.events.append(f"acknowledged {cursor['given']}")

    def close(self) -> None:
        self.events.append("closed")


def test_when_the_stream_ends_all_of_it_is_acknowledged_and_the_device_let_go_before_the_conclusion(
    tmp_path: Path, digits: ControlSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Closing(make_pairs(20))

    def noted(encoder: Encoder, control: ControlSet, *, device: torch.device) -> ProbeResult:
        stream.events.append("probing")
        return run_probe(encoder, control, device=device)

    monkeypatch.setattr(prober, "run_probe", noted)
    Run(tmp_path, stream, [digits], commit_every_s=3600.0, probe_every_s=3600.0).run()
    before, after = (stream.events[: stream.events.index("ended")], stream.events[stream.events.index("ended") :])
    assert after[:3] == ["ended", "acknowledged 20", "closed"]
    assert {*before, *after[3:]} == {"probing"}
    assert sum(event.startswith("acknowledged") for event in stream.events) == 1


class Unhurried(Acknowledging):
    """Gives no more than 20 pairs ahead of what was acknowledged."""

    def receive(self, limit: int, timeout_s: float) -> list[EncodedPair]:
        ahead = self.cursor()["given"] - max(self.acknowledged, default=0)
        if ahead < 20:
            return super().receive(min(limit, 20 - ahead), timeout_s)
        time.sleep(0.001)
        return []


def test_training_goes_on_during_commits_and_each_of_them_is_acknowledged(tmp_path: Path) -> None:
    stream = Unhurried(make_pairs(60))
    Run(tmp_path, stream, [], commit_every_s=0.0).run()
    assert len(stream.acknowledged) > 2
    assert stream.acknowledged == sorted(stream.acknowledged)
    assert stream.acknowledged[-1] == 60


def test_a_commit_that_fails_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    run = Run(tmp_path, make_pairs(60), [], commit_every_s=0.0)
    run.directory.checkpoints.write_text("in the way")
    with pytest.raises(OSError, match=r"checkpoints"):
        run.run()


def test_a_source_that_ends_before_the_first_step_is_a_problem_with_a_remedy(tmp_path: Path) -> None:
    few = Run(tmp_path / "few", make_pairs(5), []).run()
    assert few["problem"].startswith("nothing was learned: 5 pairs came, and the first step needs 3 more. ")
    assert "--pacing.batch-size" in few["problem"]
    assert "before its first pair" in Run(tmp_path / "none", make_pairs(0), []).run()["problem"]
    assert Run(tmp_path / "enough", make_pairs(8), []).run()["problem"] == ""
    assert Run(tmp_path / "by hand", make_pairs(5), [], stop=lambda: True).run()["problem"] == ""
    assert Run(tmp_path / "wanted", make_pairs(5), [], max_steps=0).run()["problem"] == ""


def test_a_few_pictures_over_and_over_are_too_little_to_learn_from(tmp_path: Path) -> None:
    assert Run(tmp_path / "many", make_pairs(120), []).run()["warning"] == ""
    summary = Run(tmp_path / "few", make_pairs(16), []).run()
    assert "too little to learn from: 16 pairs show only 16 different pictures" in summary["warning"]
    assert "warning: too little" in describe(summary, tmp_path)


def test_the_end_by_hand_takes_a_last_probe_unless_it_is_hurried(tmp_path: Path, digits: ControlSet) -> None:
    for hurried in (False, True):
        learner, path = tiny_learner(), tmp_path / str(hurried)
        run = Run(
            *(path, make_pairs(24), [digits]),
            learner=learner,
            stop=lambda one=learner: one.steps >= 3,  # type: ignore[misc]
            hurry=lambda h=hurried: h,  # type: ignore[misc]
        )
        summary = run.run()
        assert summary["steps"] == 3
        assert summary["probed_steps"] == [0, 0 if hurried else summary["steps"]]
        assert (path / "album.npz").is_file() != hurried
        assert digest(committed(path)) == digest(run.learner)
        assert ("no report; this writes it" in describe(summary, path, reported=not hurried)) == hurried


class Killed(BaseException):
    """Ends a process in the middle, as kill -9 does: nothing is committed."""


def test_a_run_killed_before_its_first_commit_says_that_it_starts_over_and_goes_on(tmp_path: Path) -> None:
    learner = tiny_learner()

    def stop() -> bool:
        if learner.steps == 3:
            raise Killed
        return False

    killed = Run(tmp_path, make_pairs(20), [], learner=learner, stop=stop)
    with pytest.raises(Killed):
        killed.run()
    assert len(killed.directory.lines("steps")) == 3
    again = Run(tmp_path, make_pairs(20), [])
    assert again.run()["steps"] == 10
    said = "no commit yet of what an earlier process has learned here: the run starts over"
    assert (said in killed.text.getvalue(), said in again.text.getvalue()) == (False, True)


def test_a_last_probe_that_takes_too_long_after_a_stop_is_left_out_and_this_is_said(
    tmp_path: Path, digits: ControlSet
) -> None:
    learner, now_s = tiny_learner(), [0.0]

    def slow(*_: object) -> None:
        now_s[0] += AFTER_STOP_S

    run = Run(
        *(tmp_path, make_pairs(24), [digits]),
        learner=learner,
        stop=lambda: learner.steps >= 3,
        clock=lambda: now_s[0],
        probe_every_s=1e9,
    )
    learner.objective.encoders()["student"].register_forward_pre_hook(slow)
    summary = run.run()
    assert summary["probed_steps"] == [0, 0]
    assert "the rest of the last probe is left out" in run.text.getvalue()
    assert digest(committed(tmp_path)) == digest(learner)


def test_rotated_images_that_take_too_long_are_left_out_and_this_is_said(tmp_path: Path, digits: ControlSet) -> None:
    learner, now_s = tiny_learner(), [0.0]

    def slow(_encoder: object, batch: tuple[torch.Tensor]) -> None:
        now_s[0] += ROTATED_S / 8  # the probes have 2 batches for each encoder, the rotated images 6

    run = Run(tmp_path, make_pairs(24), [digits], learner=learner, clock=lambda: now_s[0], probe_every_s=1e9)
    learner.objective.encoders()["student"].register_forward_pre_hook(slow)
    learner.objective.encoders()["teacher"].register_forward_pre_hook(slow)
    summary = run.run()
    assert summary["probed_steps"] == [0, summary["steps"]]
    assert summary["rotation"]["digits"].keys() == {"student"}
    assert "the rest of the rotated images is left out" in run.text.getvalue()


def test_probes_and_commits_are_no_time_of_training_and_the_summary_says_what_took_how_long(
    tmp_path: Path, digits: ControlSet
) -> None:
    times = Times(0.0)
    times.pause("probes", 50.0)  # before the first pair
    times.pair_received(60.0)
    times.pause("probes", 30.0)
    times.pause("commits", 5.0)
    assert times.trained_s(100.0) == 5.0
    summary = Run(tmp_path, make_pairs(24), [digits], probe_every_s=0.0, commit_every_s=0.0).run()
    spent_s = summary["spent_s"]
    assert spent_s.keys() == {"training", "waiting for pairs", "probes", "commits", "rotated images", "pictures"}
    assert sum(spent_s.values()) <= summary["seconds"] + 0.5
    assert re.search(
        r"^time +training \d+ s, waiting for pairs \d+ s, probes ", describe(summary, tmp_path), re.MULTILINE
    )


def test_a_probe_shows_how_far_it_is_where_there_is_no_terminal(tmp_path: Path, digits: ControlSet) -> None:
    ticks = itertools.count()
    run = Run(tmp_path, make_pairs(8), [digits], clock=lambda: 10.0 * next(ticks))
    run.run()
    for text in ("probing digits, teacher: 40 images so far", "turning the images of digits, student: 0 images so far"):
        assert text in run.text.getvalue()

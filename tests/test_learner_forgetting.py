"""A run that has forgotten what its start knew goes back, says so, and hands out no weights that are worse than its start."""

from __future__ import annotations

import dataclasses
import json
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from committing import run as training
from hypothesis import given
from hypothesis import strategies as st
from learner_state import digest
from numpy.typing import NDArray
from prometheus_client import generate_latest
from published_weights import official
from recorded import recorded
from safetensors.torch import load_file
from service_run import Run as Service
from tiny_learner import TINY, make_pairs, tiny_learner

from learner.__main__ import main
from learner.adapt.forgetting import ForgettingConfig, ForgettingGuard, Judgement
from learner.config import LearnerConfig
from learner.errors import SettingsError
from learner.loop import Learner
from learner.metrics import LearnerMetrics
from learner.page.live import Live
from learner.page.overview import state_of, wrong
from learner.page.verdict import RunState, concerns
from learner.probes.control_sets import ControlSet, load_control
from learner.runs.checkpoint import load_checkpoint, save_checkpoint
from learner.runs.fork import Fork
from learner.service.summary import describe
from learner.service.timing import Rhythm
from learner.weights.cooldown import branch
from learner.weights.latest import LatestWeights

pytestmark = pytest.mark.usefixtures("own_signals", "one_thread")

GUARDED = ForgettingConfig(patience_probes=2)
CPU = torch.device("cpu")
Right = NDArray[np.bool_]


def right(misses: int, of: int = 100) -> Right:
    return np.arange(of) >= misses


def judged(guard: ForgettingGuard, step: int, **sets: Right) -> Judgement:
    found = guard.observe(step, {(name, "student"): values for name, values in sets.items()})
    assert found is not None
    return found


def test_a_loss_is_that_of_pairs_of_answers_with_their_standard_error() -> None:
    guard = ForgettingGuard(GUARDED)
    assert judged(guard, 0, a=right(10)) == Judgement("student", 0.0, 0.0, False, False)
    now = right(10)
    now[50:56], now[:2] = False, True  # six forgotten, two learned
    found = judged(guard, 5, a=now)
    lost = [1] * 6 + [-1] * 2 + [0] * 92
    assert found.loss == pytest.approx(0.04)
    assert found.error == pytest.approx(np.std(lost, ddof=1) / 10)
    assert not found.is_worse  # 1.4 standard errors
    assert judged(guard, 6, a=right(20)).is_worse  # ten forgotten, none learned: 3.3 standard errors


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60), st.floats(0, 0.5), st.floats(0, 3))
def test_networks_are_worse_where_the_loss_is_more_than_both_limits(
    answers: list[tuple[bool, bool]], max_loss: float, max_errors: float
) -> None:
    guard = ForgettingGuard(ForgettingConfig(patience_probes=1, max_loss=max_loss, max_errors=max_errors))
    before, now = (np.array(column) for column in zip(*answers, strict=True))
    judged(guard, 0, a=before)
    found = judged(guard, 1, a=now)
    change = np.array([int(one) - int(other) for one, other in answers])
    error = change.std(ddof=1) / len(change) ** 0.5
    assert found.loss == pytest.approx(before.mean() - now.mean())
    assert found.error == pytest.approx(error)
    assert found.is_worse == found.goes_back == (found.loss > max_loss and found.loss > max_errors * found.error)


def test_only_two_probes_in_a_row_take_the_networks_back() -> None:
    guard = ForgettingGuard(GUARDED)
    judged(guard, 0, a=right(0))
    goes_back = [judged(guard, 1 + n, a=right(misses)).goes_back for n, misses in enumerate((20, 0, 20, 20, 20))]
    assert goes_back == [False, False, False, True, True]
    guard.rolled_back(9)
    assert (guard.since, guard.rollbacks, guard.rate_factor) == (9, 1, 0.5)
    assert not judged(guard, 10, a=right(20)).goes_back


def test_of_several_sets_the_mean_counts_of_several_encoders_the_worst_and_new_sets_do_not() -> None:
    guard = ForgettingGuard(GUARDED)
    judged(guard, 0, a=right(20), b=right(20))
    found = judged(guard, 1, a=right(30), b=right(14), new=right(90))
    assert found.loss == pytest.approx((0.10 - 0.06) / 2)
    assert judged(guard, 2, a=right(30), b=right(20, of=50)).loss == pytest.approx(0.10)  # b is another set now
    start = {(name, who): right(20) for name in "ab" for who in ("student", "teacher")}
    guard.observe(0, start)
    worst = guard.observe(1, start | {("a", "teacher"): right(50)})
    assert worst is not None
    assert (worst.encoder, worst.is_worse) == ("teacher", True)
    assert worst.loss == pytest.approx(0.15)
    assert ForgettingGuard(GUARDED).observe(3, start) is None
    assert "the control sets of the teacher are 15.0 points below the start (standard error" in str(worst)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"^forgetting: max_loss must be at least 0 and at most 1, got 2$"):
        ForgettingConfig(max_loss=2)
    assert not ForgettingGuard(ForgettingConfig()).watches


def watched(**changes: Any) -> Learner:
    return tiny_learner(dataclasses.replace(TINY, forgetting=dataclasses.replace(GUARDED, **changes)))


def taught(learner: Learner, steps: int, first: int = 0) -> None:
    for pair in make_pairs(16, first):
        learner.add(pair)
    for _ in range(steps):
        learner.step()


def probed(learner: Learner, misses: int) -> Judgement:
    found = learner.judge({("a", who): right(misses) for who in ("student", "teacher")})
    assert found is not None
    return found


def networks(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in learner.objective.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_networks_that_forgot_are_those_of_the_last_good_probe_again_and_go_on_at_half_the_rate() -> None:
    learner = watched()
    probed(learner, 0)
    taught(learner, 3)
    probed(learner, 0)
    good = networks(learner)
    for goes_back in (False, True):
        learner.step()
        assert probed(learner, 30).goes_back is goes_back
        assert same(networks(learner), good) is goes_back
    assert learner.trainer.fine is not None
    assert learner.trainer.fine["step"] == 3
    assert not learner.trainer.optimizer.state
    rate = learner.config.schedule.learning_rate
    assert [learner.step().learning_rate for _ in range(3)] == pytest.approx([0.25 * rate, 0.5 * rate, 0.5 * rate])
    assert learner.trainer.forgetting.figures()["forgetting"]["rollbacks"] == 1
    assert tiny_learner().judge({("a", "student"): right(0)}) is None, "nobody asked for it"


@pytest.mark.parametrize("stop", range(4))
def test_a_run_that_goes_on_from_a_commit_judges_and_goes_back_as_one_that_never_stopped(
    stop: int, tmp_path: Path
) -> None:
    def life(learner: Learner, probes: range) -> None:
        for number in probes:
            probed(learner, (0, 0, 30, 30, 0)[number])
            learner.step()

    whole = watched()
    taught(whole, 0)
    whole.pacing.received(100)
    state = None
    for number in range(5):
        life(whole, range(number, number + 1))
        if number == stop:
            save_checkpoint(tmp_path / "state", whole.state_dict())
            state = load_checkpoint(tmp_path / "state")
    assert state is not None
    after = watched()
    pairs = make_pairs(16)
    after.load_state_dict(state, [pairs[key] for key in state["memory"]["keys"]])
    life(after, range(stop + 1, 5))
    assert whole.trainer.forgetting.rollbacks == 1
    assert digest(after) == digest(whole)


def exported(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"student.encoder.backbone.{name}": value for name, value in load_file(folder / "student.safetensors").items()
    }


def test_weights_that_are_worse_or_were_not_measured_are_not_handed_out_unless_asked_for(tmp_path: Path) -> None:
    learner, metrics = watched(), LearnerMetrics()
    usual = LatestWeights(learner, tmp_path / "usual", metrics=metrics)
    asked = LatestWeights(learner, tmp_path / "asked", metrics=LearnerMetrics(), hands_out_worse=True)

    def commit() -> None:
        learner.trainer.guard.doubt = 0
        for latest in (usual, asked):
            latest.export(learner.state_dict())

    def has(folder: str, state: dict[str, torch.Tensor]) -> bool:
        return all(torch.equal(value, state[name]) for name, value in exported(tmp_path / folder).items())

    probed(learner, 0)
    start = networks(learner)
    taught(learner, 2)
    commit()
    assert has("usual", start)
    assert has("asked", networks(learner))
    assert json.loads((tmp_path / "usual" / "student.json").read_text())["figures"]["steps"] == 0
    assert b"babyagent_learner_exported_step 0.0" in generate_latest(metrics.registry)
    probed(learner, 0)
    commit()
    assert has("usual", networks(learner))
    good = networks(learner)
    learner.step()
    probed(learner, 30)
    commit()
    assert has("usual", good)
    said = usual.conclude({"steps": 3})
    assert said.startswith(
        "export/ has the weights of step 2: the control sets of the student are 30.0 points below the start"
    )
    assert said.endswith("--export-worse hands out those of each commit")
    probed(learner, 0)
    assert usual.conclude({"steps": 3}) == ""
    assert has("usual", networks(learner))


def test_a_cool_down_and_a_fork_of_a_run_that_is_worse_begin_at_its_last_good_probe(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, forgetting=GUARDED)
    goods = {}
    for name, misses in (("worse", 30), ("fine", 0)):
        with training(tmp_path / name, config=config) as run:
            probed(run.learner, 0)
            run.train(3)
            probed(run.learner, 0)
            goods[name] = networks(run.learner)
            run.train(2)
            probed(run.learner, misses)
            run.committer.finish()
        cooled, _ = branch(tmp_path / name, CPU)
        assert same(networks(cooled), goods[name]) is (name == "worse")
        forked = Learner(dataclasses.replace(config, fork=str(tmp_path / name)), CPU, begins=False)
        with closing(Fork(tmp_path / name)) as fork:
            fork.networks(forked)
        assert same(networks(forked), goods[name] if name == "worse" else networks(cooled))


def test_a_rollback_is_seen_on_the_page_and_by_prometheus(tmp_path: Path) -> None:
    learner, metrics = watched(), LearnerMetrics()
    live = Live(learner, lambda: 0.0)
    assert not [one for one in concerns(state_of(live, {}, tmp_path)) if "forg" in one.short]
    probed(learner, 0)
    taught(learner, 1)
    for _ in range(2):
        metrics.judged(probed(learner, 30))
    page = wrong(state_of(live, {}, tmp_path))
    assert (
        "At the last probe the control sets of the student are 30.0 points below the start (standard error 4.6)."
        in page
    )
    assert "The networks went back once to those of the last good probe" in page
    text = generate_latest(metrics.registry).decode()
    assert "babyagent_learner_forgetting_rollbacks_total 1.0" in text
    assert "babyagent_learner_forgotten_ratio 0.3" in text
    levels = [
        concerns(RunState(below=below, forgot=forgot))[0].level for below, forgot in (("x", 1), ("x", 0), ("", 1))
    ]
    assert levels == ["bad", "warn", "wait"]


def test_probes_by_steps_come_at_each_multiple_whatever_time_it_is() -> None:
    rhythm = Rhythm(60.0, step=4, now_s=0.0, every_steps=4)
    due = []
    for step in range(4, 14):
        if rhythm.is_due(step, now_s=1e9):
            due.append(step)
            rhythm.interrupted(step, 0.0, 1e9)
    assert due == [8, 12]


WORDS = (
    *("--objective", "babyagent"),
    *("--objective.attention-size", "24", "--objective.teacher-size", "16", "--objective.student-size", "16"),
    *("--objective.prototypes", "16", "--objective.hidden", "32", "--objective.crops", "2", "--threads", "1"),
    *("--pacing.batch-size", "8", "--pacing.replay-ratio", "2", "--control-limit", "200", "--http-port", "0"),
    *("--memory.canvas", "24", "32", "--memory.capacity", "16", "--memory.fresh-capacity", "16", "--json"),
    *(
        "--adapt",
        "full",
        "--adapt.learning-rate",
        "0.3",
        "--adapt.heads-alone-steps",
        "0",
        "--schedule.warmup-steps",
        "1",
    ),
    *("--adapt.layer-decay", "1", "--adapt.anchor-pairs", "4", "--probe-every-steps", "2"),
    *("--forgetting.max-errors", "0"),
)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(recorded(tmp_path_factory.mktemp("walk") / "walk.mcap", make_pairs(56)))


def learned(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*words]) == 0, capsys.readouterr()
    summary: dict[str, Any] = json.loads(capsys.readouterr().out)
    return summary


def lines(run: Path) -> list[tuple[float, float]]:
    read = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    return [(line["loss"], line["learning_rate"]) for line in read]


def test_a_run_with_a_huge_rate_goes_back_says_so_and_hands_out_its_start_repeatably_and_when_it_is_stopped(
    walk: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    given, runs = official("dino", patch=8), [tmp_path / name for name in ("one", "two", "stopped")]
    torch.save(given, tmp_path / "dino.pth")
    words = ("--encoder.weights", str(tmp_path / "dino.pth"), *WORDS, "--replay", walk)
    for run in runs[:2]:
        caplog.clear()
        summary = learned(capsys, *words, "--run-dir", str(run))
        assert summary["steps"] == 14
        assert summary["forgetting"]["rollbacks"] >= 1
        assert re.search(r"forgetting +the networks went back (once|\d+ times)", describe(summary, run))
        report = (run / "report.html").read_text(encoding="utf-8")
        assert "compared with those of the start: the networks went back" in report
        said = (
            r"forgot step=4 to=0 rollbacks=1: .* points below the start \(.*\); the learning rate is now 0\.5 of that"
        )
        assert re.search(said, caplog.text)
        rates = [rate for _, rate in lines(run)]
        assert min(rates[5:]) <= 0.5 * max(rates[:4])
    learned(capsys, *words, "--run-dir", str(runs[2]), "--max-steps", "5")
    learned(capsys, *words, "--run-dir", str(runs[2]))
    assert lines(runs[0]) == lines(runs[1]) == lines(runs[2])
    for run in runs:
        weights = load_file(run / "export" / "student.safetensors")
        step = json.loads((run / "export" / "student.json").read_text())["figures"]["steps"]
        probes = [json.loads(line) for line in (run / "probes.jsonl").read_text().splitlines()]
        of_student = {line["step"]: line["knn"] for line in probes if line["encoder"] == "student"}
        assert of_student[step] >= of_student[0] - 0.01 - 1e-9
        if step == 0:
            assert all(torch.equal(value, given[name]) for name, value in weights.items())


def test_runs_of_before_have_no_guard() -> None:
    assert LearnerConfig().forgetting.patience_probes == 0
    assert not {"forgetting", "fine"} & tiny_learner().state_dict().keys()


# What a run that stops and goes on knows


@pytest.fixture(scope="module")
def digits() -> ControlSet:
    return load_control("digits", size=16, limit_train=40, limit_test=20)


def test_a_last_probe_that_is_good_is_in_the_run_for_forks_exports_and_the_next_session(
    digits: ControlSet, tmp_path: Path
) -> None:
    learner = watched(max_loss=1.0)
    Service(tmp_path / "run", make_pairs(24), [digits], learner=learner, max_steps=5).run()
    forked = Learner(dataclasses.replace(learner.config, fork=str(tmp_path / "run")), CPU, begins=False)
    with closing(Fork(tmp_path / "run")) as fork:
        fork.networks(forked)
    assert same(networks(forked), networks(learner))
    after = watched(max_loss=1.0)
    Service(tmp_path / "run", make_pairs(24), [digits], learner=after, max_steps=5).run()
    assert json.loads((tmp_path / "run" / "export" / "student.json").read_text())["figures"]["steps"] == 5
    assert (after.trainer.fine or {})["step"] == 5


def test_a_probe_that_a_stop_has_cut_short_is_made_up_for_where_probes_go_by_steps(
    digits: ControlSet, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"probe_every_steps": 2, "max_steps": 4}
    learner = watched(max_loss=1.0)

    def stop() -> bool:
        return learner.steps == 4

    Service(tmp_path / "run", make_pairs(24), [digits], learner=learner, stop=stop, hurry=stop, **asked).run()
    assert (learner.steps, learner.trainer.forgetting.judged_step) == (4, 2)
    after = watched(max_loss=1.0)
    Service(tmp_path / "run", make_pairs(24), [digits], learner=after, **asked).run()
    assert (after.steps, after.trainer.forgetting.judged_step) == (4, 4)


def test_a_set_of_the_same_name_with_other_images_is_not_compared_and_a_person_is_told(
    digits: ControlSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Service(tmp_path / "run", make_pairs(24), [digits], learner=watched(), max_steps=3).run()
    assert "guard" not in caplog.text
    others = [load_control("digits", size=24, limit_train=40, limit_test=20), dataclasses.replace(digits, name="more")]
    after = watched()
    Service(tmp_path / "run", make_pairs(24), others, learner=after, max_steps=4).run()
    assert after.trainer.forgetting.last is None
    assert (
        "nothing guards against forgetting, and export/ keeps the weights that it has: no control set is" in caplog.text
    )
    Service(tmp_path / "run", make_pairs(24), [digits, others[1]], learner=watched(), max_steps=5).run()
    assert "the guard against forgetting leaves out more: the start was not measured on these images" in caplog.text


def test_a_run_without_control_sets_at_its_start_goes_on_without_a_warning(
    digits: ControlSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for steps, controls in ((3, []), (4, []), (5, [digits])):
        Service(tmp_path / "run", make_pairs(24), controls, learner=watched(), max_steps=steps).run()
    assert "guard" not in caplog.text


def test_the_start_of_a_run_of_an_earlier_version_is_known_by_the_names_of_its_sets() -> None:
    guard = ForgettingGuard(GUARDED)
    state = {"start": [["a", "student", right(0)]], "worse_in_a_row": 0, "since": 0, "rollbacks": 0}
    guard.load_state_dict(state)
    assert guard.knows("a 0123456789abcdef")
    assert not guard.knows("b 0123456789abcdef")
    found = guard.observe(7, {("a 0123456789abcdef", "student"): right(30)})
    assert found is not None
    assert found.loss == pytest.approx(0.3)

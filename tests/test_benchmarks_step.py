"""The step bench: its arithmetic, the peers against the published formulas, and a live learner over TCP once for real."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image
from tiny_learner import CANVAS, TINY
from torch import Tensor

from benchmarks.__main__ import main
from benchmarks.step.bench import compared, goals_of
from benchmarks.step.live import LiveLearner, Profile
from benchmarks.step.peers import PEERS, DinoHead, Peer
from benchmarks.step.rows import BARE, FROM_VIEWS, resting_steps
from learner.objectives.babyagent import BabyAgentConfig

CPU = torch.device("cpu")
OBJECTIVE = cast(BabyAgentConfig, TINY.objective)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning"),  # lightly's
]


def here(name: str) -> bool:
    return name != "lightly" or importlib.util.find_spec("lightly") is not None


def views(seed: int = 0, count: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, 3, 16, 16, generator=generator) for _ in range(1 + OBJECTIVE.crops)]


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.skipif(not here(name), reason="[peers]")) for name in PEERS]
)
def peer(request: pytest.FixtureRequest) -> Peer:
    torch.manual_seed(0)
    return PEERS[request.param](TINY, CPU)


def test_ratios_are_taken_within_a_round_and_their_median_counts() -> None:
    seconds = {
        "bare": [1.0, 2.0, 4.0],
        "live": [1.1, 2.0, 5.2],
        "from views": [1.0, 1.0, 1.0],
        "dino": [1.0, 2.0, 3.0],
        "dino with views": [2.0, 6.0, 16.0],
    }
    figures = compared(seconds, ["dino"])
    assert figures["overhead"] == pytest.approx(0.1)
    assert figures["speedup"] == {"dino": 3.0}
    assert figures["speedup_from_views"] == {"dino": 2.0}
    assert figures["spread"]["overhead"] == [0.0, 0.3]
    assert figures["spread"]["speedup.dino"] == [2.0, 4.0]


GOOD: dict[str, Any] = {
    "device": "cpu",
    "overhead": 0.02,
    "speedup": {"dino": 1.3, "lightly": 1.4},
    "latency_s": {"p50": 0.25, "p99": 1.0},
}


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({}, []),
        ({"overhead": 0.021}, ["overhead"]),
        ({"speedup": {"dino": 1.29, "lightly": 1.4}}, ["speedup.dino"]),
        ({"device": "cuda: H100"}, ["speedup.dino", "speedup.lightly"]),
        ({"latency_s": {"p50": 0.3, "p99": 0.9}}, ["latency_s.p50"]),
        ({"overhead": math.nan}, ["overhead"]),
    ],
)
def test_a_goal_that_is_not_reached_is_named(change: dict[str, Any], names: list[str]) -> None:
    assert [goal.name for goal in goals_of(GOOD | change) if not goal.met] == names


def test_a_part_counts_its_time_without_that_of_the_parts_inside() -> None:
    def ticking() -> Iterator[float]:
        yield from (0.0, 1.0, 3.0, 4.0, 4.5, 10.0)

    ticks = ticking()
    profile = Profile(CPU, clock=lambda: next(ticks))
    with profile.part("outer"):
        for _ in range(2):
            with profile.part("inner"):
                pass
    assert profile.seconds == {"inner": 2.5, "outer": 7.5}


def test_a_profiled_method_is_itself_again_afterwards() -> None:
    profile, module = Profile(CPU), torch.nn.Linear(2, 2)
    with profile.around(module, "forward", "forward"):
        module(torch.zeros(1, 2))
    assert "forward" not in vars(module)
    assert set(profile.seconds) == {"forward"}


def test_the_published_head_puts_out_cosines() -> None:
    head = DinoHead(8, OBJECTIVE)
    features = torch.randn(5, 8)
    unit = torch.nn.functional.normalize(head.mlp(features), dim=-1)
    rows = torch.nn.functional.normalize(head.last.weight, dim=-1)
    assert torch.allclose(head(features), unit @ rows.T, atol=1e-6)


def test_both_peers_have_the_mean_cross_entropy_over_all_crops_as_loss(peer: Peer) -> None:
    crops = views()
    with torch.no_grad():
        past = peer.teacher(crops[0])
        target = torch.softmax(past / OBJECTIVE.teacher_temperature, -1)
        present = [torch.log_softmax(peer.student(crop) / OBJECTIVE.student_temperature, -1) for crop in crops[1:]]
        expected = torch.stack([-(target * each).sum(-1).mean() for each in present]).mean()
    assert float(peer.loss(crops).detach()) == pytest.approx(float(expected), rel=1e-5)


def test_each_crop_of_a_peer_is_trained_on_and_the_teacher_is_not(peer: Peer) -> None:
    crops = [view.requires_grad_() for view in views()]
    torch.autograd.backward(peer.loss(crops))
    assert crops[0].grad is None
    assert all(crop.grad is not None and crop.grad.abs().sum() > 0 for crop in crops[1:])
    assert all(parameter.grad is None for parameter in peer.teacher.parameters())


def test_a_step_of_a_peer_moves_the_student_and_the_teacher_a_little_after_it(peer: Peer) -> None:
    before = [parameter.clone() for parameter in peer.student.parameters()]
    peer.step(views())
    keep = OBJECTIVE.teacher_momentum
    for was, now, past in zip(before, peer.student.parameters(), peer.teacher.parameters(), strict=True):
        assert torch.allclose(past, keep * was + (1 - keep) * now, atol=1e-6)
    assert any(not torch.equal(was, now) for was, now in zip(before, peer.student.parameters(), strict=True))


def test_a_peers_views_are_one_of_the_left_and_n_of_the_right_in_our_sizes(peer: Peer) -> None:
    black, white = Image.new("RGB", (40, 30)), Image.new("RGB", (40, 30), "white")
    made = peer.views([black] * 3, [white] * 3)
    assert [tuple(view.shape) for view in made] == [(3, 3, 16, 16)] * (1 + OBJECTIVE.crops)
    assert made[0].max() < min(view.mean() for view in made[1:])


def test_the_rows_at_rest_train_and_looking_is_itself_again_after_views_at_rest() -> None:
    names = [name for name in PEERS if here(name)]
    steps = resting_steps(TINY, CPU, names, CANVAS)
    assert [*steps] == [BARE, FROM_VIEWS, *(name + suffix for name in names for suffix in ("", " with views"))]
    for step in steps.values():
        step()


def test_a_learner_beside_a_rig_takes_steps_tells_where_their_time_goes_and_loses_nothing(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, memory=dataclasses.replace(TINY.memory, fresh_capacity=64))
    with closing(LiveLearner(config, CPU, tmp_path, 100.0, CANVAS)) as live:
        reports = live.steps(3)
        assert len(reports) == 3
        assert live.source.backlog() == 0
        assert len(live.latencies_s) + live.learner.memory.fresh == live.learner.received >= 8
        assert min(live.latencies_s) > 0
        spent = live.profile(2)
        assert {"add", "gather", "attention pass", "views", "forward", "backward", "EMA"} <= set(spent)
        assert all(seconds >= 0 for seconds in spent.values())
        assert set(live.pauses()) == {"probe", "commit"}
        assert live.source.stats().lost == 0


def test_settings_that_cannot_work_are_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["step", "--rounds", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    if not torch.cuda.is_available():
        assert main(["step", "--device", "cuda"]) == 2
        assert "no GPU" in capsys.readouterr().err

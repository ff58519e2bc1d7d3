"""What every objective of the table, and a sum of two, keeps to. An exception is declared by its class, with a reason."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

import every_objective
import pytest
import torch
from every_objective import (
    CLIPS,
    LENGTH,
    NAMES,
    is_timed,
    pairs_for,
    part_of_a_step,
    see,
    seeded,
    selected,
    small,
    total,
    trainer,
)
from torch import Tensor

from learner.bounds import Bound
from learner.config import to_plain
from learner.errors import SettingsError
from learner.footprint import PAIRS, kept_bytes
from learner.objectives.contract import Outcome
from learner.objectives.table import OBJECTIVES, VIEWS
from learner.objectives.weighted_sum import Sum
from learner.report.album import pictures_of
from learner.report.panels import view_panels
from learner.runs.settings import from_plain
from learner.trainer import Trainer
from learner.views.several import SEVERAL

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.parametrize("name", NAMES)]


def state(made: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in made.objective.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def outcome_of(made: Trainer, seed: int = 0) -> Outcome:
    return made.outcome(pairs_for(made.config.objective.name), seeded(seed))


def test_each_pair_has_a_finite_loss_features_and_a_priority(name: str) -> None:
    outcome, count = outcome_of(trainer(name)), len(pairs_for(name))
    assert outcome.losses.shape == outcome.ranked_by.shape == (count,)
    assert outcome.features.shape == (count, 32)
    assert outcome.losses.isfinite().all()
    assert outcome.features.isfinite().all()
    assert outcome.losses.requires_grad
    assert not outcome.ranked_by.requires_grad
    assert (outcome.ranked_by >= 0).all()
    assert outcome.shared is None or outcome.shared.shape == ()


def test_pairs_in_another_order_have_their_losses_in_that_order(name: str) -> None:
    made, order = trainer(name), torch.tensor([3, 0, 5, 1, 4, 2])
    if is_timed(name):
        order = torch.arange(CLIPS * LENGTH).view(CLIPS, LENGTH)[order].flatten()  # a clip stays together
    views = made.objective.views(pairs_for(name), seeded())
    see(made.objective, views)
    straight = outcome_of(made)
    see(made.objective, selected(views, order))
    turned = made.outcome(selected(pairs_for(name), order), seeded())
    assert torch.allclose(turned.losses, straight.losses[order], rtol=1e-4, atol=1e-5)
    assert torch.allclose(turned.ranked_by, straight.ranked_by[order], rtol=1e-3, atol=1e-5)
    assert torch.allclose(total(turned), total(straight), rtol=1e-4)


def test_gradient_reaches_every_trained_weight_and_nothing_else(name: str) -> None:
    made = trainer(name)
    torch.autograd.backward(total(outcome_of(made)))
    trained = {id(weight) for weight in made.objective.trained()}
    for key, weight in made.objective.named_parameters():
        assert (weight.grad is not None and bool(weight.grad.any())) == (id(weight) in trained), key
    assert {id(weight) for group in made.objective.groups() for weight in group["params"]} == trained


def test_an_equal_generator_gives_an_equal_outcome_and_another_one_another(name: str) -> None:
    made = trainer(name)
    assert torch.equal(outcome_of(made).losses, outcome_of(made).losses)
    assert not torch.equal(outcome_of(made).losses, outcome_of(made, 1).losses)


def test_the_whole_state_travels_in_its_state_dict(name: str) -> None:
    first, second = trainer(name, 1), trainer(name, 2)
    first.step(pairs_for(name))
    second.load_state_dict(copy.deepcopy(first.state_dict()), first.generator.get_state())
    losses = [[made.step(pairs_for(name, seed)).report.loss for seed in (1, 2)] for made in (first, second)]
    assert losses[0] == losses[1]
    assert same(state(first), state(second))


def test_a_step_that_is_refused_leaves_no_trace(name: str) -> None:
    made = trainer(name)
    made.step(pairs_for(name))
    before, moments = state(made), copy.deepcopy(made.optimizer.state_dict()["state"])
    objective = type(made.objective)
    made.objective.__class__ = type(
        "Odd",
        (objective,),
        {
            "forward": lambda self, *all_: dataclasses.replace(
                objective.forward(self, *all_), priority=-torch.ones(len(all_[0]))
            )
        },
    )
    assert made.step(pairs_for(name, 1)).is_refused
    assert same(state(made), before)
    now = made.optimizer.state_dict()["state"]
    assert all(torch.equal(value[key], now[number][key]) for number, value in moments.items() for key in value)


def test_a_pair_that_is_not_finite_spoils_its_own_loss_only_and_its_step_is_refused(name: str) -> None:
    made, batch = trainer(name), pairs_for(name)
    views = made.objective.views(batch, seeded())
    views.large[3], views.small[3] = torch.nan, torch.nan
    see(made.objective, views)
    before = state(made)
    step = made.step(batch)
    assert step.is_refused
    assert same(state(made), before)
    bad = set(step.is_bad.nonzero()[0].tolist())
    if is_timed(name):  # a window has one loss for all of its pairs
        assert 3 in bad <= set(range(LENGTH))
    else:
        assert bad == (set(range(len(batch))) if made.objective.shared_statistics else {3})


def test_in_bfloat16_the_losses_are_nearly_the_same(name: str) -> None:
    made = trainer(name)
    see(made.objective, made.objective.views(pairs_for(name), seeded()))
    exact = outcome_of(made)
    made.config = dataclasses.replace(made.config, precision="bfloat16")
    rough = outcome_of(made)
    assert not torch.equal(rough.features.float(), exact.features)
    assert rough.losses.dtype == torch.float32
    assert torch.allclose(rough.losses.mean(), exact.losses.mean(), rtol=0.1)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What two and three processes come to, each with its part of the batch: one start for all objectives."""
    folders = {count: tmp_path_factory.mktemp(f"of-{count}") for count in (2, 3)}
    words = [str(word) for pair in folders.items() for word in pair]
    path = os.pathsep.join([str(Path(every_objective.__file__).parent), *sys.path])
    subprocess.run(
        [sys.executable, every_objective.__file__, *words],
        env=os.environ | {"PYTHONPATH": path},
        timeout=400,
        check=True,
    )
    return {count: [torch.load(folder / str(number)) for number in range(count)] for count, folder in folders.items()}


def test_several_processes_come_to_what_one_does(name: str, shared: dict[int, list[dict[str, Any]]]) -> None:
    losses, term, gradient, gauges = part_of_a_step(name)
    for parts in shared.values():
        assert torch.allclose(torch.cat([part[name][0] for part in parts]), losses, rtol=1e-6)
        for part in parts:
            assert torch.allclose(part[name][1], term, rtol=1e-6)
            assert torch.allclose(part[name][2], gradient, rtol=1e-6, atol=1e-6 * float(gradient.abs().max()))
            assert part[name][3] == pytest.approx(gauges, rel=1e-3, abs=1e-4)


def test_every_gauge_has_a_meaning(name: str) -> None:
    made = trainer(name)
    assert outcome_of(made).gauges.keys() == made.objective.meanings.keys()
    assert made.step(pairs_for(name)).report.gauges.keys() == made.meanings.keys()
    for meaning in made.meanings.values():
        assert meaning.text.endswith(".")


def test_its_pictures_are_drawn(name: str) -> None:
    made = trainer(name)
    eyes = pairs_for(name, count=2)
    album = pictures_of(made.objective, eyes, seeded())
    assert view_panels(album | {"viewed_left": eyes.left.numpy(), "viewed_right": eyes.right.numpy()}).count("<svg") > 4


def test_the_footprint_is_right_within_a_fifth(name: str) -> None:
    made = trainer(name)
    unit = max(PAIRS, made.config.memory.clip)
    few, some, many = (kept_bytes(made, count) for count in (unit, 2 * unit, 24))
    assert few + (some - few) / unit * (24 - unit) == pytest.approx(many, rel=0.2)


RISES = {
    "mocov1": "as of moco",
    "instance": "its bank begins with random rows, which are easier to tell from the own one than those of pairs",
    "moco": "its queue begins with random keys, which are easier to tell from the own one than those of pairs",
    "context": "its loss is mostly that of the discriminator, which first learns and then is misled by better guesses",
}
MORE_PAIRS = {"visreg": 32, "fairvicreg": 32, "deepcluster": 64}
"""How many it needs in a batch, where that is more than 8: so few rows have no quantiles, those of a device no variance, and are
fewer than clusters."""


def test_thirty_steps_on_an_easy_stream_lower_the_loss(name: str) -> None:
    made = Trainer(small(name), torch.device("cpu"))
    count = None if is_timed(name) else MORE_PAIRS.get(name, 8)
    losses = [made.step(pairs_for(name, step % 2, count)).report.loss for step in range(30)]
    assert (sum(losses[-6:]) < sum(losses[:6])) is (name not in RISES)


def test_each_bound_of_its_settings_is_refused_in_one_line(name: str) -> None:
    config: Any = small(name).objective
    bounded = 0
    for field, hint in get_type_hints(cast(Any, type(config)), include_extras=True).items():
        beyond: list[Any] = ["none"] if get_origin(hint) is Literal else []
        for meta in (one for one in get_args(hint)[1:] if isinstance(one, Bound)):
            limits = ((meta.gt, 0), (meta.ge, -1), (meta.lt, 0), (meta.le, 1))
            beyond += [limit + step for limit, step in limits if limit is not None]
            beyond += [float("nan")]
        for value in beyond:
            bounded += 1
            with pytest.raises(SettingsError, match=rf"^objective: {field} must be .+, got .+$"):
                dataclasses.replace(config, **{field: value})
    assert bounded or all(isinstance(getattr(config, field.name), bool) for field in dataclasses.fields(config))


def test_views_that_it_does_not_take_are_refused_in_one_line(name: str) -> None:
    config = small(name)
    for kind in VIEWS.values():
        views = kind.for_preset("cpu")
        if kind.name == "default" or kind in config.objective.takes:
            dataclasses.replace(config, views=views)
        else:
            with pytest.raises(
                SettingsError, match=rf"^objective {re.escape(name)} cannot take views {kind.name}: choose --views \w+"
            ):
                dataclasses.replace(config, views=views)


def test_it_trains_on_each_kind_of_views_that_it_takes(name: str) -> None:
    for kind in small(name).objective.takes:
        config = dataclasses.replace(small(name), views=kind.for_preset("cpu"))
        made = Trainer(config, torch.device("cpu"))
        batch = pairs_for(name)
        assert not made.step(batch).is_refused
        views = made.objective.views(batch, seeded())
        assert views.large.shape[1] + views.small.shape[1] == config.crops.count
        assert 0 <= float(views.large.min()) <= float(views.large.max()) <= 1
        assert from_plain(to_plain(config)) == config


def test_its_file_is_short(name: str) -> None:
    file = inspect.getfile(OBJECTIVES.get(name, Sum))
    assert len(Path(file).read_text().splitlines()) <= 80


def test_its_settings_are_read_back_as_they_were_written(name: str) -> None:
    assert from_plain(to_plain(small(name))) == small(name)


def test_its_row_in_the_docs_has_its_views_and_its_lines(name: str) -> None:
    page = (Path(__file__).parents[1] / "docs" / "objectives.md").read_text(encoding="utf-8")
    rows = page.partition("## League")[0].splitlines()  # the league's table has rows of the same names
    (row,) = (row.split(" | ") for row in rows if row.startswith(f"| `{name if name in OBJECTIVES else 'A+B'}` |"))
    config, file = small(name).objective, inspect.getfile(OBJECTIVES.get(name, Sum))
    assert row[-1] == f"{len(Path(file).read_text().splitlines())} |"
    if name in OBJECTIVES:
        assert f"`{config.views_name}`" in row[2] or (row[2], config.views_name) == ("several", "two")
        assert row[2].startswith("several") == (set(config.takes) == set(SEVERAL))

"""Labels beside self-supervision: a second loss on the train half of a control set, and probes on what it never saw."""

from __future__ import annotations

import itertools
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from committing import run
from every_objective import CPU, see, seeded, small, some_pairs, total, trainer
from seed_formulas import softmax

from learner.cli.compose import _load_controls
from learner.cli.settings import ProcessConfig
from learner.config import LearnerConfig, to_plain
from learner.errors import ControlError, SettingsError
from learner.loop import Learner
from learner.objectives.foreign import objective_named
from learner.probes.control_sets import ControlSet, load_control
from learner.probes.unseen import unseen
from learner.runs.settings import from_plain
from learner.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


def labelled(**changes: Any) -> Any:
    """NT-Xent with labels, past its random start."""
    objective: Any = trainer("simclr+labels").objective
    objective.second.config = replace(objective.second.config, **changes)
    return objective


def test_the_second_loss_is_the_cross_entropy_of_each_view_of_labelled_images() -> None:
    labels = labelled(images_a_step=5).second
    views = labels.look(some_pairs(5), seeded(1))
    labels.look = lambda _batch, _generator: views
    drawn = torch.randint(len(labels.images), (5,), generator=seeded())
    features = views.through(labels.student.encoder).detach().double().numpy()
    weight, bias = (one.detach().double().numpy() for one in labels.classifier.layer.parameters())
    expected = [
        -math.log(softmax(weight @ one + bias)[int(label)])
        for some, label in zip(features, labels.labels[drawn], strict=True)
        for one in some
    ]
    found = labels(some_pairs(), seeded())
    assert float(found.shared.detach()) == pytest.approx(np.mean(expected), rel=1e-4)
    assert not found.losses.any()


def test_a_weighted_sum_with_labels_ranks_pairs_as_the_first_objective_does_and_both_move_the_encoder() -> None:
    objective = labelled()
    objective.config = replace(objective.config, weight=0.5)
    views = objective.views(some_pairs(), seeded())
    for part in (objective, objective.first):
        see(part, views)
    one, both = objective.first(some_pairs(), seeded()), objective(some_pairs(), seeded())
    assert torch.equal(both.losses, one.losses)
    assert torch.equal(both.ranked_by, one.ranked_by)
    assert torch.allclose(total(both), total(one) + 0.5 * both.gauges["second_loss"])
    torch.autograd.backward(both.shared)
    assert objective.student.encoder.backbone.blocks[0].attn.qkv.weight.grad.any()


def test_it_learns_the_train_half_and_never_holds_an_image_of_the_test_half() -> None:
    made = Trainer(small("simclr+labels"), CPU)
    digits, labels = load_control("digits", size=32), made.objective.get_submodule("second")
    assert np.array_equal(labels.get_buffer("images").numpy(), digits.train_images)
    assert not any("images" in name for name in made.objective.state_dict())
    gauges = [made.step(some_pairs(8, seed=step % 2)).report.gauges["second_loss"] for step in range(40)]
    assert sum(gauges[-8:]) < sum(gauges[:8])


def test_labels_alone_are_refused_in_one_line_and_settings_come_back() -> None:
    with pytest.raises(
        SettingsError,
        match=r"^--objective labels says nothing of pairs: write it behind another one, as in ntxent\+labels$",
    ):
        objective_named("labels")
    with pytest.raises(SettingsError, match=r"^--objective labels says nothing"):
        objective_named("labels+simclr")
    for name in ("mae+labels", "ntxent+byol+labels"):
        assert from_plain(to_plain(small(name))) == small(name)
        assert not Trainer(small(name), CPU).step(some_pairs()).is_refused


def write_set(root: Path, counts: dict[str, int], first: int = 0) -> None:
    """Images of rising shades of grey."""
    shades = itertools.count(first)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            cv2.imwrite(str(root / name / f"{number}.png"), np.full((8, 8, 3), next(shades), np.uint8))


def controls(images: Path, *probed: str) -> list[ControlSet]:
    config = small("simclr+labels")
    objective: Any = config.objective
    config = replace(config, objective=replace(objective, second=replace(objective.second, images=str(images))))
    return _load_controls(ProcessConfig(control=probed), Learner(config, CPU, begins=False), lambda: False)


def test_what_was_trained_on_is_left_out_of_every_test_half_whatever_its_path_and_size(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_set(tmp_path / "zoo" / "train", {"ant": 8, "bee": 8})
    write_set(tmp_path / "zoo" / "test", {"ant": 3, "bee": 3}, first=16)
    (same,) = controls(tmp_path / "zoo", str(tmp_path / "zoo"))
    assert len(same.test_images) == 6
    assert not caplog.records
    write_set(tmp_path / "mixed", {"ant": 24, "bee": 24}, first=4)  # half of the ants are trained on
    (mixed,) = controls(tmp_path / "zoo", f"{tmp_path / 'mixed'}@16")
    assert 6 < len(mixed.test_images) < 12
    seen = {image.tobytes() for image in load_control(str(tmp_path / "zoo"), size=16).train_images}
    assert seen
    assert not any(image.tobytes() in seen for image in mixed.test_images)
    assert "which are left out set=mixed" in caplog.text


def test_a_class_of_which_all_test_images_were_trained_on_is_refused_in_one_line() -> None:
    digits = load_control("digits", size=8)
    with pytest.raises(
        ControlError, match=r"^control set digits: every test image of class '3' is among the labelled ones .+$"
    ):
        unseen(digits, digits.test_images[digits.test_labels == 3])


def with_labels(root: Path) -> LearnerConfig:
    config = small("simclr+labels")
    objective: Any = config.objective
    return replace(config, objective=replace(objective, second=replace(objective.second, images=str(root))))


def replace_set(root: Path, counts: dict[str, int], first: int = 0) -> None:
    shutil.rmtree(root)
    write_set(root, counts, first)


@pytest.mark.parametrize(
    ("counts", "first", "said"),
    [
        ({"ant": 4, "bee": 4, "cow": 4}, 0, "3 classes now, 2 then; new: cow"),
        ({"ant": 4, "cow": 4}, 0, "2 classes now, 2 then; new: cow; gone: bee"),
        ({"ant": 8, "bee": 4}, 0, "the same 2 classes, with other images"),
        ({"ant": 4, "bee": 4}, 9, "the same 2 classes, with other images"),
    ],
)
def test_a_run_goes_on_only_with_the_labelled_images_that_it_learned_from(
    tmp_path: Path, counts: dict[str, int], first: int, said: str
) -> None:
    images, folder = tmp_path / "zoo", tmp_path / "run"
    write_set(images, {"ant": 4, "bee": 4})
    with run(folder, config=with_labels(images)) as made:
        made.committer.finish()
    replace_set(images, counts, first)
    told = re.escape(f"--objective.second.images {images} is not what this run learns from ({said}): make it as it was")
    with (
        pytest.raises(SettingsError, match=f"^{told}, or choose another --run-dir, [^\n]+$"),
        run(folder, config=with_labels(images)),
    ):
        pass
    replace_set(images, {"ant": 4, "bee": 4})
    with run(folder, config=with_labels(images)):
        pass


def test_the_state_of_an_earlier_version_goes_on_where_the_number_of_classes_fits(tmp_path: Path) -> None:
    write_set(tmp_path / "zoo", {"ant": 4, "bee": 4})
    state = Learner(with_labels(tmp_path / "zoo"), CPU).state_dict()
    del state["labelled"]
    replace_set(tmp_path / "zoo", {"ant": 4, "cow": 4})
    Learner(with_labels(tmp_path / "zoo"), CPU).load_state_dict(state, ())
    replace_set(tmp_path / "zoo", {"ant": 4, "bee": 4, "cow": 4})
    with pytest.raises(SettingsError, match=r"^--objective.second.images .*zoo is not .* \(3 classes now, 2 then\): "):
        Learner(with_labels(tmp_path / "zoo"), CPU).load_state_dict(state, ())


def test_the_hash_of_labelled_images_is_that_of_their_files_and_labels(tmp_path: Path) -> None:
    for name, counts, first in (
        ("one", {"ant": 4, "bee": 4}, 0),
        ("moved", {"ant": 4, "bee": 4}, 0),
        ("other", {"ant": 4, "bee": 4}, 1),
    ):
        write_set(tmp_path / name, counts, first)
    one, moved, other = (
        load_control(str(tmp_path / name), size=side).train_sha256
        for name, side in (("one", 8), ("moved", 16), ("other", 8))
    )
    assert one == moved != other
    assert load_control("digits", size=8).train_sha256 == load_control("digits", size=32).train_sha256

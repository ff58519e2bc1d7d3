"""Control sets: every layout gives the same kind of set, and every broken one a clear line."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from control_files import BLUE, GREEN, RED, idx, python_batch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from learner.errors import ControlError
from learner.probes.control_sets import load_control, stratified

CLASSES = ("ant", "bee", "cow")


def write_images(folder: Path, count: int, colour: tuple[int, int, int] = BLUE, side: int = 8) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        cv2.imwrite(str(folder / f"{i:03}.png"), np.full((side, side, 3), colour, np.uint8))


def write_classes(root: Path, counts: tuple[int, ...]) -> None:
    for name, count, colour in zip(CLASSES, counts, (BLUE, GREEN, RED), strict=True):
        write_images(root / name, count, colour)


def test_digits_are_always_there_with_seventy_percent_of_each_class_in_train() -> None:
    digits = load_control("digits", size=16)
    assert digits.name == "digits"
    assert digits.classes == tuple("0123456789")
    assert digits.train_images.shape == (len(digits.train_labels), 16, 16, 3)
    assert digits.train_images.dtype == np.uint8
    assert digits.train_labels.dtype == np.int64
    for label in range(10):
        train, test = (int((labels == label).sum()) for labels in (digits.train_labels, digits.test_labels))
        assert train / (train + test) == pytest.approx(0.7, abs=0.01)


def test_the_split_of_a_set_without_one_is_the_same_at_every_seed(tmp_path: Path) -> None:
    write_classes(tmp_path / "zoo", (8, 12, 4))
    one, other = (load_control(str(tmp_path / "zoo"), size=8, seed=seed) for seed in (0, 1))
    assert Counter(one.train_labels.tolist()) == {0: 6, 1: 9, 2: 3}
    assert Counter(one.test_labels.tolist()) == {0: 2, 1: 3, 2: 1}
    assert np.array_equal(one.train_images, other.train_images)
    assert np.array_equal(
        load_control("digits", size=8).test_labels, load_control("digits", size=8, seed=5).test_labels
    )


@pytest.mark.parametrize("second", ["test", "val"])
def test_a_folder_with_train_and_test_or_val_keeps_its_split_and_its_class_names(tmp_path: Path, second: str) -> None:
    write_classes(tmp_path / "zoo" / "train", (3, 2, 4))
    write_classes(tmp_path / "zoo" / second, (1, 2, 3))
    zoo = load_control(str(tmp_path / "zoo"), size=8)
    assert (zoo.name, zoo.classes, zoo.skipped) == ("zoo", CLASSES, 0)
    assert zoo.train_labels.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert zoo.test_labels.tolist() == [0, 1, 1, 2, 2, 2]
    assert zoo.test_images[0, 0, 0].tolist() == list(BLUE), "images are BGR"
    assert zoo.test_images[-1, 0, 0].tolist() == list(RED)


def test_images_of_any_shape_and_depth_become_squares_cut_from_their_centre(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    tall_grey = np.full((64, 20), 90, np.uint8)
    for name, image in (("wide", wide), ("tall", tall_grey)):
        (tmp_path / "zoo" / name).mkdir(parents=True)
        for i in range(2):
            cv2.imwrite(str(tmp_path / "zoo" / name / f"{i}.png"), image)
    zoo = load_control(str(tmp_path / "zoo"), size=16)
    assert zoo.train_images.shape == (2, 16, 16, 3)
    assert (zoo.train_images[zoo.train_labels == 1] == 200).all()
    assert (zoo.train_images[zoo.train_labels == 0] == 90).all()


def test_a_set_can_be_named_and_a_path_without_a_usable_name_must_be(tmp_path: Path) -> None:
    write_classes(tmp_path / "zoo", (2, 2, 2))
    (tmp_path / "zoo").rename(tmp_path / "my zoo")
    assert load_control(f"farm={tmp_path / 'my zoo'}", size=8).name == "farm"
    assert load_control("numbers=digits", size=8).name == "numbers"
    with pytest.raises(ControlError, match="write NAME=PATH"):
        load_control(str(tmp_path / "my zoo"), size=8)


def test_limits_keep_a_balanced_subset_that_the_seed_decides() -> None:
    one, same, other = (load_control("digits", size=8, limit_train=55, limit_test=20, seed=seed) for seed in (3, 3, 4))
    assert sorted(Counter(one.train_labels.tolist()).values()) == [5] * 5 + [6] * 5
    assert set(Counter(one.test_labels.tolist()).values()) == {2}
    assert np.array_equal(one.train_images, same.train_images)
    assert not np.array_equal(one.train_images, other.train_images)


def test_a_limit_above_the_set_keeps_all_and_one_below_its_classes_is_refused() -> None:
    assert len(load_control("digits", size=8, limit_train=10**6).train_labels) == 1258
    with pytest.raises(ControlError, match="a limit of 9 images leaves out some of its 10 classes"):
        load_control("digits", size=8, limit_test=9)


def test_a_class_smaller_than_its_share_is_kept_whole_under_a_limit(tmp_path: Path) -> None:
    write_classes(tmp_path / "zoo" / "train", (2, 20, 20))
    write_classes(tmp_path / "zoo" / "test", (1, 1, 1))
    zoo = load_control(str(tmp_path / "zoo"), size=8, limit_train=12)
    assert Counter(zoo.train_labels.tolist()) == {0: 2, 1: 5, 2: 5}


def test_unreadable_and_truncated_images_and_pipes_are_skipped_and_counted(tmp_path: Path) -> None:
    write_classes(tmp_path / "zoo" / "train", (3, 3, 3))
    write_classes(tmp_path / "zoo" / "test", (1, 1, 1))
    ant = tmp_path / "zoo" / "train" / "ant"
    (ant / "noise.jpg").write_bytes(b"\xff\xd8 this is no image")
    (ant / "empty.png").write_bytes(b"")
    (ant / "cut.png").write_bytes((ant / "000.png").read_bytes()[:40])
    (ant / "notes.txt").write_text("not counted: it does not claim to be an image")
    os.mkfifo(ant / "pipe.png")  # reading it would wait
    zoo = load_control(str(tmp_path / "zoo"), size=8)
    assert zoo.skipped == 4
    assert Counter(zoo.train_labels.tolist()) == {0: 3, 1: 3, 2: 3}


def test_what_archives_leave_behind_and_empty_classes_are_left_out_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_classes(tmp_path / "zoo", (4, 4, 4))
    (tmp_path / "zoo" / "__MACOSX" / "ant").mkdir(parents=True)
    (tmp_path / "zoo" / "__MACOSX" / "ant" / "._000.png").write_bytes(b"Mac OS X")
    (tmp_path / "zoo" / "ant" / "._000.png").write_bytes(b"Mac OS X")
    (tmp_path / "zoo" / "yak").mkdir()
    zoo = load_control(str(tmp_path / "zoo"), size=8)
    assert (zoo.classes, zoo.skipped) == (CLASSES, 0)
    assert "classes=['yak']" in caplog.text


def test_a_class_that_is_empty_in_one_half_is_left_out_of_both(tmp_path: Path) -> None:
    write_classes(tmp_path / "zoo" / "train", (2, 2, 2))
    write_classes(tmp_path / "zoo" / "test", (2, 0, 2))
    zoo = load_control(str(tmp_path / "zoo"), size=8)
    assert zoo.classes == ("ant", "cow")
    assert zoo.train_labels.tolist() == zoo.test_labels.tolist() == [0, 0, 1, 1]


def write_zoo(root: Path) -> None:
    """No two images are alike."""
    for number, name in enumerate(CLASSES):
        for i in range(4):
            write_images(root / name / f"{name}{i}", 1, (number, i, 0))


def require_each_once(root: Path) -> None:
    """The classes have their own images, and none twice."""
    zoo = load_control(f"zoo={root}", size=8)
    images, labels = np.concatenate([zoo.train_images, zoo.test_images]), [*zoo.train_labels, *zoo.test_labels]
    seen = [(zoo.classes[label], *map(int, image[0, 0])) for image, label in zip(images, labels, strict=True)]
    assert sorted(seen) == [(name, number, i, 0) for number, name in enumerate(CLASSES) for i in range(4)]


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("ant/up", ".."),
        ("ant/up", "../.."),
        ("again", "."),
        ("ant/ant0/self", "."),
        ("ant/x", "x"),
        ("ant/other", "../bee"),
        ("ant/other", "../bee/bee1"),
        ("ape", "bee"),
    ],
)
def test_a_link_to_what_a_set_has_already_is_left_out_in_one_line_that_names_it(
    tmp_path: Path, link: str, target: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_zoo(tmp_path / "zoo")
    (tmp_path / "zoo" / link).symlink_to(target)
    require_each_once(tmp_path / "zoo")
    assert [str(tmp_path / "zoo" / link) in record.getMessage() for record in caplog.records] == [True]


def test_links_to_folders_on_another_disk_are_classes_halves_and_sets(tmp_path: Path) -> None:
    write_zoo(tmp_path / "disk")
    for half, number in (("train", "0"), ("test", "1")):
        for name in CLASSES:
            (tmp_path / half / name).mkdir(parents=True)
            (tmp_path / half / name / number).symlink_to(tmp_path / "disk" / name / f"{name}{number}")
    (tmp_path / "disk" / "ant" / "ant0" / "self").symlink_to(".")
    (tmp_path / "links").mkdir()
    (tmp_path / "halves").mkdir()
    for name in CLASSES:
        (tmp_path / "links" / name).symlink_to(tmp_path / "disk" / name)
    (tmp_path / "whole").symlink_to("links")
    for half in ("train", "test"):
        (tmp_path / "halves" / half).symlink_to(tmp_path / half)
    require_each_once(tmp_path / "links")
    require_each_once(tmp_path / "whole")
    halves = load_control(str(tmp_path / "halves"), size=8)
    assert halves.classes == CLASSES
    assert halves.train_images[:, 0, 0].tolist() == [[0, 0, 0], [1, 0, 0], [2, 0, 0]]
    assert halves.test_images[:, 0, 0].tolist() == [[0, 1, 0], [1, 1, 0], [2, 1, 0]]


def test_no_folder_is_in_train_and_in_test(tmp_path: Path) -> None:
    write_zoo(tmp_path / "zoo" / "train")
    (tmp_path / "zoo" / "test").symlink_to("train")
    with pytest.raises(ControlError, match="has only train/; expected train/ beside test/"):
        load_control(str(tmp_path / "zoo"), size=8)
    (tmp_path / "zoo" / "test").unlink()
    write_zoo(tmp_path / "zoo" / "test")
    write_images(tmp_path / "zoo" / "train" / "ant" / "own", 1, RED)
    (tmp_path / "zoo" / "test" / "ant" / "more").symlink_to("../../train/ant/own")
    zoo = load_control(str(tmp_path / "zoo"), size=8)
    assert (len(zoo.train_images), len(zoo.test_images)) == (13, 12)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_left_out_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_zoo(tmp_path / "zoo")
    (tmp_path / "zoo" / "lost+found").mkdir(mode=0)
    require_each_once(tmp_path / "zoo")
    assert "lost+found: it cannot be read (Permission denied)" in caplog.text


@pytest.mark.parametrize(
    "halves", [("Train", "Test"), ("training", "testing"), ("train", "valid"), ("TRAIN", "Validation")]
)
def test_the_halves_of_a_split_have_many_names(tmp_path: Path, halves: tuple[str, str]) -> None:
    for half, counts in zip(halves, ((3, 3, 3), (1, 1, 1)), strict=True):
        write_classes(tmp_path / "zoo" / half, counts)
    zoo = load_control(str(tmp_path / "zoo"), size=8)
    assert (len(zoo.train_labels), len(zoo.test_labels)) == (9, 3)


def test_a_test_half_without_classes_gives_way_to_valid(tmp_path: Path) -> None:
    write_classes(tmp_path / "zoo" / "train", (3, 3, 3))
    write_classes(tmp_path / "zoo" / "valid", (1, 1, 1))
    write_images(tmp_path / "zoo" / "test", 5)
    assert len(load_control(str(tmp_path / "zoo"), size=8).test_labels) == 3


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("{}/brown", None),
        ("ILSVRC/Data/CLS-LOC/train/{}", "ILSVRC/Data/CLS-LOC/val/{}"),
        ("seg_train/seg_train/{}", "seg_test/seg_test/{}"),
        ("training_set/training_set/{}/images", "test_set/test_set/{}/images"),
        ("images/Train/{}", "images/Val/{}"),
        ("{}/train", "{}/test"),
    ],
)
def test_the_roots_of_other_tools_are_understood(tmp_path: Path, train: str, test: str | None) -> None:
    for name in CLASSES:
        write_images(tmp_path / "zoo" / train.format(name), 4)
        if test is not None:
            write_images(tmp_path / "zoo" / test.format(name), 2)
    (tmp_path / "zoo" / "annotations").mkdir()
    (tmp_path / "zoo" / "__MACOSX" / "train" / "ant").mkdir(parents=True)
    zoo = load_control(str(tmp_path / "zoo"), size=8)
    assert zoo.classes == CLASSES
    assert (len(zoo.train_labels), len(zoo.test_labels)) == ((9, 3) if test is None else (12, 6))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("bus", "test_tube", "train"):
        write_images(tmp_path / "traffic" / name, 4)
    assert load_control(str(tmp_path / "traffic"), size=8).classes == ("bus", "test_tube", "train")


def test_unlabelled_images_beside_train_are_no_class(tmp_path: Path) -> None:
    write_classes(tmp_path / "zoo" / "train", (4, 4, 4))
    write_images(tmp_path / "zoo" / "test", 5)
    with pytest.raises(ControlError, match=r"has only train/; .* or name .*/train alone"):
        load_control(str(tmp_path / "zoo"), size=8)
    assert load_control(str(tmp_path / "zoo" / "train"), size=8).classes == CLASSES


def write_named(folder: Path, classes: dict[str, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in classes.items():
        for number in range(count):
            cv2.imwrite(str(folder / f"{name}.{number}.jpg"), np.full((8, 8, 3), BLUE, np.uint8))


@pytest.mark.parametrize("inside", ["train", ".", "dogs-vs-cats/train", "train/train"])
def test_dogs_and_cats_have_their_class_in_their_names_and_test1_has_no_labels(tmp_path: Path, inside: str) -> None:
    write_named(tmp_path / inside, {"dog": 8, "cat": 4})
    if inside != ".":
        write_images((tmp_path / inside).parent / "test1", 3)
    found = load_control(f"pets={tmp_path}", size=8)
    assert found.classes == ("cat", "dog")
    assert Counter(found.train_labels.tolist()) == {0: 3, 1: 6}
    assert Counter(found.test_labels.tolist()) == {0: 1, 1: 2}


def test_named_images_in_both_halves_keep_them(tmp_path: Path) -> None:
    write_named(tmp_path / "train", {"dog": 3, "cat": 2})
    write_named(tmp_path / "test", {"dog": 1, "cat": 1})
    found = load_control(f"pets={tmp_path}", size=8)
    assert (len(found.train_labels), found.test_labels.tolist()) == (5, [0, 1])


def test_folders_of_classes_win_over_the_names_of_images(tmp_path: Path) -> None:
    write_named(tmp_path, {"left": 1, "right": 1})
    for name in ("ant", "bee"):
        write_named(tmp_path / name, {"left": 4, "right": 4})
    assert load_control(f"set={tmp_path}", size=8).classes == ("ant", "bee")


def test_a_known_set_is_found_by_its_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ControlError, match=r"^control set dogs-vs-cats: .*control/dogs-vs-cats is no folder; lay it out as .+$"
    ):
        load_control("dogs-vs-cats", size=8)
    write_named(tmp_path / "data" / "babyagent" / "control" / "dogs-vs-cats" / "train", {"dog": 4, "cat": 4})
    found = load_control("dogs-vs-cats", size=8)
    assert (found.name, found.classes) == ("dogs-vs-cats", ("cat", "dog"))
    write_named(tmp_path / "dogs-vs-cats", {"dog": 4, "cat": 4, "cow": 4})  # one that lies here wins
    with pytest.raises(
        ControlError, match=r"^control set dogs-vs-cats: has 3 classes in dogs-vs-cats, expected 2: write NAME=PATH"
    ):
        load_control("dogs-vs-cats", size=8)
    assert load_control("pets=dogs-vs-cats", size=8).name == "pets"


def test_cifar_100_and_imagenet_have_their_usual_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    folder = tmp_path / "babyagent" / "control"
    for half, count in (("train", 2), ("test", 1)):
        path = folder / "cifar100" / "cifar-100-python" / half
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(python_batch(list(range(100)) * count, b"fine_labels"))
    for number in range(1000):
        write_images(folder / "imagenet" / f"n{number:08}", 2, side=1)
    assert len(load_control("cifar100", size=4).train_labels) == 200
    assert len(load_control("imagenet", size=1).classes) == 1000


@pytest.mark.parametrize("around", ["MNIST/raw", "raw"])
def test_the_only_set_in_the_folders_below_is_found(tmp_path: Path, around: str) -> None:
    folder = tmp_path / "root" / around
    folder.mkdir(parents=True)
    for half in ("train", "t10k"):
        (folder / f"{half}-images-idx3-ubyte").write_bytes(idx(np.zeros((4, 4, 4), np.uint8)))
        (folder / f"{half}-labels-idx1-ubyte").write_bytes(idx(np.array([0, 1, 0, 1], np.uint8)))
    assert load_control(str(tmp_path / "root"), size=4).classes == ("0", "1")
    batches = tmp_path / "root" / "cifar-10-batches-py"
    batches.mkdir()
    for name in ("data_batch_1", "test_batch"):
        (batches / name).write_bytes(python_batch(list(range(10))))
    with pytest.raises(ControlError, match=r"more than one set \(.*cifar-10-batches-py"):
        load_control(str(tmp_path / "root"), size=4)
    assert len(load_control(str(batches), size=4).classes) == 10


def test_classes_some_folders_below_the_named_one_are_found(tmp_path: Path) -> None:
    write_classes(tmp_path / "root" / "zoo-main" / "images", (4, 4, 4))
    assert load_control(str(tmp_path / "root"), size=8).classes == CLASSES


def broken_missing(root: Path) -> None:
    """A folder that is not there."""


def broken_empty(root: Path) -> None:
    root.mkdir()


def broken_one_class(root: Path) -> None:
    write_images(root / "ant", 3)


def broken_no_test(root: Path) -> None:
    write_classes(root / "train", (1, 1, 1))


def broken_no_train(root: Path) -> None:
    write_classes(root / "test", (1, 1, 1))


def broken_other_classes(root: Path) -> None:
    write_classes(root / "train", (1, 1, 1))
    write_images(root / "test" / "ant", 1)
    write_images(root / "test" / "bee", 1)


def broken_unreadable_class(root: Path) -> None:
    write_classes(root, (2, 2, 2))
    for path in (root / "bee").iterdir():
        path.write_bytes(b"gone")


def broken_parent_of_sets(root: Path) -> None:
    write_classes(root / "zoo", (2, 2, 2))
    write_classes(root / "farm", (2, 2, 2))


def broken_set_beside_pictures(root: Path) -> None:
    for half in ("train", "test"):
        write_classes(root / "zoo" / half, (1, 1, 1))
    write_images(root / "docs", 2)


def broken_bare_halves(root: Path) -> None:
    """As Kaggle's dogs and cats with another picture among them: halves, not the two classes test1 and train."""
    write_named(root / "train", {"dog": 4, "cat": 4})
    write_images(root / "train", 1)
    write_images(root / "test1", 4)


def broken_flat_half(root: Path) -> None:
    """As the archive of ImageNet's validation images."""
    write_classes(root / "train", (1, 1, 1))
    write_images(root / "val", 3)


def broken_mnist_without_labels(root: Path) -> None:
    root.mkdir()
    (root / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((2, 4, 4), np.uint8)))


def broken_cifar_without_test(root: Path) -> None:
    root.mkdir()
    (root / "data_batch_1").write_bytes(python_batch([0, 1]))


@pytest.mark.parametrize(
    ("breaking", "says"),
    [
        (broken_missing, "is no folder; expected `digits` or a folder as"),
        (broken_empty, "has 0 classes; expected at least 2"),
        (broken_one_class, "has 1 classes; expected at least 2"),
        (broken_no_test, "has only train/; expected train/ beside test/, val/ or valid/"),
        (broken_no_train, "has only test/; expected train/"),
        (broken_other_classes, "class 'cow' is in only one of train/ and test/"),
        (broken_unreadable_class, "class 'bee' has no readable image"),
        (broken_parent_of_sets, "each of its folders (farm, zoo) has folders named ant and bee"),
        (broken_set_beside_pictures, "zoo/ in it is a set of its own: name "),
        (broken_bare_halves, "test1/ and train/ have no folder for each class, and not all their images are called"),
        (
            broken_flat_half,
            "has only train/; expected train/ beside test/, val/ or valid/ (val/ has no folder for each",
        ),
        (broken_mnist_without_labels, "has no file train-labels"),
        (broken_cifar_without_test, "has no file test_batch"),
    ],
)
def test_a_set_that_cannot_be_used_is_refused_in_one_line_that_names_it(
    tmp_path: Path, breaking: Callable[[Path], None], says: str
) -> None:
    breaking(tmp_path / "zoo")
    with pytest.raises(ControlError) as refusal:
        load_control(str(tmp_path / "zoo"), size=8)
    assert says in str(refusal.value)
    assert str(tmp_path / "zoo") in str(refusal.value)
    assert "\n" not in str(refusal.value)


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60).map(lambda x: np.array(x, np.int64)),
    share=st.floats(0, 1),
)
def test_a_stratified_share_takes_its_part_of_each_class_and_all_of_none(
    labels: NDArray[np.int64], share: float
) -> None:
    mask = stratified(labels, share, np.random.default_rng(0))
    for label in np.unique(labels):
        taken, members = int(mask[labels == label].sum()), int((labels == label).sum())
        assert taken >= 1
        assert taken < members or members == 1
        assert abs(taken - share * members) <= 1 or taken in (1, members - 1)


@pytest.mark.parametrize(
    ("place", "classes", "train", "test"),
    [("cifar10", 10, 400, 200), ("mnist", 10, 400, 200), ("tiny_imagenet", 200, 400, 200), ("pacs/photo", 7, 400, 175)],
)
def test_the_real_control_sets_load_whole(shared_data: Path, place: str, classes: int, train: int, test: int) -> None:
    found = load_control(str(shared_data / "control" / place), size=32, limit_train=400, limit_test=200)
    assert (len(found.classes), found.skipped) == (classes, 0)
    assert found.train_images.shape == (train, 32, 32, 3)
    assert found.test_images.shape == (test, 32, 32, 3)
    assert found.train_images.std() > 20

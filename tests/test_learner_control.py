"""Control sets: every layout gives the same kind of set, and every broken one a clear line."""

from __future__ import annotations

import gzip
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from learner.errors import ControlError
from learner.probes.control_sets import load_control, stratified
from learner.probes.packed_files import parse_cifar_binary, parse_cifar_python, parse_idx, read_file

CLASSES = ("ant", "bee", "cow")
BLUE, GREEN, RED = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def write_images(folder: Path, count: int, colour: tuple[int, int, int] = BLUE, side: int = 8) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        cv2.imwrite(str(folder / f"{i:03}.png"), np.full((side, side, 3), colour, np.uint8))


def write_classes(root: Path, counts: tuple[int, ...]) -> None:
    for name, count, colour in zip(CLASSES, counts, (BLUE, GREEN, RED), strict=True):
        write_images(root / name, count, colour)


def idx(array: NDArray[np.uint8]) -> bytes:
    sides = b"".join(side.to_bytes(4, "big") for side in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sides + array.tobytes()


def cifar_rows(count: int, colour: tuple[int, int, int] = BLUE) -> NDArray[np.uint8]:
    planes = np.array(colour[::-1], np.uint8)  # CIFAR stores red, green, blue
    return np.tile(np.repeat(planes, 1024), (count, 1))


def python_batch(labels: list[int], key: bytes = b"labels") -> bytes:
    return pickle.dumps(
        {b"data": cifar_rows(len(labels)), key: labels, b"filenames": [b"x.png"] * len(labels)}, protocol=2
    )


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


def test_unreadable_and_truncated_images_are_skipped_and_counted(tmp_path: Path) -> None:
    write_classes(tmp_path / "zoo" / "train", (3, 3, 3))
    write_classes(tmp_path / "zoo" / "test", (1, 1, 1))
    ant = tmp_path / "zoo" / "train" / "ant"
    (ant / "noise.jpg").write_bytes(b"\xff\xd8 this is no image")
    (ant / "empty.png").write_bytes(b"")
    (ant / "cut.png").write_bytes((ant / "000.png").read_bytes()[:40])
    (ant / "notes.txt").write_text("not counted: it does not claim to be an image")
    zoo = load_control(str(tmp_path / "zoo"), size=8)
    assert zoo.skipped == 3
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


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_idx_files_are_read_plain_and_gzipped(tmp_path: Path, packed: bool) -> None:
    pixels = np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4)
    labels = np.array([0, 1, 2, 0, 1, 2], np.uint8)
    for half in ("train", "t10k"):
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            data = gzip.compress(idx(array)) if packed else idx(array)
            (tmp_path / f"{half}-{kind}-ubyte{'.gz' if packed else ''}").write_bytes(data)
    mnist = load_control(f"mnist={tmp_path}", size=4)
    assert mnist.classes == ("0", "1", "2")
    assert np.array_equal(mnist.test_labels, labels)
    assert np.array_equal(mnist.train_images, np.repeat(pixels[..., None], 3, axis=3)), "grey is replicated"


@pytest.mark.parametrize("hundred", [False, True])
def test_cifar_binary_batches_are_read_as_bgr_with_the_fine_label(tmp_path: Path, hundred: bool) -> None:
    classes = 100 if hundred else 10
    labels = np.arange(classes, dtype=np.uint8)[:, None]
    coarse = [np.zeros_like(labels)] if hundred else []
    data = np.hstack([*coarse, labels, cifar_rows(classes, RED)]).tobytes()
    for name in ("train.bin", "test.bin") if hundred else ("data_batch_1.bin", "data_batch_2.bin", "test_batch.bin"):
        (tmp_path / name).write_bytes(data)
    cifar = load_control(f"cifar={tmp_path}", size=32)
    assert len(cifar.classes) == classes
    assert len(cifar.train_labels) == (classes if hundred else 2 * classes)
    assert np.array_equal(cifar.test_labels, labels[:, 0])
    assert cifar.test_images[0, 0, 0].tolist() == list(RED)


@pytest.mark.parametrize("hundred", [False, True])
def test_cifar_python_batches_are_read_without_trusting_them(tmp_path: Path, hundred: bool) -> None:
    labels, key = list(range(100 if hundred else 10)), b"fine_labels" if hundred else b"labels"
    for name in ("train", "test") if hundred else ("data_batch_1", "data_batch_2", "test_batch"):
        (tmp_path / name).write_bytes(python_batch(labels, key))
    cifar = load_control(f"cifar={tmp_path}", size=32)
    assert cifar.test_labels.tolist() == labels
    assert cifar.test_images[3, 5, 7].tolist() == list(BLUE)


class _Runs:
    """A pickle of it runs a command where it is loaded by the ordinary means."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.write_text, (self.path, "run")


def parse_ten(data: bytes) -> Any:
    return parse_cifar_python(data, "batch", label_key=b"labels", classes=10)


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match=r"batch: is no pickle of plain arrays.*asks for"):
        parse_ten(pickle.dumps({b"data": _Runs(tmp_path / "evil"), b"labels": [1]}))
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ([1, 2], "holds a list"),
        ({}, "is no CIFAR batch"),
        ({b"data": [0] * 3072, b"labels": [1]}, "is no CIFAR batch"),
        ({b"data": cifar_rows(2), b"labels": [1, None]}, "is no CIFAR batch"),
        ({b"data": cifar_rows(2), b"labels": [1]}, "for 1 labels"),
        ({b"data": cifar_rows(0), b"labels": []}, "for 0 labels"),
        ({b"data": cifar_rows(1), b"labels": [10]}, "labels 10 to 10; expected 0 to 9"),
        ({b"data": cifar_rows(1), b"labels": [-1]}, "expected 0 to 9"),
        ({b"data": np.zeros((1, 3072), np.float32), b"labels": [1]}, "not of uint8"),
        ({b"data": np.array([object], dtype=object), b"labels": [1]}, "is no pickle of plain"),
    ],
)
def test_a_pickle_that_is_no_batch_says_what_it_is(batch: object, says: str) -> None:
    with pytest.raises(ControlError, match=says):
        parse_ten(pickle.dumps(batch, protocol=4))


def test_a_pickle_made_to_exhaust_the_reader_is_refused() -> None:
    with pytest.raises(ControlError, match="nests too many tuples"):
        parse_ten(b"\x80\x02})" + b"\x85" * 100_000 + b"K\x01s.")  # {((((...)))): 1}
    with pytest.raises(ControlError, match="numbers more values"):
        parse_ten(b"\x80\x02}r\xff\xff\xff\x7f.")  # an empty dict, remembered as number 2**31 - 1


@given(array=hnp.arrays(np.uint8, hnp.array_shapes(max_dims=4, max_side=5)))
def test_an_idx_file_gives_back_the_array_it_was_made_of(array: NDArray[np.uint8]) -> None:
    assert np.array_equal(parse_idx(idx(array), "file"), array)


@given(data=st.data())
def test_an_idx_file_cut_or_grown_anywhere_is_refused(data: st.DataObject) -> None:
    whole = idx(np.ones((3, 4, 5), np.uint8))
    changed = whole[: data.draw(st.integers(0, len(whole) - 1))] if data.draw(st.booleans()) else whole + b"\0"
    with pytest.raises(ControlError, match=r"^file: "):
        parse_idx(changed, "file")


@given(data=st.binary(max_size=64))
def test_any_bytes_are_an_idx_array_or_one_clear_error(data: bytes) -> None:
    try:
        parsed: NDArray[np.uint8] | str = parse_idx(b"\0\0\x08" + data, "file")
    except ControlError as refusal:
        parsed = str(refusal)
    assert parsed.startswith("file: ") if isinstance(parsed, str) else parsed.size <= len(data)


@given(records=st.integers(0, 3), cut=st.integers(-2, 2), label=st.integers(0, 255))
def test_a_binary_batch_is_whole_records_of_known_labels_or_an_error(records: int, cut: int, label: int) -> None:
    rows = np.full((records, 3073), label, np.uint8).tobytes()
    data = rows[:cut] if cut < 0 else rows + b"\0" * cut
    if records and not cut and label < 10:
        images, labels = parse_cifar_binary(data, "batch", label_bytes=1, classes=10)
        assert images.shape == (records, 32, 32, 3)
        assert labels.tolist() == [label] * records
    elif data:
        with pytest.raises(ControlError, match=r"^batch: "):
            parse_cifar_binary(data, "batch", label_bytes=1, classes=10)


@settings(max_examples=300)
@given(position=st.integers(0, 10**6), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_python_batch_is_a_batch_or_one_clear_error(position: int, byte: int, cut: bool) -> None:
    whole = python_batch([3])
    head = len(whole) - 3072 - 160  # flip mostly what is not pixels
    at = position % (len(whole) if position % 5 == 0 else max(head, 300))
    damaged = whole[:at] if cut else whole[:at] + bytes([byte]) + whole[at + 1 :]
    try:
        parsed = parse_ten(damaged)
    except ControlError as refusal:
        parsed = str(refusal)
    assert parsed.startswith("batch: ") if isinstance(parsed, str) else parsed[0].shape == (len(parsed[1]), 32, 32, 3)


def test_a_damaged_gzip_file_is_one_clear_error(tmp_path: Path) -> None:
    whole = gzip.compress(idx(np.arange(200, dtype=np.uint8)))
    for damaged in (whole[:-9], whole[:12] + b"\xff" + whole[13:], b"plain"):
        (tmp_path / "labels.gz").write_bytes(damaged)
        with pytest.raises(ControlError, match="expected a complete file"):
            read_file(tmp_path / "labels.gz")


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

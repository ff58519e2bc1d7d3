"""The retention bench: its policies do what their papers say, its streams are what their labels say, its statistics are right."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.__main__ import main
from benchmarks.retention.figures import Group, groups, plot, tables
from benchmarks.retention.policies import IID, POLICIES, LarsPolicy, MinimumRedundancy, Situation
from benchmarks.retention.streams import Materials, labelled_stream
from benchmarks.shared.paired import Floats, Keys, holm, paired
from stream.codec import decode

DIGITS = Materials("digits", None, ())


def situation(capacity: int, *, seed: int = 0, embed: Callable[[Keys], Floats] | None = None) -> Situation:
    """Features of a key are its place on a half circle, its loss is its number; no two keys are alike."""

    def angles(keys: Keys) -> Floats:
        return np.stack([np.cos(keys * np.pi / 1000), np.sin(keys * np.pi / 1000)], 1)

    return Situation(capacity, seed, embed or angles, lambda keys: keys.astype(float))


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(sorted(POLICIES)),
    capacity=st.integers(1, 12),
    sizes=st.lists(st.integers(0, 9), max_size=8),
    seed=st.integers(0, 5),
)
def test_whatever_the_policy_kept_and_evicted_account_for_every_key(
    name: str, capacity: int, sizes: list[int], seed: int
) -> None:
    policy, here, offered = POLICIES[name](situation(capacity, seed=seed)), set[int](), 0
    random = np.random.default_rng(seed)
    for size in sizes:
        keys = np.arange(offered, offered + size)
        offer = policy.offer(keys, random.uniform(-2, 2, size))
        offered += size
        assert here >= set(offer.evicted.tolist())
        here = here - set(offer.evicted.tolist()) | set(keys[offer.kept].tolist())
        assert here == set(policy.keys().tolist())
        assert len(here) == min(offered, capacity)
        if here:
            drawn = policy.sample(3).keys
            assert here >= set(drawn.tolist())
            policy.update(drawn, np.zeros(3))


@pytest.mark.parametrize("name", ["none", "fifo"])
def test_first_in_first_out_keeps_the_last(name: str) -> None:
    policy = POLICIES[name](situation(8))
    for start in range(0, 60, 5):
        policy.offer(np.arange(start, start + 5), np.linspace(-2, 2, 5))
    assert set(policy.keys().tolist()) == set(range(52, 60))


def test_lars_admits_with_the_chance_of_a_plain_reservoir() -> None:
    admitted = np.zeros(12)
    for seed in range(600):
        policy = LarsPolicy(situation(4, seed=seed))
        for key in range(12):
            admitted[key] += policy.offer(np.array([key]), np.zeros(1)).kept[0]
    expected = np.minimum(1, 4 / np.arange(1, 13))
    error = np.sqrt(expected * (1 - expected) / 600)
    assert np.all(np.abs(admitted / 600 - expected) <= 4 * error)


def test_lars_never_evicts_the_largest_loss_and_the_least_the_likeliest() -> None:
    out = np.zeros(5)
    for seed in range(1000):
        policy = LarsPolicy(situation(5, seed=seed))
        policy.offer(np.arange(5), np.zeros(5))  # the loss of a key is its number
        for key in policy.offer(np.array([100]), np.zeros(1)).evicted.tolist():
            out[key] += 1
    # After 100 came in beside them the scores are 4, 3, 2, 1, 0 tenths of the spread, before it a victim is sought.
    share = out / out.sum()
    assert share[4] == 0
    assert np.allclose(share, np.array([4, 3, 2, 1, 0]) / 10, atol=0.05)


def test_minimum_redundancy_drops_one_of_the_two_nearest() -> None:
    angle = {0: 0.0, 1: 0.5, 2: 1.4, 3: 1.5, 4: 3.0}

    def embed(keys: Keys) -> Floats:
        turns = np.array([angle[key] for key in keys.tolist()])
        return np.stack([np.cos(turns), np.sin(turns)], 1)

    gone = set()
    for seed in range(20):
        policy = MinimumRedundancy(situation(4, seed=seed, embed=embed))
        policy.offer(np.arange(4), np.zeros(4))
        offer = policy.offer(np.array([4]), np.zeros(1))
        assert offer.kept[0]
        gone |= set(offer.evicted.tolist())
    assert gone == {2, 3}


def test_minimum_redundancy_turns_away_what_it_has() -> None:
    def embed(keys: Keys) -> Floats:
        turns = np.where(keys >= 4, 0.0, keys * 0.7)  # every newcomer is key 0 again
        return np.stack([np.cos(turns), np.sin(turns)], 1)

    policy = MinimumRedundancy(situation(4, embed=embed))
    policy.offer(np.arange(4), np.zeros(4))
    for key in range(4, 40):
        policy.offer(np.array([key]), np.zeros(1))
    kept = set(policy.keys().tolist())
    assert {1, 2, 3} <= kept  # of the equal ones just one is there


def test_minimum_redundancy_follows_the_features_of_what_is_replayed() -> None:
    turns = np.array([0.0, 1.0, 2.0, 3.0])

    def embed(keys: Keys) -> Floats:
        return np.stack([np.cos(turns[keys]), np.sin(turns[keys])], 1)

    policy = MinimumRedundancy(situation(3, embed=embed))
    policy.offer(np.arange(3), np.zeros(3))
    turns[2] = 0.98  # the network has come to see 2 beside 1
    for _ in range(12):
        policy.update(np.array([2]), np.zeros(1))
    offer = policy.offer(np.array([3]), np.zeros(1))
    assert offer.kept[0]
    assert set(offer.evicted.tolist()) <= {1, 2}


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_classes_come_one_after_the_other_with_their_share_of_junk(share: float) -> None:
    made = labelled_stream("classes", DIGITS, 200, share, 3)
    real = made.place[~made.junk]
    assert np.count_nonzero(np.diff(real)) == 9
    assert np.array_equal(np.bincount(real), [20] * 10)
    assert made.junk.mean() == pytest.approx(share, abs=0.01)
    assert np.all(made.place[made.junk] == -1)
    assert [pair.header.seq for pair in made.pairs] == list(range(len(made.pairs)))
    assert made.first_places == set(real[: len(real) // 3].tolist())


def test_no_streamed_picture_is_in_the_bank_of_its_probe_or_in_the_test() -> None:
    made = labelled_stream("classes", DIGITS, 400, 0.0, 1)
    streamed = {decode(pair).left.tobytes() for pair in made.pairs}
    (control,) = made.controls
    seen = {image.tobytes() for image in (*control.train_images, *control.test_images)}
    assert len(streamed) == 400
    assert not streamed & seen


def test_junk_leaves_the_real_pairs_and_their_order_as_they_were() -> None:
    clean, spoiled = (labelled_stream("classes", DIGITS, 100, share, 2) for share in (0.0, 0.3))
    real = [pair for pair, junk in zip(spoiled.pairs, spoiled.junk, strict=True) if not junk]
    assert [pair.left for pair in real] == [pair.left for pair in clean.pairs]
    bad = [decode(pair).left for pair, junk in zip(spoiled.pairs, spoiled.junk, strict=True) if junk]
    assert any(image.max() < 20 for image in bad)  # a lens cap among them


def test_the_shuffled_stream_has_the_same_pairs_with_their_labels() -> None:
    made = labelled_stream("classes", DIGITS, 100, 0.0, 2)
    shuffled = made.shuffled(2)
    by_bytes = {pair.left + pair.right: place for pair, place in zip(made.pairs, made.place.tolist(), strict=True)}
    assert [by_bytes[pair.left + pair.right] for pair in shuffled.pairs] == shuffled.place.tolist()
    assert shuffled.place.tolist() != made.place.tolist()


def test_drives_pan_over_real_pairs_drive_after_drive(tmp_path: Path) -> None:
    for number, drive in enumerate("ab"):
        for eye in ("left", "right"):
            (tmp_path / drive / eye).mkdir(parents=True)
            for shot in range(3):
                cv2.imwrite(
                    str(tmp_path / drive / eye / f"{shot}.png"), np.full((60, 200, 3), 50 + 100 * number, np.uint8)
                )
    made = labelled_stream("drives", replace(DIGITS, drives=(tmp_path / "a", tmp_path / "b")), 24, 0.0, 0)
    assert np.bincount(made.place).tolist() == [12, 12]
    assert np.count_nonzero(np.diff(made.place)) == 1
    assert all(
        abs(int(decode(pair).left.mean()) - 50 - 100 * place) < 2
        for pair, place in zip(made.pairs, made.place, strict=True)
    )


def test_drives_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--drives"):
        labelled_stream("drives", replace(DIGITS, drives=(tmp_path,)), 24, 0.0, 0)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two real runs, by the command."""
    path = tmp_path_factory.mktemp("retention") / "results.jsonl"
    flags = ("--pairs", "160", "--capacity", "32", "--steps", "8", "--junk", "0.3", "--seeds", "0")
    command = [
        "retention",
        *flags,
        "--policies",
        "uniform",
        "ours 1, inf",
        "--results",
        str(path),
        "--report",
        str(path),
        "--json",
    ]
    assert main(command) == 0
    first = path.read_text()
    path.write_text(first + '{"stream": "cla')  # a line that a kill cut short
    assert main(command) == 0
    assert path.read_text().startswith(first)
    assert path.read_text().count("\n") == 2  # nothing was run again
    assert path.with_suffix(".md").read_text().count("## classes, 30 % junk") == 1
    assert cv2.imread(str(path.with_suffix(".png"))) is not None
    return [json.loads(line) for line in first.splitlines()]


def test_runs_are_resumed_and_tell_what_happened(lines: list[dict[str, Any]]) -> None:
    uniform, ours = lines
    assert uniform["curve"][0] == ours["curve"][0]  # the same random start
    assert [point["step"] for point in uniform["curve"]] == [0, 2, 4, 6, 8]
    assert uniform["arrived"] == round(160 / 0.7)
    assert 0 < uniform["junk_replayed"] < 1
    assert {"knn", "linear", "first_knn"} <= set(uniform["curve"][-1])


def run(policy: str, seed: int, knn: list[float], *, cpu_s: float = 10.0, junk: float = 0.0) -> dict[str, Any]:
    """A result line with an even curve of k-NN."""
    last = len(knn) - 1
    curve = [
        {"step": 10 * index, "cpu_s": cpu_s * index / last, "knn": value, "linear": value, "first_knn": value}
        for index, value in enumerate(knn)
    ]
    told = {"junk_of_stream": junk, "junk_replayed": junk / 2, "junk_kept": 0, "place_entropy": 1.0, "mean_age": 5.0}
    return {"stream": "classes", "junk": junk, "seed": seed, "policy": policy, "curve": curve, "arrived": 9, **told}


def example() -> Group:
    made = []
    for seed, (theirs, mine) in enumerate([(0.30, 0.33), (0.32, 0.33), (0.31, 0.35)]):
        made.append(run("uniform", seed, [0.2, theirs]))
        made.append(run("ours 1, inf", seed, [0.2, 0.25, mine], cpu_s=20.0))
        made.append(run(IID, seed, [0.2, 0.36]))
    (group,) = groups(made)
    return group


def test_differences_are_those_of_a_paired_t_test() -> None:
    found, mine, theirs = example().against("ours 1, inf", "uniform"), [33, 33, 35], [30, 32, 31]
    expected = scipy.stats.ttest_rel(mine, theirs)
    assert found.mean == pytest.approx(8 / 3)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.half == pytest.approx(expected.confidence_interval(0.95).high - 8 / 3)


def test_a_single_seed_has_no_interval() -> None:
    assert np.isnan(paired(np.array([1.0])).half)


def test_holm_steps_down() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})


def test_at_equal_time_a_slow_policy_is_read_on_its_way() -> None:
    # It used 20 s where uniform used 10 s: it counts as it was half way, at its second probe.
    assert example().at_equal_time("ours 1, inf") == pytest.approx([25, 25, 25])


def test_the_gap_is_a_share_of_what_the_shuffled_stream_gains() -> None:
    assert example().gap_closed("uniform") == pytest.approx((31 - 20) / (36 - 20))


def test_forgetting_is_the_fall_from_the_best_probe() -> None:
    (group,) = groups([run("uniform", 0, [0.2, 0.4, 0.3])])
    assert group.of("uniform", "forgetting") == pytest.approx([10])
    assert group.of("uniform", "area") == pytest.approx([(0.2 + 2 * 0.4 + 0.3) / 4 * 100])


def test_further_control_sets_have_their_columns() -> None:
    made = [run("uniform", 0, [0.2, 0.3]), run("fifo", 0, [0.2, 0.3])]
    for line, accuracy in zip(made, (0.5, 0.6), strict=True):
        line["curve"][-1]["faces knn"] = accuracy
    text = tables(made)
    assert "| faces k-NN | less uniform |" in text
    assert "| 60.0 | +10.0 |" in text


def test_only_seeds_that_every_policy_has_are_compared() -> None:
    (group,) = groups([run("uniform", 0, [0.2, 0.3]), run("uniform", 1, [0.2, 0.3]), run("fifo", 1, [0.2, 0.3])])
    assert group.runs.seeds == (1,)


def test_tables_say_what_it_comes_to(tmp_path: Path) -> None:
    made = [
        run(policy, seed, [0.2, 0.3 + seed / 100], junk=junk)
        for policy in POLICIES
        for seed in (0, 1)
        for junk in (0.0, 0.3)
    ]
    text = tables(made)
    assert "| uniform | 30.5 |" in text
    assert "best of ours" in text
    assert "of the gain in shuffled order" in text
    assert "shuffled" not in tables([line for line in made if line["policy"] != IID])
    assert "30 % junk against none" in text
    assert "classes, all shares of junk together, less uniform (k-NN, linear): `none` +0.0 ± 0.0, +0.0 ± 0.0;" in text
    plot(made, tmp_path / "plot.png")
    image = cv2.imread(str(tmp_path / "plot.png"))
    assert image is not None
    assert image.std() > 10


@pytest.mark.parametrize(
    "flags",
    [
        ("--policies", "best"),
        ("--streams", "sea"),
        ("--junk", "0.95"),
        ("--pairs", "0"),
        ("--preset", "huge"),
        ("--policies",),
    ],
)
def test_settings_that_cannot_be_are_refused(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["retention", *flags, "--results", "never.jsonl"]) == 2
    assert flags[0] in capsys.readouterr().err

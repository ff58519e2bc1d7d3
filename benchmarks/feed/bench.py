"""The live feed: how well does an autoencoder give back what the rig sees, and what of a picture comes first?

Networks of four kinds learn from the same walk, once with the greedy rule of the live-video experiment (the pictures with the
highest loss stay) and once with the reservoir. At some steps each gives back pictures of a later part of the walk. Measured is
how much of their light, contrast and colour comes out, because the author saw them come in this order.

Runs are independent of each other, and each is a line of a file, so a stopped bench continues.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.feed.figures import plot, tables
from benchmarks.shared.bench import Bench, Goal
from benchmarks.shared.bounds import Count, SomeOf
from benchmarks.shared.pairs import walk_pairs
from benchmarks.shared.probing import curve, evenly, use_one_thread
from benchmarks.shared.recipes import changed, spent_over
from benchmarks.shared.results import GridSettings, Result, Seeds, completed, fingerprint, rendered
from device.sim.camera import SimConfig
from learner.config import LearnerConfig, preset
from learner.loop import Learner
from learner.objectives.autoencoders.autoencoder import Autoencoder
from learner.objectives.autoencoders.explained import explained
from learner.views.crops import shrink, to_rgb
from stream.codec import decode
from stream.pair import EncodedPair

NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "plain": {"objective.decoder": "plain"},
    "convolutional": {"objective.decoder": "convolutional"},
    "variational": {"objective.decoder": "convolutional", "objective.beta": 1.0},
    "transformer": {"objective.decoder": "transformer"},
}
"""What is set for each kind; the encoder is that of preset `cpu`."""
MEMORIES = {"greedy": "greedy", "reservoir": "loss"}
"""The policies of memory that are compared."""
MARKS = 8
HELD_OUT = 64
"""Pairs of the walk, after those that are learned from, that are given back."""
SHOWN = 8
LIVE_PAIRS_PER_S = 30.0


@dataclass(frozen=True, kw_only=True)
class FeedSettings(GridSettings):
    """Train autoencoders on a simulated walk: a line for each run, a table, a plot, and pictures over time for each run."""

    networks: Annotated[tuple[str, ...], SomeOf(NETWORKS)] = tuple(NETWORKS)
    """Kinds of networks."""
    memories: Annotated[tuple[str, ...], SomeOf(MEMORIES)] = tuple(MEMORIES)
    """greedy: the pictures with the highest loss stay; reservoir: the default memory."""
    seeds: Seeds = (0,)
    """Seeds of world, walk, weights and memory."""
    pairs: Count = 3200
    """Pairs that the rig keeps of the walk."""
    steps: Count = 400
    """Training steps of a run. By default each pair is trained on as often as the preset asks for."""
    capacity: Count = 500
    """Pairs in memory."""
    results: Path = Path("runs/feed.jsonl")
    """The file of result lines; runs that are in it are not repeated. The pictures lie beside it."""
    report: Path | None = None
    """Write the table and the plot to this path, with .md and .png added."""


@dataclass(frozen=True)
class FeedRun:
    """One run. Its result line is found by these fields; `settings` is a fingerprint of all that decide the weights."""

    network: str
    memory: str
    seed: int
    pairs: int
    steps: int
    textures: str
    settings: str


def measure(settings: FeedSettings) -> list[Result]:
    """Return the result lines of all runs, after doing the runs that are missing in the file."""
    configs = {}
    for seed, network, memory in itertools.product(settings.seeds, settings.networks, settings.memories):
        config = _config(settings, network, memory, seed)
        told = settings.pairs, settings.steps, settings.textures_named
        configs[FeedRun(network, memory, seed, *told, fingerprint(config))] = config
    run = partial(run_one, settings=settings, configs=configs)
    return completed(list(configs), settings.results, run, jobs=settings.jobs, describe=_describe, later=("textures",))


def render(settings: FeedSettings, lines: Sequence[Result]) -> list[str]:
    """Return the table, and write it to the report too, with the plot."""
    return rendered(settings.report, "# The live feed", tables(lines), partial(plot, lines))


def goals(lines: Sequence[Result]) -> Iterator[Goal]:
    """Yield the goal of each network: one core keeps up with a camera, each pair trained on as often as the preset asks for."""
    for network in dict.fromkeys(line["network"] for line in lines):
        slowest = min(line["pairs_per_s"] for line in lines if line["network"] == network)
        yield Goal(f"{network}: pairs a second on one core", slowest, LIVE_PAIRS_PER_S, at_least=True)


COMMAND = Bench(FeedSettings, measure, render, goals, json_lines=list)


def run_one(run: FeedRun, settings: FeedSettings, configs: Mapping[FeedRun, LearnerConfig]) -> Result:
    """Train one run, and write its pictures; return what its result line has beside the fields of the run."""
    use_one_thread()
    config = configs[run]
    pairs = _walk(SimConfig(seed=run.seed, textures=settings.textures), run.pairs + HELD_OUT)
    learner = Learner(config, torch.device("cpu"))
    wanted = _pictures(pairs[run.pairs :], config.crops.probe_size)
    rows = [wanted[:SHOWN]]

    def probe() -> dict[str, float]:
        found = _given_back(learner, wanted)
        rows.append(found[:SHOWN])
        return {name: round(float(share), 4) for name, share in explained(wanted, found).items()}

    steps = curve(learner, pairs[: run.pairs], evenly(run.steps, MARKS), probe)
    where = settings.results.with_suffix("") / f"{run.network}-{run.memory}-{run.seed}.png"
    where.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(where), _sheet(rows))
    seconds = max(1e-9, steps[-1]["cpu_s"])
    replay_ratio = preset("cpu", Autoencoder).pacing.replay_ratio
    return {"curve": steps, "pairs_per_s": round(learner.samples / replay_ratio / seconds, 1)}


@lru_cache(maxsize=1)
def _walk(world: SimConfig, count: int) -> list[EncodedPair]:
    return list(islice(walk_pairs(world), count))


def _config(settings: FeedSettings, network: str, memory: str, seed: int) -> LearnerConfig:
    own = {**NETWORKS[network], "memory.policy": MEMORIES[memory], "memory.capacity": settings.capacity, "seed": seed}
    return spent_over(changed(preset("cpu", Autoencoder), own), settings.steps, settings.pairs)


def _pictures(pairs: Sequence[EncodedPair], size: int) -> Tensor:
    """Return the whole left images as an autoencoder sees them, [N, 3, size, size]."""
    return torch.cat([to_rgb(shrink(torch.from_numpy(decode(pair).left)[None], size)) for pair in pairs])


@torch.no_grad()
def _given_back(learner: Learner, pictures: Tensor) -> Tensor:
    objective: Any = learner.objective
    numbers = objective.student(pictures)
    found: Tensor = objective.decoder(objective.embedded(numbers, torch.Generator().manual_seed(0))[0])
    return found


def _sheet(rows: Sequence[Tensor]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return an image, BGR [H, W, 3], with the pictures in its first row and what came of them below, later steps lower."""
    lines = [torch.cat(list(row), 2) for row in rows]
    sheet = (torch.cat(lines, 1).clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    return np.ascontiguousarray(sheet[..., ::-1].repeat(2, 0).repeat(2, 1))


def _describe(line: Result) -> str:
    last = line["curve"][-1]
    shares = "  ".join(f"{name.removeprefix('explained_')} {last[name]:.2f}" for name in last if name.startswith("exp"))
    return f"seed {line['seed']}  {line['network']}, {line['memory']}: {shares}  ({line['pairs_per_s']:.0f} pairs/s)"

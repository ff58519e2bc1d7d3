"""The way of a pair through the learner, in one place: receive, decode, remember, draw, step, score.

`learn` is a generator: the service, the benchmarks and the tests drive the same loop and decide between its reports what to
show, probe, commit and when to stop.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learner.config import LearnerConfig
from learner.distributed import collectives
from learner.distributed.leader import Crew, Tally, deal_back, owner
from learner.distributed.reshard import resharded
from learner.errors import Collapsed, NonFiniteLoss, SettingsError
from learner.guard import Guard
from learner.memory import Draw, Memory
from learner.objectives.contract import Batch, Outcome
from learner.pacing import Pacing
from learner.schedule import learning_rate
from stream.codec import decode
from stream.errors import EndOfStream, MalformedMessage
from stream.pair import EncodedPair, StereoPair
from stream.source import Source

log = logging.getLogger(__name__)

POLL_S = 0.2
"""Longest wait for a pair before the loop reports that it waits: keeps Ctrl-C and the screen alive."""
BESIDE_POLL_S = 0.005
"""How soon a pair that arrives beside a step is seen to."""
MAX_AHEAD = 64
"""Pairs decoded beside one step at most: bounds what they take, some 40 MB on the largest preset's canvas."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """One training step. Losses are means over the batch of the per-pair losses."""

    step: int
    samples: int
    """Pairs trained on so far, with repetition."""
    received: int
    """Pairs received so far."""
    loss: float
    grad_norm: float
    learning_rate: float
    busy_s: float = 0.0
    """Seconds spent decoding and training since the last step."""
    waited_s: float = 0.0
    """Seconds spent waiting for pairs since the last step."""
    gauges: dict[str, float] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    """The pairs whose loss was not finite; the step then changed no weight."""
    debuts: tuple[tuple[str, int], ...] = ()
    """Of the pairs of this process that were trained on for the first time: device and capture time, nanoseconds since 1970."""
    rolled_back: str = ""
    """Why the networks went back to an earlier snapshot after this step; empty: they did not."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """No step is due: the learner wants `wanted` more pairs."""

    received: int
    wanted: int
    waited_s: float
    """Since the last step."""


class Learner:
    """Networks, optimiser, memory and budget: everything a checkpoint holds, and one training step over it.

    Of several processes each has one, with the same weights and its own shard of the memory. The first
    leads: what it is asked to do here, all do. The others obey (`learner.follower`).
    """

    def __init__(self, config: LearnerConfig, device: torch.device) -> None:
        if device.type == "cuda" and not torch.cuda.is_available():
            raise SettingsError(
                "device cuda was asked for, but torch finds no GPU here: use --device cpu, or check the driver"
            )
        if config.pacing.batch_size % collectives.count():
            raise SettingsError(
                f"pacing.batch_size {config.pacing.batch_size} must be a multiple of the {collectives.count()} processes"
            )
        self.config = config
        self.device = device
        self.steps = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.objective = config.objective.build(config.encoder).to(device)
        self.optimizer = torch.optim.AdamW(
            self.objective.trained(), lr=0.0, weight_decay=config.schedule.weight_decay, fused=True
        )
        self.memory = Memory(config.memory, seed=config.seed, shard=collectives.rank(), shards=collectives.count())
        self.pacing = Pacing(config.pacing)
        self.guard = Guard(config.guard)
        self._snapshots = [self._snapshot()]  # at most two, the older first: what a collapse goes back to
        self.generator = torch.Generator(device).manual_seed(_seed_of_views(config.seed, 0))
        self.crew = Crew(self.tally_here)
        self.samples = 0
        self.received = 0
        self.malformed = 0
        self.suppressed = 0
        self.junk = 0
        self.bad_steps = 0

    def wanted(self) -> int:
        """Pairs to receive before the next step is due: the budget must be there, and a full batch to draw from."""
        share = self.config.pacing.batch_size // collectives.count()
        missing = max(share - tally.drawable for tally in self.crew.tallies())
        return max(self.pacing.wanted(), missing * collectives.count())

    @property
    def room(self) -> int:
        """Pairs that can be taken before one has to go untrained."""
        fullest = max(tally.waiting for tally in self.crew.tallies())
        return (self.memory.room + self.memory.fresh - fullest) * collectives.count()

    def tally(self) -> Tally:
        """What all processes hold together."""
        return Tally(*map(sum, zip(*self.crew.tallies(), strict=True)))

    def tally_here(self) -> Tally:
        """What this process holds."""
        memory = self.memory
        return Tally(
            drawable=len(memory),
            waiting=memory.fresh,
            kept=len(memory.reservoir),
            untrained=memory.untrained,
            quarantined=memory.quarantined,
            undecodable=self.malformed,
        )

    def open(self, pair: EncodedPair) -> StereoPair | MalformedMessage:
        """The pair as memory wants it, or why it does not decode. Changes nothing: may run beside a step."""
        try:
            return self.memory.fitted(decode(pair))
        except MalformedMessage as error:
            return error

    def take(self, pair: EncodedPair, opened: StereoPair | MalformedMessage | None = None) -> int | None:
        """Put a received pair into memory and return its key there; one that does not decode is counted and dropped.

        opened: what `open` made of it, where that was done beforehand.

        A pair that belongs to another process is only dealt: `hand_out` brings it there.
        """
        self.received += 1
        self.suppressed += pair.header.suppressed
        self.junk += pair.header.junk
        key = self.memory.arrived
        if owner(key) != collectives.rank():
            self.crew.deal(key, pair)
            self.memory.pass_over()
        elif self.remember(key, pair, opened):
            self.pacing.received(1)
        else:
            return None
        return key

    def remember(self, key: int, pair: EncodedPair, opened: StereoPair | MalformedMessage | None = None) -> bool:
        """Put a pair into the memory of this process; False where it does not decode, which is counted."""
        if opened is None:
            opened = self.open(pair)
        if isinstance(opened, MalformedMessage):
            self.malformed += 1
            if self.malformed & (self.malformed - 1) == 0:  # the 1st, 2nd, 4th, ...: or a device could fill the disk
                log.warning("dropped pair=%s count=%d %s", pair.header.name, self.malformed, opened)
            return False
        self.memory.add(opened, key)
        return True

    def hand_out(self) -> None:
        """Bring the pairs that were dealt to their processes, which decode them.

        While no step is due also without pairs: the others do not wait for ever for a word.
        """
        if collectives.count() > 1 and (self.crew.owed or self.wanted()):
            dealt, before = self.crew.owed, self.tally().undecodable
            with self.crew.ordered("take"):
                pass
            self.pacing.received(dealt - (self.tally().undecodable - before))

    def step(self, rate_factor: float = 1.0) -> StepReport:
        """Draw a batch and train on it once. Raises Diverged after refused steps or rollbacks in a row."""
        self.pacing.spend()
        with self.crew.ordered("step", [rate_factor] * collectives.count()):
            report = self.train(rate_factor)
        self._judge(report)
        return report

    def train(self, rate_factor: float) -> StepReport:
        """The step in each process: its share of the batch, the gradient of all."""
        draw = self.memory.draw(self.config.pacing.batch_size // collectives.count())
        debuts = tuple(self.memory.debuts_of(draw))  # before `learned`, which may give their slots to others
        rate = learning_rate(self.config.schedule, self.steps - self.guard.since) * self.guard.rate_factor * rate_factor
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        outcome, grad_norm = self._descend(self.memory.batch(draw, self.device))
        losses, priority = collectives.gathered(outcome.losses.detach()), collectives.gathered(outcome.priority)
        kl = priority.double().cpu().numpy()
        bad = ~(np.isfinite(kl) & losses.isfinite().cpu().numpy())
        refused = self._conclude(draw, kl, bad, bool(torch.isfinite(grad_norm)))
        collectives.average_(list(outcome.gauges.values()))
        gauges = {name: float(value) for name, value in outcome.gauges.items()}
        rolled_back = "" if self.bad_steps else self._watch(gauges)
        return StepReport(
            step=self.steps,
            samples=self.samples,
            received=self.received,
            loss=float(losses.mean()),
            grad_norm=float(grad_norm),
            learning_rate=rate,
            gauges=gauges,
            refused=refused,
            debuts=() if self.bad_steps else debuts,
            rolled_back=rolled_back,
        )

    def _descend(self, batch: Batch) -> tuple[Outcome, Tensor]:
        """Losses and their gradient; nothing is changed yet."""
        low = self.config.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            outcome = self.objective(batch, self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(outcome.losses.mean())
        collectives.average_([weight.grad for weight in self.objective.trained() if weight.grad is not None])
        norm = torch.nn.utils.clip_grad_norm_(self.objective.trained(), self.config.schedule.clip_grad_norm)
        return outcome, norm

    def _conclude(self, draw: Draw, kl: np.ndarray, bad: np.ndarray, finite_gradient: bool) -> tuple[str, ...]:
        """Take the step, or refuse it and name the pairs at fault (all of them where only the gradient is not finite).

        kl, bad: [B] of the whole batch, of which the draw is the part of this process.
        """
        self.steps += 1
        share = slice(collectives.rank() * len(draw.keys), (collectives.rank() + 1) * len(draw.keys))
        if finite_gradient and not bad.any():
            self.optimizer.step()
            self.objective.after_step()
            self.memory.learned(draw, kl[share])
            self.samples += len(kl)
            self.bad_steps = 0
            return ()
        at_fault = (bad if bad.any() else np.ones_like(bad))[share]
        names = collectives.collected(list(itertools.compress(self.memory.names_of(draw), at_fault)))
        self.memory.quarantine(draw, at_fault)
        self.bad_steps += 1
        return tuple(dict.fromkeys(itertools.chain.from_iterable(names)))

    def _watch(self, gauges: dict[str, float]) -> str:
        """Go back to an earlier snapshot where the networks have collapsed, and say why; else copy them when it is time.

        Only the networks go back: pairs, scores, budget and generator stay, so that no pair is lost or received twice, and
        what follows is not what led here. Snapshots go by steps and not by commits, which go by the clock: so a replay
        rolls back alike. AdamW's moments are the collapse's, and go.
        """
        why = self.guard.observe(self.steps, gauges)
        if why:
            self._roll_back()
        elif self.guard.wants_snapshot(self.steps):
            self._snapshots = [self._snapshots[-1], self._snapshot()]
        return why

    def _roll_back(self) -> None:
        del self._snapshots[1:]
        self.objective.load_state_dict(self._snapshots[0]["objective"])
        self.optimizer.state.clear()
        self.guard.rolled_back(self.steps)

    def _judge(self, report: StepReport) -> None:
        """Say what went wrong in a step. Raises Diverged where it did so too often."""
        names, good = report.refused, self._snapshots[0]["step"]
        if names:
            log.error("refused step=%d, loss or gradient not finite, pairs=%s", self.steps, ",".join(names[:8]))
        if self.bad_steps >= self.config.max_refused_steps:
            raise NonFiniteLoss(
                f"{self.bad_steps} steps in a row were not finite, the last on {len(names)} pairs ({', '.join(names[:4])}, "
                "...): the weights are those before them; lower schedule.learning_rate or look at these pairs"
            )
        why = report.rolled_back
        if why:
            log.error("rolled back step=%d to=%d rollbacks=%d: %s", self.steps, good, self.guard.rollbacks, why)
        if why and self.guard.gives_up:
            raise Collapsed(
                f"the networks collapsed {self.guard.setbacks} times in a row, the last time because {why}: they are those of "
                f"step {good} again; look at the pairs (all alike?), or give another run other temperatures or centring"
            )

    def _snapshot(self) -> dict[str, Any]:
        networks = self.objective.state_dict()
        return {"step": self.steps, "objective": {name: value.detach().clone() for name, value in networks.items()}}

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, but for the pairs in memory; of all processes."""
        with self.crew.ordered("save"):
            shards, generators = zip(*collectives.collected(self.share()), strict=True)
        return {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "memory": {"keys": np.sort(np.concatenate([shard["keys"] for shard in shards])), "shards": list(shards)},
            "pacing": self.pacing.state_dict(),
            "guard": self.guard.state_dict(),
            "snapshots": self._snapshots,
            "generators": list(generators),
            "counts": {name: getattr(self, name) for name in _COUNTS} | {"malformed": self.tally().undecodable},
        }

    def share(self) -> Share:
        """What of the state is this process's own: its shard of the memory, and the generator of its views."""
        return self.memory.state_dict(), self.generator.get_state()

    def load_state_dict(self, state: dict[str, Any], pairs: Iterable[EncodedPair | None]) -> None:
        """Continue from `state_dict()` of a learner with the same settings, in as many processes or others.

        pairs: of the keys in `state["memory"]`, in their order, as `Memory.load_state_dict` wants them.
        """
        shards = resharded(state["memory"]["shards"], collectives.count())
        owners = {key: number for number, shard in enumerate(shards) for key in shard["keys"].tolist()}
        common = {name: state[name] for name in _COMMON}
        shares = list(zip_longest(shards, state["generators"][: collectives.count()]))
        with self.crew.ordered("load", shares):
            remembered = deal_back(pairs, [owners[key] for key in state["memory"]["keys"].tolist()])
            problems = collectives.collected(self.assume(shares[0], common, remembered))
        for problem in problems:
            if problem is not None:
                raise problem

    def assume(self, share: Share, common: dict[str, Any], pairs: Iterator[EncodedPair | None]) -> Exception | None:
        """In each process: become its share of a state, with its pairs, and what the first says is common to all.

        Returns what stands against it.
        """
        common = collectives.told(common)
        memory, generator = share
        try:
            self.objective.load_state_dict(common["objective"])
            self.optimizer.load_state_dict(common["optimizer"])
            self.memory.load_state_dict(memory, pairs)
            self.pacing.load_state_dict(common["pacing"])
            self.guard.load_state_dict(common["guard"])
            self._snapshots = common["snapshots"]
            for name in _COUNTS:
                setattr(self, name, common["counts"][name])
            if collectives.rank():
                self.malformed = 0  # the first counts those of the processes before
            if generator is None:
                self.generator.manual_seed(_seed_of_views(self.config.seed, self.steps))
            else:
                self.generator.set_state(generator.cpu())
        except (LookupError, ValueError, RuntimeError) as problem:
            return problem
        finally:
            deque(pairs, maxlen=0)  # the first deals on to those who have no problem
        return None


Share = tuple[dict[str, Any], Tensor | None]
_COMMON = ("objective", "optimizer", "pacing", "guard", "snapshots", "counts")
_COUNTS = ("steps", "samples", "received", "malformed", "suppressed", "junk", "bad_steps")


def _seed_of_views(seed: int, steps: int) -> int:
    """Of the generator of a process that begins at this step: another one for each."""
    if not collectives.rank() and not steps:
        return seed
    # Not by addition: torch's generator on the CPU takes only the lower 32 bits.
    return int(np.random.SeedSequence([seed, collectives.rank(), steps]).generate_state(1)[0])


def _keep_nothing(key: int, pair: EncodedPair) -> None:
    """Without a store the pairs in memory end with the process."""


def learn(
    learner: Learner,
    source: Source,
    *,
    clock: Callable[[], float],
    keep: Callable[[int, EncodedPair], None] = _keep_nothing,
) -> Iterator[StepReport | Waiting]:
    """Train on a source until it ends; yields after every step and, while none is due, at least every `POLL_S`.

    A source that makes pairs on demand gives exactly those the next step waits for, so that its run is repeatable. Of a live
    one all that arrived is taken, whatever the budget says, as long as no pair has to go untrained for it: a backlog waits
    where it came from, which has the larger disk. `keep` is given each pair that went into memory, with its key there. At each
    yield the learner has taken everything that `receive` gave.

    A step runs in a thread of its own, and what arrives meanwhile is decoded beside it: for a live stream decoding costs no
    time of training, where there is a core for it.
    """

    def take(pair: EncodedPair, opened: StereoPair | MalformedMessage | None = None) -> None:
        key = learner.take(pair, opened)
        if key is not None:
            keep(key, pair)

    busy_s = waited_s = 0.0
    with ThreadPoolExecutor(1, "step") as stepper:
        while True:
            limit = max(learner.wanted(), min(source.backlog(), learner.room))
            asked_s = clock()
            try:
                pairs = source.receive(limit, POLL_S) if limit else []
            except EndOfStream:
                return
            came_s = clock()
            waited_s += came_s - asked_s
            for pair in pairs:
                take(pair)
            learner.hand_out()
            if learner.wanted():
                busy_s += clock() - came_s
                yield Waiting(learner.received, learner.wanted(), waited_s)
                continue
            room = min(learner.room, MAX_AHEAD) if collectives.count() == 1 else 0  # others decode what is theirs
            step = stepper.submit(learner.step)
            for pair, opened in _opened_beside(step, learner, source, room):
                take(pair, opened)  # also where the step has failed: a pair that was received is never forgotten
            report = step.result()
            busy_s += clock() - came_s
            yield replace(report, received=learner.received, busy_s=busy_s, waited_s=waited_s)
            busy_s = waited_s = 0.0  # what the caller did meanwhile is neither


def _opened_beside(
    step: Future[StepReport], learner: Learner, source: Source, room: int
) -> list[tuple[EncodedPair, StereoPair | MalformedMessage]]:
    """What had arrived until the step was done, decoded; at most `room` pairs, and none of a source that makes them on demand."""
    opened: list[tuple[EncodedPair, StereoPair | MalformedMessage]] = []
    while not step.done():
        if len(opened) < room and source.backlog():
            opened += [(pair, learner.open(pair)) for pair in source.receive(1, 0.0)]
        else:
            wait([step], BESIDE_POLL_S)
    return opened

"""The way of a pair through the learner, in one place: receive, decode, remember, draw, step, score.

`learn` is a generator. The service, the benchmarks and the tests drive the same loop, and decide between its reports what to
show, probe and commit and when to stop. A `Learner` is what it trains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np
import torch

from learner.config import LearnerConfig
from learner.distributed.team import Team
from learner.errors import SettingsError
from learner.member import Member, PairCounts
from learner.memory.assembler import ALL_CLOSED, Assembler, Clip
from learner.memory.decoding import decode_or_none
from learner.memory.holdout import NOTHING, HeldOut, Rule
from learner.memory.memory import Memory
from learner.memory.reshard import resharded
from learner.objectives.labelled import labelled, require_labelled
from learner.pacing import Pacing
from learner.pretrained.start import Start, begin
from learner.trainer import Answers, Judgement, StepReport
from stream.errors import EndOfStream
from stream.pair import EncodedPair, StereoPair
from stream.source import Source

POLL_S = 0.2
"""Longest wait for a pair before the loop reports that it waits: keeps Ctrl-C and the screen alive."""
BESIDE_POLL_S = 0.005
"""Longest time until a pair that arrives beside a step is decoded."""
MAX_AHEAD = 64
"""Pairs decoded beside one step at most: some 40 MB on the canvas of the largest preset."""

__all__ = ["Learner", "StepReport", "Waiting", "learn"]

Keep = Callable[[int, EncodedPair], None]
"""Is called with each pair that went into memory, and its key."""
_COUNTS = ("received", "suppressed", "junk")


@dataclass(frozen=True, slots=True)
class Waiting:
    """No step is due: the learner needs `wanted` more pairs."""

    received: int
    wanted: int
    waited_s: float
    """Seconds since the last step."""


def _keep_nothing(key: int, pair: EncodedPair) -> None:
    """Without a store the pairs in memory end with the process."""


def learn(
    learner: Learner,
    source: Source,
    *,
    clock: Callable[[], float],
    keep: Keep = _keep_nothing,
) -> Iterator[StepReport | Waiting]:
    """Train on a source until it ends; yield after every step and, while none is due, at least every `POLL_S`.

    clock: seconds, for the times in the reports; it decides nothing. keep: called with each pair that went into memory and its
    key. At each yield the learner has every pair that `receive` returned.

    A source that makes pairs on demand has no backlog and is asked for exactly the pairs that the next step needs, so that a run
    can be repeated. From a live source all pairs that have arrived are received, whatever the budget, as long as there is room
    for them: a backlog waits on the rig, which has the larger disk.

    A step runs in a thread of its own, and pairs that arrive during it are decoded beside it: where there is a second core,
    decoding a live stream costs no training time.
    """
    busy_s = waited_s = 0.0
    with ThreadPoolExecutor(1, "step") as stepper:
        while True:
            limit = max(learner.wanted(), min(source.backlog(), learner.room()))
            asked_s = clock()
            try:
                pairs = source.receive(limit, POLL_S) if limit else []
            except EndOfStream:
                if not learner.close_clips():
                    return
                pairs = []
            received_s = clock()
            waited_s += received_s - asked_s
            for pair in pairs:
                _add(pair, None, learner, keep)
            learner.deliver()
            _spoil(learner, source)

            if learner.wanted():
                busy_s += clock() - received_s
                yield Waiting(learner.received, learner.wanted(), waited_s)
                continue

            report = _step(stepper, learner, source, keep)
            busy_s += clock() - received_s
            yield replace(report, received=learner.received, busy_s=busy_s, waited_s=waited_s)
            busy_s = waited_s = 0.0  # the time of the caller counts as neither


def _add(pair: EncodedPair, decoded: StereoPair | None, learner: Learner, keep: Keep) -> None:
    key = learner.add(pair, decoded)
    if key is not None:
        keep(key, pair)


def _step(stepper: ThreadPoolExecutor, learner: Learner, source: Source, keep: Keep) -> StepReport:
    """Make a step, and receive pairs beside it."""
    # As many as fit before the step, which changes memory. Several processes decode their own pairs, after it.
    room = min(learner.room(), MAX_AHEAD) if learner.team.size == 1 else 0
    step = stepper.submit(learner.step)
    for pair, decoded in _receive_beside(step, learner, source, room):
        _add(pair, decoded, learner, keep)  # also after a failed step: a received pair is never forgotten
    _spoil(learner, source)
    return step.result()


def _spoil(learner: Learner, source: Source) -> None:
    """Report the pairs that do not decode, so that they count as lost before the cursor is read."""
    for header in learner.team.take_spoiled():
        source.spoil(header)


def _receive_beside(
    step: Future[StepReport], learner: Learner, source: Source, room: int
) -> list[tuple[EncodedPair, StereoPair | None]]:
    """Receive and decode at most `room` pairs until the step is done; none of a source that makes pairs on demand."""
    decoded: list[tuple[EncodedPair, StereoPair | None]] = []
    while not step.done():
        if len(decoded) < room and source.backlog():
            decoded += [(pair, learner.decode(pair)) for pair in source.receive(1, 0.0)]
        else:
            wait([step], BESIDE_POLL_S)
    return decoded


class Learner:
    """A team that trains on the pairs it is given, and the budget of its steps: everything that a checkpoint holds.

    memory: of this process, instead of the one that the settings describe. Where torchrun started several processes, this is
    the one that leads them. begins: whether the run begins here, with the weights that its settings name; False, where `start`
    or a state follows. trainer, objective, memory: of this process. held_out: pairs that are never trained on. received: pairs
    received, those held out too; suppressed, junk: shots that the rigs left out.
    """

    def __init__(
        self, config: LearnerConfig, device: torch.device, *, memory: Memory | None = None, begins: bool = True
    ) -> None:
        self.config = config
        self.device = device
        member = Member(config, device, memory)
        self.team = Team(member)
        self.trainer, self.memory = member.trainer, member.memory
        self.objective = self.trainer.objective
        self.pacing = Pacing(config.pacing)
        self.assembler = Assembler(config.memory, self.team.size, config.pacing.batch_size)
        self.held_out = HeldOut(Rule(config.holdout, config.seed), config.memory.canvas)
        self.received = self.suppressed = self.junk = 0
        if begins:
            self.start()

    def start(self) -> Start:
        """Give the networks of all processes the weights that the settings name, and return what is known of them.

        Raises SettingsError if they do not fit, and for a fork, which needs its old run (`learner.runs.fork.Fork`).
        """
        if self.config.fork is not None:
            raise SettingsError(f"a fork of {self.config.fork} is begun by `learner.runs.fork.Fork`")
        found = self.trainer.begin(lambda objective: begin(objective, self.config.encoder))
        if self.config.encoder.weights is not None and self.team.size > 1:
            self.load_state_dict(self.state_dict(), ())  # brings them to the other processes
        return found

    @property
    def steps(self) -> int:
        """Steps so far, refused ones included."""
        return self.trainer.steps

    @property
    def samples(self) -> int:
        """Pairs trained on so far, with repetition."""
        return self.trainer.samples

    def wanted(self) -> int:
        """Return how many pairs are missing for the next step: for its budget, and for a full batch in each process.

        Of clips seldom a whole batch of fresh pairs fits into a batch. So a step comes before its budget, which later pairs pay
        for, where a process has no room for more.
        """
        counts = self.team.counts()
        missing = max(self.config.pacing.batch_size // self.team.size - one.drawable for one in counts)
        unpaid = self.pacing.wanted()
        if self.config.memory.clip > 1:
            held = [(one.fresh, self.assembler.waiting_for(number)) for number, one in enumerate(counts)]
            # At least one where no pair is fresh: steps would go on without an end.
            unpaid = min(unpaid, *(max(self.memory.fresh_capacity - sum(two), two[0] == 0) for two in held))
        return max(0, unpaid, missing * self.team.size)

    def room(self) -> int:
        """Return how many pairs can be added before one is dropped without a training step."""
        reserved = self.assembler.reserved
        fullest = max(counts.fresh + reserved(number) for number, counts in enumerate(self.team.counts()))
        length = (
            self.config.memory.clip
        )  # the fullest may get a whole clip where the others get one of a single pair each
        return (self.memory.fresh_capacity - fullest) // length * (length + self.team.size - 1)

    def counts(self) -> PairCounts:
        """Count the pairs of all processes together; those in open clips are fresh too."""
        found = PairCounts(*map(sum, zip(*self.team.counts(), strict=True)))
        return found._replace(fresh=found.fresh + self.assembler.waiting)

    def decode(self, pair: EncodedPair) -> StereoPair | None:
        """Decode a pair for `add`; None if it does not decode. Changes nothing, so it may run beside a step."""
        return decode_or_none(self.config.memory.canvas, pair)

    def add(self, pair: EncodedPair, decoded: StereoPair | None = None) -> int | None:
        """Put a received pair into memory, or with those held out, and return its key there.

        None: it does not decode and is dropped, or is held out and not kept; both are counted. decoded: the result of `decode`,
        if it was called before. It waits until its clip closes; what belongs to another process is brought there by `deliver`.
        """
        self.received += 1
        self.suppressed += pair.header.suppressed
        self.junk += pair.header.junk
        is_used = not self.held_out.rule.holds(pair.header)
        self._deal(self.assembler.interrupted(pair, is_used=is_used))
        if not is_used:
            return self._hold_out(pair, decoded)
        key = self.memory.arrived
        is_own = self.assembler.owner(key, pair.header) == 0
        found = self.team.member.decoded(decoded or pair) if is_own else pair
        if found is None:
            self._deal(self.assembler.interrupted(pair, is_used=False))
            return None
        self.memory.skip_key()
        self._deal(self.assembler.add(key, found))
        return key

    def _hold_out(self, pair: EncodedPair, decoded: StereoPair | None) -> int | None:
        """Count a pair as held out; keep it for the probe where it is wanted, and return its key. It pays for no step."""
        if not self.held_out.wants(pair.header):
            self.held_out.count += 1
            return None
        found = self.team.member.decoded(decoded or pair)
        if found is None:
            return None
        key = self.memory.arrived
        self.held_out.add(found, key)
        self.memory.skip_key()
        return key

    def _deal(self, clips: Iterable[Clip]) -> None:
        self.pacing.received(sum(map(self.team.deal, clips)))

    def close_clips(self) -> bool:
        """Close the open clips, because the source has ended, and return whether there was one."""
        clips = self.assembler.ended()
        self._deal(clips)
        return bool(clips)

    def deliver(self) -> None:
        """Bring the clips that were dealt to their processes, which decode them."""
        self.pacing.received(self.team.deliver(is_waiting=self.wanted() > 0))

    def step(self, rate_factor: float = 1.0) -> StepReport:
        """Draw a batch and train on it once. Raises Diverged after refused steps or rollbacks in a row.

        rate_factor: multiplies the learning rate.
        """
        self.pacing.spend()
        report = replace(self.team.step(rate_factor), received=self.received)
        self.trainer.require_progress(report)
        return report

    def judge(self, answers: Answers, *, may_go_back: bool = True) -> Judgement | None:
        """Compare a probe of the present networks with that of the start; in all processes they may go back (`Trainer.judge`)."""
        return self.team.judge(answers, may_go_back=may_go_back)

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on, in all processes, except the pairs in memory."""
        shards, generators = zip(*self.team.save(), strict=True)
        state = self.trainer.state_dict()
        counts = {name: getattr(self, name) for name in _COUNTS} | {"undecodable": self.counts().undecodable}
        clips = {} if self.config.memory.clip == 1 else {"clips": self.assembler.state_dict()}
        named = {"labelled": found} if (found := labelled(self.objective)) else {}
        keys = np.sort(np.concatenate([shard["keys"] for shard in shards]))
        parts = {
            "memory": {"keys": keys, "shards": list(shards)},
            "holdout": self.held_out.state_dict(),
            "pacing": self.pacing.state_dict(),
            "generators": list(generators),
            "counts": state["counts"] | counts,
        }
        return state | clips | named | parts

    def load_state_dict(self, state: dict[str, Any], pairs: Iterable[EncodedPair | None]) -> None:
        """Continue from `state_dict()` of a learner with the same settings, in any number of processes.

        pairs: those of `learner.memory.holdout.stored_keys(state)`, in their order; None for one that cannot be read any more.
        Raises LookupError, ValueError or RuntimeError if the state does not fit the settings, and SettingsError if the labelled
        images are others.
        """
        require_labelled(self.objective, state)
        shards = resharded(state["memory"]["shards"], self.team.size)
        self.held_out.load_state_dict(state.get("holdout", NOTHING))
        self.assembler.load_state_dict(state.get("clips", ALL_CLOSED))
        others = self.assembler.sifted(state, self.held_out.sifted(state, pairs, self.decode))
        self.team.load(state, list(zip_longest(shards, state["generators"][: self.team.size])), others)
        self.pacing.load_state_dict(state["pacing"])
        for name in _COUNTS:
            setattr(self, name, state["counts"][name])

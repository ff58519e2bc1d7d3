"""The team of a run: one process or several, of which the leader alone has the source, the store and the screen.

Each process is a member, with the networks and a shard of the memory. The leader deals new clips to the shards, and
orders what all members do next. In one process the leader is the only member, and nothing is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Literal, NamedTuple

from learner.distributed import collectives
from learner.member import Clip, Member, PairCounts, Part, State
from learner.trainer import Answers, Judgement, StepReport
from stream.pair import EncodedPair, Header

_DEALT_AT_ONCE = 64
"""Pairs on their way to the other members while a commit is read back."""

Verb = Literal["add", "step", "judge", "save", "load", "end"]


class Order(NamedTuple):
    """An order to one member, with the new clips for it, and its part of what the order needs."""

    verb: Verb
    clips: Sequence[Clip] = ()
    part: Any = None


class Team:
    """All members, as the leader sees them. member: the leader itself; size: how many members there are."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.size = collectives.count()
        self._others = [PairCounts(*(0 for _ in PairCounts._fields))] * (self.size - 1)
        self._dealt: list[list[Clip]] = [[] for _ in range(self.size)]
        self._are_listening = True
        self._spoiled: list[Header] = []

    def take_spoiled(self) -> list[Header]:
        """Return the headers of the pairs that did not decode in any process, each once."""
        spoiled, self._spoiled = [*self._spoiled, *self.member.take_spoiled()], []
        return spoiled

    def deal(self, clip: Clip) -> int:
        """Give a clip to its member, and return how many pairs entered memory: none yet if that is not the leader."""
        if clip.owner == 0:
            return self.member.add(clip)
        self._dealt[clip.owner].append(clip)
        return 0

    def deliver(self, *, is_waiting: bool) -> int:
        """Bring the dealt clips to the other members, and return how many pairs entered their memories.

        is_waiting: no step is due now. The others are then called also without clips, so that they do not wait too long.
        """
        dealt = sum(len(clip.keys) for clips in self._dealt for clip in clips)
        if not dealt and not is_waiting:
            return 0
        before = self._unusable()
        self._order("add")
        self._gather_counts()
        return dealt - (self._unusable() - before)

    def step(self, rate_factor: float) -> StepReport:
        """Let all members train on their parts of one batch."""
        self._order("step", [rate_factor] * self.size)
        report = self.member.train(rate_factor)
        self._gather_counts()
        return report

    def judge(self, answers: Answers, *, may_go_back: bool) -> Judgement | None:
        """Let all members judge their networks, which are the same, by a probe of the leader's."""
        self._order("judge", [(answers, may_go_back)] * self.size)
        found = self.member.trainer.judge(answers, may_go_back=may_go_back)
        self._gather_counts()
        return found

    def counts(self) -> list[PairCounts]:
        """Return the counts of each member: the leader's of now, the others' of their last order."""
        return [self.member.counts(), *self._others]

    def save(self) -> list[Part]:
        """Return the parts of all members."""
        self._order("save")
        parts = collectives.gather(self.member.part())
        self._gather_counts()
        return parts

    def load(self, state: State, parts: Sequence[Part], pairs: Iterable[EncodedPair | None]) -> None:
        """Let all members continue from a state and their parts of it.

        pairs: those of the keys in `state["memory"]`, None for one that cannot be read. Raises ValueError if the state does
        not fit the settings.
        """
        owners = {key: number for number, (memory, _) in enumerate(parts) for key in memory["keys"].tolist()}
        self._order("load", parts)
        own = _deal_stored(pairs, [owners[key] for key in state["memory"]["keys"].tolist()])
        common = {name: value for name, value in state.items() if name not in ("memory", "generators")}
        problems = collectives.gather(_load(self.member, common, parts[0], own))
        self._gather_counts()
        for problem in filter(None, problems):
            raise ValueError(problem)

    def dismiss(self) -> None:
        """Let the other members end; idempotent."""
        if self._are_listening:
            self._are_listening = False
            collectives.scatter([Order("end")] * self.size)

    def _order(self, verb: Verb, parts: Sequence[Any] | None = None) -> None:
        """Tell each member what to do, with the clips that were dealt to it and its part of `parts` [size]."""
        dealt, self._dealt = self._dealt, [[] for _ in self._dealt]
        self._are_listening = False  # an error leaves them inside an order: they cannot be told to end
        orders = zip(dealt, parts or [None] * self.size, strict=True)
        collectives.scatter([Order(verb, clips, part) for clips, part in orders])

    def _gather_counts(self) -> None:
        """Wait until every member has carried out its order, and take what it tells."""
        gathered = collectives.gather((self.member.counts(), self.member.take_spoiled()))
        self._others = [counts for counts, _ in gathered[1:]]
        self._spoiled += chain.from_iterable(spoiled for _, spoiled in gathered)
        self._are_listening = True

    def _unusable(self) -> int:
        return sum(counts.undecodable + counts.quarantined for counts in self.counts())


def follow(member: Member) -> None:
    """Carry out the orders of the leader until it says to end. Raises ConnectionError if it has gone."""
    order: Order
    while (order := collectives.receive()).verb != "end":
        for clip in order.clips:
            member.add(clip)
        match order.verb:
            case "step":
                member.train(order.part)
            case "judge":
                answers, may_go_back = order.part
                member.trainer.judge(answers, may_go_back=may_go_back)
            case "save":
                collectives.gather(member.part())
            case "load":
                collectives.gather(_load(member, {}, order.part, _receive_stored()))
        collectives.gather((member.counts(), member.take_spoiled()))


def _load(member: Member, state: State, part: Part, pairs: Iterator[EncodedPair | None]) -> str:
    """Load a state in this process, and return in one line why that failed, or an empty text.

    state: only the leader has it. pairs: all are received in any case, because the leader goes on to deal the others'.
    """
    try:
        member.load(collectives.broadcast(state), part, pairs)
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        return str(error).partition("\n")[0] or repr(error)
    finally:
        deque(pairs, maxlen=0)
    return ""


def _deal_stored(pairs: Iterable[EncodedPair | None], owners: Iterable[int]) -> Iterator[EncodedPair | None]:
    """In the leader: deal the pairs of a commit to the members that they belong to, and yield the leader's own."""
    rest = zip(pairs, owners, strict=True)
    while some := list(islice(rest, _DEALT_AT_ONCE)):
        yield from collectives.scatter(
            [[pair for pair, owner in some if owner == number] for number in range(collectives.count())]
        )
    collectives.scatter([None] * collectives.count())


def _receive_stored() -> Iterator[EncodedPair | None]:
    """In the other members: yield the pairs of a commit that belong here."""
    return chain.from_iterable(iter(collectives.receive, None))

"""`python -m benchmarks NAME ...`: one module per question."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from device.camera import CameraError
from learner.errors import LearnerError
from stream.errors import StreamError
from stream.host import completion

QUESTIONS = {
    "ablation": "what is each choice of the recipe worth, and each thing the rig brings? One change a row, intervals",
    "backfill": "how much of a slow link does the backfill use, and what do live pairs pay for it?",
    "buffer": "what does a key cost in a prioritised buffer? Ours against TorchRL's, cpprb's and LARS",
    "demo": "does it work here? A simulated rig and a learner over TCP for about two minutes",
    "faults": "is a pair ever lost without a word, or learned twice? Kills, cuts, damage, as many as you like",
    "junk": "do spoiled pairs score above real ones, and what does memory make of them? AUC by mishap, objective, moment",
    "fleet": "how many rigs does one learner hear? Throughput, fairness, losses, memory and CPU of its receiving end",
    "learning": "does the representation get better while the rig walks? Seeds, intervals, control sets",
    "metrics": "what is told to Prometheus (this writes docs/metrics.md), and what does telling it cost?",
    "page": "what does somebody who watches the live page cost training? Stretches with and without, by turns",
    "recording": "how fast is a recording written and read, compared with a plain file?",
    "regimes": "does it learn better by day than in nightly batches? The seed's tables over recorded days, both regimes",
    "retention": "does it matter which pairs are remembered? Policies on streams that move on, with junk between",
    "speed": "how many pairs a second does a device core make, how many samples a second does the learner train?",
    "spool": "which embedded store holds the rig's pairs? Throughput, stalls, bytes written, damage",
    "step": "what does a training step cost, what does the learner add to it, how do others compare?",
    "transport": "how fast, how late and at what cost do pairs travel, compared with other ways to send them?",
    "weights": "how soon after a commit has a robot its weights, and what does handing them out take?",
}
USAGE = "usage: python -m benchmarks NAME [flags], NAME --help for its flags\n" + "\n".join(
    f"  {name:10} {question}" for name, question in QUESTIONS.items()
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark; returns the exit code: 0 done, 1 a claim did not hold, 2 wrong settings."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    name, rest = words[0], words[1:]
    try:
        if (shell := completion.shell_of(words)) is not None:
            print(
                completion.script(shell, "babyagent-bench", {question: {"--help": ()} for question in QUESTIONS}),
                end="",
            )
            return 0
        if name in QUESTIONS:
            run: Callable[[Sequence[str]], int] = importlib.import_module(_module(name)).main
            return run(rest)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 1
    except (CameraError, LearnerError, StreamError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"error: there is no benchmark {name!r}\n{USAGE}", file=sys.stderr)
    return 2


def _module(question: str) -> str:
    """A question is a file of this folder, or `bench.py` in a folder of its name; the backfill belongs to the faults."""
    if question == "backfill":
        return "benchmarks.faults.backfill"
    folder = Path(__file__).parent / question
    return f"benchmarks.{question}.bench" if folder.is_dir() else f"benchmarks.{question}"


if __name__ == "__main__":
    sys.exit(main())

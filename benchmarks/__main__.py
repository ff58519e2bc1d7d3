"""`python -m benchmarks NAME ...`: one bench for each question."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from stream.host.program import Program

BENCHES = {
    "adapt": ("adapt.bench", "What do weights that somebody has gain on a stream, and what do they forget?"),
    "ablation": ("ablation.bench", "What is each choice of the recipe worth, and each thing that the rig adds?"),
    "backfill": ("backfill", "How much of a slow link does the backfill use, and how much later are live pairs?"),
    "buffer": ("buffer.bench", "What does a key cost in a prioritised buffer, ours, TorchRL's, cpprb's and LARS?"),
    "compare": ("compare.bench", "Which objective and which memory policy suits a recording of one's own?"),
    "demo": ("demo", "Does the installation work? A simulated rig and a learner over TCP for about four minutes."),
    "faults": ("faults.bench", "Is a pair ever lost without being counted, or learned twice, whatever fails?"),
    "feed": ("feed.bench", "How well does an autoencoder give back what the rig sees, and what comes first?"),
    "fleet": ("fleet.bench", "How many rigs can one learner receive, and what does receiving cost?"),
    "floods": ("floods.bench", "Do rigs and learners keep their memory and their honest peers while they are flooded?"),
    "gpu": ("gpu.bench", "Is it right on a GPU, how fast is it there, and does it learn? One command, minutes."),
    "holdout": ("holdout", "Does the stream's own probe foretell how well places are told apart?"),
    "junk": ("junk.bench", "Do spoiled pairs score above real ones, and what does memory do with them?"),
    "league": ("league.bench", "What does each objective learn from the same walk in the same time?"),
    "learning": ("learning", "Do the features get better while the rig walks?"),
    "metrics": ("metrics", "Which metrics are there (this writes docs/metrics.md), and what do they cost?"),
    "page": ("page.bench", "How much slower is training while somebody watches the live page?"),
    "recording": ("recording", "How fast is a recording written and read, compared with a plain file?"),
    "regimes": ("regimes.bench", "Is training during the day better than in nightly batches?"),
    "retention": ("retention.bench", "Does it matter which pairs are remembered?"),
    "rows": ("rows", "Is it worth bringing rows of both images together?"),
    "speed": ("speed", "How many pairs a second does a rig make, how many samples a second does the learner train?"),
    "spool": ("spool.bench", "Which embedded store should hold the rig's pairs?"),
    "step": ("step.bench", "What does a training step cost, ours, the whole learner's and others'?"),
    "streams": ("streams.bench", "What does a stream do to each family of objectives, and what cures it?"),
    "transport": ("transport.bench", "How fast, how late and at what cost do pairs travel, compared with other ways?"),
    "weights": ("weights", "How soon after a commit does a robot have the new weights?"),
}
"""The module of each bench in this package, and its question."""
USAGE = "usage: python -m benchmarks NAME [flags], NAME --help for its flags\n" + "\n".join(
    f"  {name:10} {question}" for name, (_, question) in BENCHES.items()
)
PROGRAM = Program(
    package="benchmarks",
    script="babyagent-bench",
    commands={name: f"benchmarks.{module}" for name, (module, _) in BENCHES.items()},
    usage=USAGE,
    extra="learner",
)


def main(words: Sequence[str] | None = None) -> int:
    """Run one bench and return the exit code: 0 done, 1 a goal was missed, 2 wrong settings."""
    return PROGRAM.main(words)


if __name__ == "__main__":
    sys.exit(main())

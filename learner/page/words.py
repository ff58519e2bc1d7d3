"""The questions that the page answers, in their order, and the explanations behind them: fixed markup."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Question(NamedTuple):
    """A part of the page: a question, the names of the sections that answer it, and what their words mean."""

    title: str
    sections: tuple[str, ...]
    note: str
    summary: str
    """What the explanation is about."""
    meanings: Mapping[str, str]
    """The explanation in plain words."""


QUESTIONS = (
    Question(
        "Is it alive?",
        ("now", "devices"),
        "",
        "What do these numbers mean?",
        {
            "training steps": "Changes of the network's weights, each from one batch of pairs.",
            "pair": "Two images of one moment, one from each camera. The number counts the pairs that were kept; letters "
            "behind it name one life of a rig's storage.",
            "samples": "Uses of pairs in training. A pair in memory is used several times.",
            "loss": "What training makes small. It depends on the objective, and a falling loss alone proves nothing.",
            "right eye": "How much later the right image was taken than the left one.",
            "kept as": "Why this pair was kept: it shows something new, or it was time for one.",
            "clock": "How far the clock of the rig is ahead of this machine's.",
            "suppressed, junk": "Images that were left out before they came: seen before; dark or covered.",
            "lost, to come": "Pairs that will never arrive; pairs that are still asked for.",
            "rows": "How much lower things stand in the right image. Rigs whose cameras are level learn better.",
            "rollbacks": "How often the network answered the same to every image and went back to an earlier state.",
        },
    ),
    Question(
        "What does it see?",
        ("views",),
        "",
        "What am I looking at?",
        {
            "teacher and student": "Two copies of the network. The student is trained to say of a small crop what the teacher "
            "says of a larger one, in the other eye. The teacher is the running mean of past students.",
            "attention": "Which places of an image the network weighs most. At a random start that says nothing; later it "
            "follows edges and things.",
            "Gaussian, rings": "A soft spot fitted to the attention. It decides where the teacher looks next.",
            "crops": "The pieces that the networks really receive, with changed colours and sizes.",
        },
    ),
    Question(
        "Is it getting better?",
        ("probes", "stream", "curves"),
        "Measured on labelled images that are never trained on. The dashed line is the value at the start.",
        "How is that measured?",
        {
            "k-NN": "Each test image gets the label of the most similar training images, as the network sees them. The share of "
            "right answers says how well its features tell things apart.",
            "linear": "The same question to a linear classifier on the frozen features.",
            "10 % bank": "k-NN with a tenth of the labelled images.",
            "on the stream itself": "Some stretches of the stream are never trained on. Each left image of them looks for its "
            "right image, for the picture a moment later, and for the same place at another time; the grey line is the network "
            "as it was at the start.",
            "effective rank": "How many independent directions the features use. A collapse makes it small.",
            "values": "Touch a curve, point at it, or give it the focus and use the arrow keys. Each curve is the mean over some "
            "steps, in a band from their lowest to their highest value.",
        },
    ),
    Question(
        "What does it remember?",
        ("memory",),
        "The pairs that stay longest in training, and where in time they come from.",
        "How does it choose?",
        {
            "reservoir": "The long memory, of fixed size. When it is full, the pairs with the lowest score are dropped.",
            "priority": "How much is left to learn from a pair, as the objective sees it. It is one part of the score; "
            "chance and age are others.",
            "bars": "Of the pairs that arrived in each stretch of time, the share that is still kept.",
        },
    ),
    Question(
        "What is wrong?",
        ("wrong",),
        "",
        "What is watched?",
        {
            "here": "Silence of the training loop or of a rig, lost and damaged pairs, keys that do not fit, a collapse, control "
            "sets below the start where `--adapt` watches them, steps that were refused, pairs that pile up, a full disk.",
            "elsewhere": "Prometheus reads /metrics, and deploy/alerts.yml has rules for its alerts. An Alertmanager sends "
            "them to a person.",
        },
    ),
)


def question(its: Question) -> str:
    """Return the part of a question as markup, with an empty element for each of its sections."""
    note = f'<p class="note">{its.note}</p>' if its.note else ""
    empty = "".join(f'<div id="{name}"></div>' for name in its.sections)
    meanings = "".join(f"<dt>{word}</dt><dd>{text}</dd>" for word, text in its.meanings.items())
    return (
        f"<section><h2>{its.title}</h2>{note}{empty}"
        f'<details class="what"><summary>{its.summary}</summary><dl>{meanings}</dl></details></section>'
    )

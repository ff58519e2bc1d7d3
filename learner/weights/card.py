"""The model card of exported weights: JSON for programs, and the same as Markdown for people. Pure.

It follows Mitchell et al. 2019 (Model Cards for Model Reporting, arXiv:1810.03993), as far as a run knows the answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from math import isfinite
from typing import Any

from learner.networks.encoder import Encoder
from learner.runs.reading import flat
from learner.runs.start import start_words
from learner.runs.titles import ACCURACIES

Card = dict[str, Any]
COUNTS = {
    "steps": "training steps",
    "pairs_received": "pairs received",
    "samples": "pairs trained on, with repetition",
    "pairs_lost": "pairs lost on the way",
    "rollbacks": "rollbacks after a collapse",
    "from_step": "step at which the branch began",
    "cooldown_steps": "steps of the branch, with a falling learning rate",
    "loss_first": "first loss",
    "loss_last": "last loss",
}
"""The figures of a card that are single numbers, in their order."""
LIMITS = (
    "It has seen the images of one rig, without labels, and may be useless for others: measure it before you rely on it.",
    "The probes are small labelled sets that were never trained on; their accuracy is that of frozen features.",
    "A later export has different features for the same image: keep the weights together with models trained on top of them.",
)


def card_of(
    name: str, encoder: Encoder, weights: bytes, *, figures: Mapping[str, Any], settings: Mapping[str, Any]
) -> Card:
    """Return the card of `weights`, the bytes of name.safetensors. figures: of the run; settings: of the learner, nested."""
    config = encoder.config
    arguments = config.timm_arguments() | {"dynamic_img_size": True}
    given = "".join(f", {key}={value!r}" for key, value in arguments.items())
    return {
        "name": name,
        "load": f"timm.create_model({config.backbone!r}, checkpoint_path={f'{name}.safetensors'!r}{given})",
        "backbone": config.backbone,
        "arguments": arguments,
        "mean": encoder.mean.flatten().tolist(),
        "std": encoder.std.flatten().tolist(),
        "input": "RGB in [0, 1], minus mean, over std; height and width in multiples of the patch size",
        "patch_size": encoder.patch_size,
        "features": encoder.dim,
        "bytes": len(weights),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "figures": dict(figures),
        "settings": dict(settings),
    }


def plain(value: Any) -> Any:
    """Return a card, or a part of it, for any reader of JSON: a number that is not finite becomes a text."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def markdown(card: Card) -> str:
    """Return the card as Markdown."""
    figures = card["figures"]
    parts = [
        f"# {card['name']}\n\nA vision backbone ({card['backbone']}, {card['features']} features an image) that learned without "
        f"labels from the stereo pairs of a rig. `{card['name']}.safetensors`, {card['bytes']} bytes, sha256 `{card['sha256']}`.",
        _DOUBT if figures.get("in_doubt") else "",
        _use(card),
        _table("Trained on", ("what", "figure"), _trained_on(figures)),
        _probes(card["name"], figures.get("probe") or {}, figures.get("probed_steps") or []),
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in LIMITS),
        _table("Settings", ("setting", "value"), list(flat(card["settings"]))),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_DOUBT = "**In doubt**: during the whole run the networks had signs of collapse. Train longer before you use them."


def _use(card: Card) -> str:
    mean, std = (", ".join(f"{value:g}" for value in card[key]) for key in ("mean", "std"))
    return (
        f"## Use\n\n```python\nimport timm, torch\n\nmodel = {card['load']}.eval()\n"
        f"mean, std = torch.tensor([{mean}]).view(3, 1, 1), torch.tensor([{std}]).view(3, 1, 1)\n"
        f"features = model((rgb - mean) / std)  # rgb: float [B, 3, H, W] in [0, 1]; features: [B, {card['features']}]\n```\n\n"
        f"Height and width must be multiples of {card['patch_size']}."
    )


def _trained_on(figures: Mapping[str, Any]) -> list[tuple[str, Any]]:
    rows = [(text, _figure(figures[key])) for key, text in COUNTS.items() if figures.get(key) is not None]
    stream = figures.get("stream") or {}
    rows += [("started from", start_words(figures["start"]))] if "start" in figures else []
    rows += [(f"{key.replace('_', ' ')} (of the pairs in memory)", value) for key, value in stream.items() if value]
    return rows


def _figure(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value


def _probes(encoder: str, table: Mapping[str, Any], steps: list[int]) -> str:
    rows = [
        (f"{control}, {title}", *(_accuracy(row, when, key, steps) for when in _WHEN))
        for control, row in table.items()
        for kind, title in ACCURACIES.items()
        if (key := f"{kind}_{encoder}") in row["before"]
    ]
    last = f"last (step {steps[-1]})" if steps else "last"
    return _table("Accuracy of frozen features", ("probe", "start", last), rows)


def _accuracy(row: Mapping[str, Any], when: str, key: str, steps: list[int]) -> str:
    """Return an accuracy, and its step where the set came later to the run than others."""
    first = row.get("steps", steps)[:1]
    late = f" (step {first[0]})" if when == "before" and first != steps[:1] else ""
    return f"{100 * row[when][key]:.1f} %{late}" if key in row[when] else ""


_WHEN = ("before", "after")


def _table(title: str, head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    if not rows:
        return ""
    lines = [head, ("---",) * len(head), *rows]
    return f"## {title}\n\n" + "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines)


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")

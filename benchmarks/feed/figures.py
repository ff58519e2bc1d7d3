"""The table and the plot of the live feed. Pure, except that it writes the plot to a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.shared.paired import Line, markdown

PARTS = {"light": "#d08b2c", "contrast": "#1f6f8b", "colour": "#8a3ffc"}
NOTES = """Shares of the held-out pictures that come out again, in percent: light / contrast / colour, means over seeds. Light is
the brightness of a picture, contrast what is lighter or darker within it, colour the rest. A share below 0 is worse than a guess
of the mean. "Pairs/s": pairs a second that one core keeps up with, each trained on as often as the preset asks for."""


def tables(lines: Sequence[Line]) -> str:
    """Return a table with a row for each network and memory, and a column for each moment."""
    steps = [point["step"] for point in lines[0]["curve"]]
    rows = []
    for network, memory in dict.fromkeys((line["network"], line["memory"]) for line in lines):
        mine = [line for line in lines if (line["network"], line["memory"]) == (network, memory)]
        cells = [" / ".join(f"{100 * _mean(mine, moment, part):.0f}" for part in PARTS) for moment in range(len(steps))]
        speed = min(line["pairs_per_s"] for line in mine)
        rows.append([network, memory, *cells, f"{speed:.0f}"])
    head = ("network", "memory", *(f"step {step}" for step in steps), "pairs/s")
    seeds = len({line["seed"] for line in lines})
    return "\n\n".join([f"{seeds} seed(s).", markdown(head, rows), NOTES])


def plot(lines: Sequence[Line], path: Path) -> None:
    """Write a PNG with the shares over the steps: a panel for each network, dashed with the greedy rule."""
    networks = list(dict.fromkeys(line["network"] for line in lines))
    figure = Figure(figsize=(3.2 * len(networks), 3.2), layout="constrained")
    for axis, network in zip(figure.subplots(1, len(networks), squeeze=False)[0], networks, strict=True):
        for memory in dict.fromkeys(line["memory"] for line in lines):
            mine = [line for line in lines if (line["network"], line["memory"]) == (network, memory)]
            for part, colour in PARTS.items() if mine else ():
                steps = [point["step"] for point in mine[0]["curve"]]
                values = [_mean(mine, moment, part) for moment in range(len(steps))]
                style = "--" if memory == "greedy" else "-"
                axis.plot(steps, values, style, color=colour, label=f"{part}, {memory}")
        axis.set(title=network, xlabel="step", ylim=(-0.1, 1))
    figure.axes[0].set_ylabel("share of the picture that comes out")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _mean(lines: Sequence[Line], moment: int, part: str) -> float:
    return float(sum(line["curve"][moment][f"explained_{part}"] for line in lines) / len(lines))

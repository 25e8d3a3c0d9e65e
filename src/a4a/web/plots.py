"""Curves of a score against the sample count."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import matplotlib

matplotlib.use("svg")
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Curve:
    """A score after each number of training samples."""

    label: str
    samples: Sequence[float]
    scores: Sequence[float]
    live: bool = False
    """Drawn now, against recorded in the zoo."""
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    """A band around the line."""


COLOURS = ("#c8102e", "#1f6fb2", "#8a8d91", "#2e8b57", "#b8860b", "#7b3fa0", "#00838f", "#5d4037")


def curves(title: str, score: str, lines: Sequence[Curve], levels: dict[str, float]) -> str:
    """An SVG: every line a run, every level a dashed line (a ceiling, another adapter's score)."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    ends = [line.samples[-1] for line in lines if line.samples]
    if ends and max(ends) >= 8 * min(ends):  # a short run beside a long one would be a dash at the edge
        axes.set_xscale("log", nonpositive="mask")
        axes.xaxis.set_major_formatter(lambda thousands, _: f"{thousands:g}")
    for colour, line in zip(cycle(COLOURS), lines, strict=False):
        thousands = [s / 1000 for s in line.samples]
        axes.plot(
            thousands,
            line.scores,
            color=colour,
            marker="o",
            markersize=3.5,
            linewidth=2.4 if line.live else 1.6,
            label=line.label,
        )
        if line.low is not None and line.high is not None:
            axes.fill_between(thousands, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
    for name, value in levels.items():
        axes.axhline(value, color="#555", linewidth=1, linestyle="--")
        axes.annotate(
            name, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8, color="#555"
        )
    axes.set(title=title, xlabel="training samples (thousands)", ylabel=score)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]

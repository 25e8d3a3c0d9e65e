"""Curves of a score against the sample count."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

matplotlib.use("svg")
from matplotlib.figure import Figure

KNOWN_COLOURS = {
    "A4A": "#c8102e",
    "IP-Adapter*": "#1f6fb2",
    "PTA-UM": "#2e8b57",
    "PTA on its base": "#3d3d3f",
    "X-Adapter": "#b8860b",
    "Delta Sampling": "#7b3fa0",
    "text only": "#9a9da1",
    "a fresh drawing": "#9a9da1",
}
OTHER_COLOURS = ("#00838f", "#d2691e", "#6a5acd", "#7a8b00", "#c2478c", "#5d4037", "#4f8ad6", "#e0a100")
SVG_SETTINGS: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "a4a", "font.family": "sans-serif"}
"""Text stays text, a tenth of the size of outlines; equal plots are equal files."""


class Colours:
    """One colour a method on a whole page, and no two alike in one plot while there are enough."""

    def __init__(self) -> None:
        self._by_name = dict(KNOWN_COLOURS)

    def of(self, names: Iterable[str]) -> dict[str, str]:
        """Colours of the methods of one plot."""
        names = list(names)
        used = {self._by_name[name] for name in names if name in self._by_name}
        free = cycle([colour for colour in OTHER_COLOURS if colour not in used] or OTHER_COLOURS)
        for name in names:
            if name not in self._by_name:
                self._by_name[name] = next(free)
        return {name: self._by_name[name] for name in names}


@dataclass(frozen=True)
class Curve:
    """A score after each number of training samples."""

    label: str
    samples: Sequence[float]
    scores: Sequence[float]
    colour: str
    live: bool = False
    """Drawn now, against recorded in the zoo."""
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    """A band around the line."""


@dataclass(frozen=True)
class Level:
    """The score of a method that is not trained here, a dashed line."""

    label: str
    score: float
    colour: str


def curves(title: str, score: str, lines: Sequence[Curve], levels: Sequence[Level]) -> str:
    """An SVG with a logarithmic sample axis, which leaves out the untrained start.

    A recorded run of a method that was also run live is dotted: both have the method's colour.
    """
    figure = Figure(figsize=(6.4, 3.9), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log", nonpositive="mask")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(lambda samples, _: f"{samples:,.0f}")
    axes.xaxis.set_minor_formatter(lambda *_: "")
    live = {line.colour for line in lines if line.live}
    for line in lines:
        _draw_curve(axes, line, ":" if not line.live and line.colour in live else "-")
    _draw_levels(axes, levels)
    axes.set(xlabel="training samples (logarithmic)", ylabel=score)
    axes.set_title(title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eee", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8, loc="best")
    return _svg(figure)


def _draw_curve(axes: Axes, line: Curve, style: str) -> None:
    points = [i for i, samples in enumerate(line.samples) if samples > 0]
    samples = [line.samples[i] for i in points]
    scores = [line.scores[i] for i in points]
    width = 2.6 if line.live else 1.8
    axes.plot(samples, scores, style, color=line.colour, marker="o", markersize=3.5, linewidth=width, label=line.label)
    if line.low is not None and line.high is not None:
        low, high = ([end[i] for i in points] for end in (line.low, line.high))
        axes.fill_between(samples, low, high, color=line.colour, alpha=0.15, linewidth=0)


def _draw_levels(axes: Axes, levels: Sequence[Level]) -> None:
    """Dashed lines whose labels do not cover each other."""
    for level in levels:
        axes.axhline(level.score, color=level.colour, linewidth=1, linestyle="--")
    low, high = axes.get_ylim()
    gap, free = 0.045 * (high - low), -float("inf")
    for level in sorted(levels, key=lambda level: level.score):
        height = max(level.score, free)
        free = height + gap
        place = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom", "fontsize": 8}
        axes.annotate(level.label, (1, height), color=level.colour, **place)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context(SVG_SETTINGS):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]

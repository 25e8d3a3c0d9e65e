"""The table that answers what a transfer saves: samples to reach shares of an adapter's score."""

from dataclasses import dataclass

import numpy as np

from a4a.evaluation.resampling import ScoreCurve
from a4a.evaluation.tables import Rows
from a4a.experiments.decisions import ratio_in_words
from a4a.experiments.evidence import Crossing, Evidence, Resampled, ratio

SHARES = {0.5: "half", 0.75: "three quarters", 0.9: "nine tenths"}


@dataclass
class Savings:
    """A table: how many samples each variant needs to reach shares of a method's score, and how many times fewer one
    of them needs."""

    method: str
    """The variant that the others are compared with."""
    reference: str
    """The method whose score is the full level, for example the adapter that is transferred, on its own base."""
    score: str = "identity"
    fractions: tuple[float, ...] = (0.5, 0.75, 0.9)


def savings_table(savings: Savings, evidence: Evidence) -> Rows:
    """A row a variant: samples to each share of the reference's score, and how many times fewer the method needs.

    No rows where the reference or the method was not measured.
    """
    score = savings.score
    found = {name: evidence.curve(name, score) for name in (savings.method, *evidence.variants)}
    curves: dict[str, ScoreCurve] = {name: curve for name, curve in found.items() if curve is not None}
    reference = evidence.level(savings.reference, score)
    if reference is None or savings.method not in curves:
        return []
    resampled = Resampled({**curves, savings.reference: reference})
    levels = {share: resampled.level(savings.reference, share) for share in savings.fractions}
    head = ["method", "seeds"]
    for share, level in levels.items():
        head += [f"samples to {SHARES.get(share, f'{share:g}')} ({level.value:.3f})", f"{savings.method} needs"]
    rows = [head]
    crossings = {name: [resampled.crossing(name, level) for level in levels.values()] for name in curves}
    for name, curve in curves.items():
        row = [name, str(curve.seeds)]
        for own, best in zip(crossings[name], crossings[savings.method], strict=True):
            row += [_in_words(own), "" if name == savings.method else _fewer(best, own)]
        rows.append(row)
    return rows


def _in_words(crossing: Crossing) -> str:
    """For example `2,100 [1,800, 2,500]`, or `not reached by 16,000`."""
    if _from_the_start(crossing):
        return "before the first sample"
    if np.isinf(crossing.samples):
        return f"not reached by {crossing.end:,.0f}"
    interval = crossing.interval
    high = f"over {crossing.end:,.0f}" if np.isinf(interval.high) else f"{interval.high:,.0f}"
    low = f"over {crossing.end:,.0f}" if np.isinf(interval.low) else f"{interval.low:,.0f}"
    return f"{crossing.samples:,.0f} [{low}, {high}]"


def _fewer(best: Crossing, own: Crossing) -> str:
    if np.isinf(best.samples) or _from_the_start(own):
        return ""
    return f"{ratio_in_words(ratio(best, own))} fewer"


def _from_the_start(crossing: Crossing) -> bool:
    """Whether the curve is there before training, as that of an adapter which is trained on: no ratio means anything."""
    return crossing.samples <= 1

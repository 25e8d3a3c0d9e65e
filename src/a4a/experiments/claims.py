"""Claims of the paper as comparisons that scores decide."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from a4a.evaluation.statistics import mean_over_seeds
from a4a.experiments.results import Method, _estimate, _points


@dataclass
class Claim:
    """Something that the paper says or that we suspect, in words and as a comparison that a program can decide."""

    description: str
    kind: Literal["always_above", "above", "not_above", "reaches"]
    """`always_above`: at every sample count; `above`: at the end, the paired difference's interval over zero;
    `not_above`: that difference's interval reaches down to zero; `reaches`: a's curve crosses b's last score, and when.
    At the end is on the final task; curves, and what they are held against, are on the recipe's evaluation."""
    a: str
    b: str
    score: str = "identity"


def _decide(
    claim: Claim, methods: dict[str, Method], logs: dict[str, list], others: dict[str, Method]
) -> tuple[str, str, str]:
    if claim.kind in ("above", "not_above"):
        if not all(name in methods and claim.score in methods[name].scores for name in (claim.a, claim.b)):
            return claim.description, "not measured", ""
        between = _between(*(methods[name].scores[claim.score] for name in (claim.a, claim.b)))
        difference = mean_over_seeds(between)
        seeds = f"; by seed {', '.join(f'{np.nanmean(s):+.3f}' for s in between)}" if len(between) > 1 else ""
        if claim.kind == "not_above":
            verdict = _verdict(difference.low <= 0)
        else:
            verdict = "cannot be told" if difference.low <= 0 < difference.high else _verdict(difference.low > 0)
        return claim.description, verdict, f"{claim.score}, {claim.a} minus {claim.b}: {difference}{seeds}"
    if claim.a not in logs:
        return claim.description, "not measured", ""
    a = {s: (mean, low, high) for s, mean, low, high in _points(logs[claim.a], claim.score)}
    if claim.kind == "always_above":
        if claim.b not in logs:
            return claim.description, "not measured", ""
        b = {s: mean for s, mean, _, _ in _points(logs[claim.b], claim.score)}
        common = [s for s in a if s in b and s > 0]
        above = [s for s in common if a[s][0] > b[s]]
        return (
            claim.description,
            _verdict(len(common) > 0 and len(above) == len(common)),
            f"{claim.a} is above at {len(above)} of {len(common)} sample counts",
        )
    if claim.b in logs:
        points = list(_points(logs[claim.b], claim.score))
        wanted, other = points[-1][1], points[-1][0]
    elif claim.b in others and claim.score in others[claim.b].scores:
        wanted, other = _estimate(others[claim.b], claim.score).mean, None
    else:
        return claim.description, "not measured", ""
    crossing = next((s for s in sorted(a) if a[s][0] >= wanted), None)
    if crossing is None:
        best = max(mean for mean, _, _ in a.values())
        return claim.description, _verdict(False), f"{claim.a} comes to {best:.3f} of {wanted:.3f}"
    factor = f", {other / crossing:.1f} times fewer than {claim.b}'s {other:,.0f}" if other and crossing else ""
    return claim.description, _verdict(True), f"{claim.a} reaches {wanted:.3f} at {crossing:,.0f} samples{factor}"


def _between(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Differences of the same subjects, prompts and noise, [seeds, subjects, ...]; each seed's where both were trained with as many."""
    return scores - (others if len(others) == len(scores) else np.nanmean(others, axis=0, keepdims=True))


def _verdict(holds: bool) -> str:
    return "holds" if holds else "does not hold"

"""Claims of the paper as comparisons that recorded scores decide."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from a4a.evaluation.statistics import mean_over_seeds
from a4a.experiments.results import CurvePoint, Log, MethodResult, learning_curve

HOLDS, FAILS = "holds", "does not hold"
UNDECIDED, NOT_MEASURED = "cannot be told", "not measured"


@dataclass
class Claim:
    """A statement of the paper, or one of our own, in words and as a comparison that a program can decide."""

    description: str
    kind: Literal["always_above", "above", "not_above", "reaches"]
    """`always_above`: a's curve is above b's at every sample count that both have.
    `above`: the final scores of a are higher; the interval of the paired difference lies above zero.
    `not_above`: that interval reaches down to zero or below.
    `reaches`: a's curve reaches b's last score; the verdict says after how many samples.
    Final scores are those of the final task; curves, and the scores they are compared with, those of the validation
    task of the recipe."""
    a: str
    b: str
    score: str = "identity"


@dataclass(frozen=True)
class Verdict:
    """Whether a claim holds, and the figures that decide it."""

    verdict: str
    """HOLDS, FAILS, UNDECIDED or NOT_MEASURED."""
    figures: str = ""


@dataclass(frozen=True)
class Evidence:
    """What an experiment measured, by the name of the variant or method."""

    methods: Mapping[str, MethodResult]
    """Scores of the final task."""
    logs: Mapping[str, list[Log]]
    """Training logs of the variants, one for each seed."""
    validation: Mapping[str, MethodResult]
    """Scores of methods that are not trained here on the validation task, on which curves are measured."""


def decide(claim: Claim, evidence: Evidence) -> Verdict:
    return _DECISIONS[claim.kind](claim, evidence)


def _above(claim: Claim, evidence: Evidence) -> Verdict:
    return _compare_final_scores(claim, evidence, _verdict_above)


def _not_above(claim: Claim, evidence: Evidence) -> Verdict:
    return _compare_final_scores(claim, evidence, lambda low, _: HOLDS if low <= 0 else FAILS)


def _verdict_above(low: float, high: float) -> str:
    if low <= 0 < high:
        return UNDECIDED
    return HOLDS if low > 0 else FAILS


def _compare_final_scores(claim: Claim, evidence: Evidence, verdict: Callable[[float, float], str]) -> Verdict:
    """`verdict` judges the interval of a's final scores minus b's."""
    pair = [evidence.methods[name] for name in (claim.a, claim.b) if name in evidence.methods]
    if len(pair) < 2 or any(claim.score not in method.scores for method in pair):
        return Verdict(NOT_MEASURED)
    differences = _seed_differences(*(method.scores[claim.score] for method in pair))
    mean = mean_over_seeds(differences)
    figures = f"{claim.score}, {claim.a} minus {claim.b}: {mean}"
    if len(differences) > 1:
        figures += f"; by seed {', '.join(f'{np.nanmean(seed):+.3f}' for seed in differences)}"
    return Verdict(verdict(mean.low, mean.high), figures)


def _seed_differences(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Paired differences [seeds, subjects, ...], for the same subjects, prompts and noise.

    Seed by seed where both methods have as many seeds; else against the mean over the other method's seeds.
    """
    return scores - (others if len(others) == len(scores) else np.nanmean(others, axis=0, keepdims=True))


def _always_above(claim: Claim, evidence: Evidence) -> Verdict:
    if claim.a not in evidence.logs or claim.b not in evidence.logs:
        return Verdict(NOT_MEASURED)
    a, b = (_means(learning_curve(evidence.logs[name], claim.score)) for name in (claim.a, claim.b))
    common = [samples for samples in a if samples in b and samples > 0]
    above = [samples for samples in common if a[samples] > b[samples]]
    figures = f"{claim.a} is above at {len(above)} of {len(common)} sample counts"
    return Verdict(HOLDS if common and above == common else FAILS, figures)


def _means(curve: list[CurvePoint]) -> dict[float, float]:
    return {point.samples: point.mean for point in curve}


def _reaches(claim: Claim, evidence: Evidence) -> Verdict:
    target = _last_score(claim, evidence)
    if claim.a not in evidence.logs or target is None:
        return Verdict(NOT_MEASURED)
    score, samples = target
    curve = learning_curve(evidence.logs[claim.a], claim.score)
    if not curve:
        return Verdict(NOT_MEASURED)
    crossing = next((point.samples for point in curve if point.mean >= score), None)
    if crossing is None:
        best = max(point.mean for point in curve)
        return Verdict(FAILS, f"{claim.a} comes to {best:.3f} of {score:.3f}")
    figures = f"{claim.a} reaches {score:.3f} at {crossing:,.0f} samples"
    if samples and crossing:
        figures += f", {samples / crossing:.1f} times fewer than {claim.b}'s {samples:,.0f}"
    return Verdict(HOLDS, figures)


def _last_score(claim: Claim, evidence: Evidence) -> tuple[float, float | None] | None:
    """b's last score on the validation task, and after how many samples if b is trained here; None if not measured."""
    if claim.b in evidence.logs:
        curve = learning_curve(evidence.logs[claim.b], claim.score)
        return (curve[-1].mean, curve[-1].samples) if curve else None
    if claim.b in evidence.validation and claim.score in evidence.validation[claim.b].scores:
        return evidence.validation[claim.b].estimate(claim.score).mean, None
    return None


_DECISIONS: dict[str, Callable[[Claim, Evidence], Verdict]] = {
    "above": _above,
    "not_above": _not_above,
    "always_above": _always_above,
    "reaches": _reaches,
}

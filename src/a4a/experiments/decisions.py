"""The verdict on each kind of claim. Nothing holds, and nothing fails, within the range of chance."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from a4a.evaluation.claims import FAILS, HOLDS, NOT_MEASURED, UNDECIDED, Claim, Verdict
from a4a.evaluation.resampling import Interval
from a4a.evaluation.statistics import mean_over_seeds
from a4a.experiments.evidence import Crossing, Evidence, Ratio, Resampled, ratio


def decide(claim: Claim, evidence: Evidence) -> Verdict:
    """The verdict on a claim, and its figures in words.

    What was trained with one seed decides nothing: how much runs differ is then unknown.
    """
    verdict = _DECISIONS[claim.kind](claim, evidence)
    single = [name for name in dict.fromkeys((claim.a, claim.b)) if _has_one_seed(name, claim, evidence)]
    if verdict.verdict in (HOLDS, FAILS) and single:
        return replace(verdict, verdict=UNDECIDED, figures=f"{verdict.figures}; but one seed of {' and '.join(single)}")
    return verdict


def _has_one_seed(name: str, claim: Claim, evidence: Evidence) -> bool:
    if name not in evidence.variants:
        return False
    if claim.needs_curves:
        curve = evidence.curve(name, claim.score)
        return curve is not None and curve.seeds == 1
    return name in evidence.methods and evidence.methods[name].seeds == 1


# --- final scores -----------------------------------------------------------------------------------------------------


def _above(claim: Claim, evidence: Evidence) -> Verdict:
    def judge(low: float, high: float) -> str:
        return HOLDS if low > 0 else FAILS if high <= 0 else UNDECIDED

    return _compare_final_scores(claim, evidence, judge)


def _equal(claim: Claim, evidence: Evidence) -> Verdict:
    margin = claim.margin or 0.0

    def judge(low: float, high: float) -> str:
        if -margin < low and high < margin:
            return HOLDS
        return FAILS if low >= margin or high <= -margin else UNDECIDED

    verdict = _compare_final_scores(claim, evidence, judge)
    return replace(verdict, figures=f"{verdict.figures}; margin {margin:g}") if verdict.figures else verdict


def _compare_final_scores(claim: Claim, evidence: Evidence, judge: Callable[[float, float], str]) -> Verdict:
    """`judge` gets the interval of a's final scores minus b's, or minus a fraction of those."""
    pair = [evidence.methods[name] for name in (claim.a, claim.b) if name in evidence.methods]
    if len(pair) < 2 or any(claim.score not in method.scores for method in pair):
        return Verdict(NOT_MEASURED)
    a, b = (method.scores[claim.score] for method in pair)
    share = 1.0 if claim.fraction is None else claim.fraction
    differences = _seed_differences(a, share * b)
    difference = mean_over_seeds(differences)
    own, other = (f"{method.estimate(claim.score).mean:.3f} ({method.name})" for method in pair)
    times = f"{share:g} times " if claim.fraction else ""
    figures = f"{claim.score} {own} against {times}{other}, difference {difference.signed()}"
    if len(differences) > 1:
        figures += f" (by seed {', '.join(f'{np.nanmean(seed):+.3f}' for seed in differences)})"
    return Verdict(judge(difference.low, difference.high), figures)


def _seed_differences(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Paired differences [seeds, subjects, ...], for the same subjects, prompts and noise.

    Seed by seed where both methods have as many seeds or one has a single result, as what is not trained has; else
    against the mean over the other method's seeds.
    """
    if len(others) not in (1, len(scores)) and len(scores) > 1:
        others = np.nanmean(others, axis=0, keepdims=True)
    return scores - others


# --- curves, point by point -------------------------------------------------------------------------------------------


def _always_above(claim: Claim, evidence: Evidence) -> Verdict:
    def margins(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a - b

    return _compare_curves(claim, evidence, margins, f"above {claim.b}")


def _at_least_times(claim: Claim, evidence: Evidence) -> Verdict:
    times, floor = claim.times or 1.0, claim.floor or -np.inf

    def margins(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.maximum(a - times * b, floor - b)

    clause = f" (or that is below {claim.floor:g})" if claim.floor else ""
    return _compare_curves(claim, evidence, margins, f"at least {times:g} times {claim.b}{clause}")


def _compare_curves(
    claim: Claim, evidence: Evidence, margins: Callable[[np.ndarray, np.ndarray], np.ndarray], relation: str
) -> Verdict:
    """The relation holds if its margin is above zero beyond chance at every sample count.

    It fails if its margin is below zero beyond chance at any, with intervals that allow for as many comparisons
    (Bonferroni).
    """
    curves = _curves(evidence, claim.score, claim.a, claim.b)
    if curves is None:
        return Verdict(NOT_MEASURED)
    common = curves.common(claim.a, claim.b, until=claim.until)
    if not len(common):
        return Verdict(NOT_MEASURED)
    (a, a_resampled), (b, b_resampled) = (curves.at(name, common) for name in (claim.a, claim.b))
    values, resampled = margins(a, b), margins(a_resampled, b_resampled)
    points = [Interval.of(value, column) for value, column in zip(values, resampled.T, strict=True)]
    strict = 1 - 0.05 / len(common)
    highs = [
        Interval.of(value, column, confidence=strict).high for value, column in zip(values, resampled.T, strict=True)
    ]
    above = [point.low > 0 for point in points]
    verdict = HOLDS if all(above) else FAILS if min(highs) < 0 else UNDECIDED
    worst = int(np.argmin([high if verdict == FAILS else point.low for point, high in zip(points, highs, strict=True)]))
    held = f"at all {len(common)}" if all(above) else f"beyond chance at {sum(above)} of {len(common)}"
    up_to = f" up to {claim.until:,.0f}" if claim.until is not None else ""
    return Verdict(
        verdict,
        f"{relation} {held} sample counts{up_to}; closest at {common[worst]:,.0f}: {claim.score} {a[worst]:.3f} against "
        f"{b[worst]:.3f}, margin {_signed(points[worst])}",
    )


def _curves(evidence: Evidence, score: str, *names: str) -> Resampled | None:
    """Curves or levels of methods; None if one was not measured."""
    found = {name: evidence.level(name, score) for name in names}
    measured = {name: curve for name, curve in found.items() if curve is not None}
    return Resampled(measured) if len(measured) == len(found) else None


def _signed(interval: Interval) -> str:
    return f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


# --- samples to reach a level -----------------------------------------------------------------------------------------


def _fewer_samples(claim: Claim, evidence: Evidence) -> Verdict:
    reference, fraction = claim.reference or claim.b, claim.fraction or 1.0
    needed = [claim.a, reference, *([] if claim.b_samples else [claim.b])]
    curves = _curves(evidence, claim.score, *needed)
    if curves is None or evidence.curve(claim.a, claim.score) is None:
        return Verdict(NOT_MEASURED)
    level = curves.level(reference, fraction)
    a = curves.crossing(claim.a, level)
    b = _known(claim.b_samples, a) if claim.b_samples else curves.crossing(claim.b, level)
    found, times = ratio(a, b), claim.times or 1.0
    share = f"{fraction:g} of " if fraction != 1 else ""
    target = f"{claim.score} {level.value:.3f}, {share}{reference}'s"
    if np.isinf(a.samples):
        best = curves.curves[claim.a].mean.max()
        figures = f"{claim.a} comes to {best:.3f} within {a.end:,.0f} samples; to reach was {target}"
    else:
        counts = f"{claim.a} {a.samples:,.0f}, {claim.b} {reached_at(b)}"
        figures = f"{ratio_in_words(found)} fewer samples ({counts}, to reach {target})"
    return Verdict(_judge_ratio(found, times), figures)


def _judge_ratio(found: Ratio, times: float) -> str:
    interval = found.interval
    if interval.low >= times and interval.low > 1:
        return HOLDS
    return FAILS if interval.high < times or interval.high <= 1 else UNDECIDED


def _known(samples: float, like: Crossing) -> Crossing:
    """The crossing of a method of which only its sample count is known."""
    return Crossing(samples, np.full_like(like.resampled, samples), np.inf)


def reached_at(crossing: Crossing) -> str:
    """A sample count in words."""
    return f"not by {crossing.end:,.0f}" if np.isinf(crossing.samples) else f"{crossing.samples:,.0f}"


def ratio_in_words(found: Ratio) -> str:
    """For example `8.1 times [6.9, 9.6]`."""
    low, high = (_number(end) for end in (found.interval.low, found.interval.high))
    bound = "at least " if found.is_bound else ""
    return f"{bound}{_number(found.interval.value)} times [{low}, {high}]"


def _number(value: float) -> str:
    if np.isinf(value):
        return "∞"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


_DECISIONS: dict[str, Callable[[Claim, Evidence], Verdict]] = {
    "above": _above,
    "equal": _equal,
    "always_above": _always_above,
    "at_least_times": _at_least_times,
    "fewer_samples": _fewer_samples,
}

"""Means with confidence intervals over subjects, over training seeds too where a method was trained several times, and differences."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap, t

from a4a.errors import InputError


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval. `subjects` are what the interval is over, `pictures` how many values were averaged."""

    mean: float
    low: float
    high: float
    subjects: int
    pictures: int | None = None

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_mean(scores: np.ndarray, seed: int = 0) -> Estimate:
    """Mean of scores [subjects] or [subjects, generations] with a bootstrap interval over subjects.

    Values that are NaN are left out; a subject without any value counts neither here nor there.
    """
    table = scores.astype(np.float64)
    table = table[:, None] if table.ndim == 1 else table
    sums, counts = _known(table)
    per_subject = sums[counts > 0] / counts[counts > 0]
    pictures = int(counts.sum())
    if not pictures:
        return Estimate(float("nan"), float("nan"), float("nan"), 0, 0)
    mean = float(per_subject.mean())
    if len(per_subject) < 2 or np.ptp(per_subject) == 0:
        return Estimate(mean, mean, mean, len(per_subject), pictures)
    interval = bootstrap(
        (per_subject,), np.mean, method="percentile", n_resamples=2000, rng=np.random.default_rng(seed)
    ).confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high), len(per_subject), pictures)


def paired_difference(scores: np.ndarray, others: np.ndarray, seed: int = 0) -> Estimate:
    """How much higher `scores` are than `others`, picture by picture of the same subjects, prompts and noise."""
    if scores.shape != others.shape:
        raise InputError(
            f"Scores of shapes {scores.shape} and {others.shape} cannot be compared in pairs; evaluate both methods on the same task."
        )
    return bootstrap_mean(scores.astype(np.float64) - others.astype(np.float64), seed)


def mean_over_seeds(scores: np.ndarray) -> Estimate:
    """Mean of scores [seeds, subjects] or [seeds, subjects, generations], with an interval over training seeds and subjects together.

    Another training seed moves all subjects at once, which an interval over subjects alone does not see: with the spread that seeds have
    here it would call one of eight equal pairs of methods different. Both are random effects of a crossed design; the variance of the
    mean is estimated from the mean squares and the degrees of freedom after Satterthwaite. Subjects without a value for every seed are
    left out. One seed gives the interval over subjects.
    """
    table = scores.astype(np.float64)
    table = table[..., None] if table.ndim == 2 else table
    if len(table) == 1:
        return bootstrap_mean(table[0])
    sums, counts = _known(table)
    whole = (counts > 0).all(axis=0)
    each = sums[:, whole] / counts[:, whole]
    seeds, subjects = each.shape
    if subjects < 2:
        only = float(each.mean()) if subjects else float("nan")
        return Estimate(only, only, only, subjects, int(counts.sum()))
    mean, of_seed, of_subject = each.mean(), each.mean(axis=1), each.mean(axis=0)
    rest = np.square(each - of_seed[:, None] - of_subject + mean).sum() / ((seeds - 1) * (subjects - 1))
    by_seed, by_subject = subjects * of_seed.var(ddof=1), seeds * of_subject.var(ddof=1)
    squares, freedom = by_subject, subjects - 1.0
    if by_seed > rest:  # else seeds differ no more than chance makes them
        squares = by_seed + by_subject - rest
        freedom = squares**2 / (
            by_seed**2 / (seeds - 1) + by_subject**2 / (subjects - 1) + rest**2 / ((seeds - 1) * (subjects - 1))
        )
    half = t.ppf(0.975, freedom) * np.sqrt(squares / each.size)
    return Estimate(float(mean), float(mean - half), float(mean + half), subjects, int(counts.sum()))


def _known(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the last axis of what is not NaN, and of how many."""
    known = ~np.isnan(table)
    return np.where(known, table, 0.0).sum(axis=-1), known.sum(axis=-1)

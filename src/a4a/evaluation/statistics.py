"""Means of scores and their differences, with 95 % confidence intervals over subjects and over training seeds."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap, t

from a4a.errors import InputError


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % confidence interval."""

    mean: float
    low: float
    high: float
    subjects: int
    """How many subjects the interval is over."""
    pictures: int | None = None
    """How many values were averaged."""

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def signed(self) -> str:
        """As text with signs, for a difference."""
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def bootstrap_mean(scores: np.ndarray, seed: int = 0) -> Estimate:
    """Mean of scores [subjects] or [subjects, generations], with a bootstrap interval over subjects.

    Every subject weighs the same. Values that are NaN are left out, and so are subjects without any value.
    """
    values = scores.astype(np.float64)
    values = values[:, None] if values.ndim == 1 else values
    sums, counts = _sums_and_counts(values)
    subject_means = sums[counts > 0] / counts[counts > 0]
    total = int(counts.sum())
    if not total:
        return Estimate(float("nan"), float("nan"), float("nan"), 0, 0)
    mean = float(subject_means.mean())
    if len(subject_means) < 2 or np.ptp(subject_means) == 0:
        return Estimate(mean, mean, mean, len(subject_means), total)
    interval = bootstrap(
        (subject_means,), np.mean, method="percentile", n_resamples=2000, rng=np.random.default_rng(seed)
    ).confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high), len(subject_means), total)


def paired_difference(scores: np.ndarray, others: np.ndarray, seed: int = 0) -> Estimate:
    """How much higher `scores` are than `others`, image by image of the same subjects, prompts and noise."""
    if scores.shape != others.shape:
        raise InputError(
            f"Scores of shapes {scores.shape} and {others.shape} cannot be compared in pairs; evaluate both methods on "
            "the same task."
        )
    return bootstrap_mean(scores.astype(np.float64) - others.astype(np.float64), seed)


def mean_over_seeds(scores: np.ndarray) -> Estimate:
    """Mean of scores [seeds, subjects] or [seeds, subjects, generations], with an interval over seeds and subjects.

    Another training seed moves the scores of all subjects at once, which an interval over subjects alone does not
    see: with the spread that seeds have here, it would call one of eight pairs of equal methods different. Seeds and
    subjects are random effects of a crossed design; the variance of the mean is estimated from the mean squares, its
    degrees of freedom after Satterthwaite (1946). Subjects without a value for every seed are left out. One seed gives
    the interval over subjects.
    """
    values = scores.astype(np.float64)
    values = values[..., None] if values.ndim == 2 else values
    if len(values) == 1:
        return bootstrap_mean(values[0])
    sums, counts = _sums_and_counts(values)
    complete = (counts > 0).all(axis=0)
    means = sums[:, complete] / counts[:, complete]
    total, subjects = int(counts.sum()), means.shape[1]
    if subjects < 2:
        mean = float(means.mean()) if subjects else float("nan")
        return Estimate(mean, mean, mean, subjects, total)
    mean, half_width = float(means.mean()), _crossed_half_width(means)
    return Estimate(mean, mean - half_width, mean + half_width, subjects, total)


def _crossed_half_width(means: np.ndarray) -> float:
    """Half the 95 % interval of the mean of values [seeds, subjects], at least two of each, both random effects."""
    seeds, subjects = means.shape
    mean, seed_means, subject_means = means.mean(), means.mean(axis=1), means.mean(axis=0)
    freedom_seeds, freedom_subjects = seeds - 1, subjects - 1
    freedom_rest = freedom_seeds * freedom_subjects
    ms_seeds, ms_subjects = subjects * seed_means.var(ddof=1), seeds * subject_means.var(ddof=1)
    ms_rest = np.square(means - seed_means[:, None] - subject_means + mean).sum() / freedom_rest
    square, freedom = ms_subjects, float(freedom_subjects)
    if ms_seeds > ms_rest:  # else seeds differ no more than chance makes them differ
        square = ms_seeds + ms_subjects - ms_rest
        freedom = square**2 / (
            ms_seeds**2 / freedom_seeds + ms_subjects**2 / freedom_subjects + ms_rest**2 / freedom_rest
        )
    return float(t.ppf(0.975, freedom) * np.sqrt(square / means.size))


def nan_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean of the values that are not NaN; NaN where there is none, without a warning."""
    sums, counts = _sums_and_counts(values, axis)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _sums_and_counts(values: np.ndarray, axis: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """Over an axis: the sum of the values that are not NaN, and how many there are."""
    known = ~np.isnan(values)
    return np.where(known, values, 0.0).sum(axis=axis), known.sum(axis=axis)

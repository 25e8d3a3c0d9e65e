"""Means with confidence intervals over subjects, and differences between methods."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

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


def over_subjects(scores: np.ndarray, seed: int = 0) -> Estimate:
    """Mean of scores [subjects] or [subjects, generations] with a bootstrap interval over subjects.

    Values that are NaN are left out; a subject without any value counts neither here nor there.
    """
    table = scores.astype(np.float64)
    table = table[:, None] if table.ndim == 1 else table
    known = ~np.isnan(table)
    counts = known.sum(axis=1)
    per_subject = np.where(known, table, 0.0).sum(axis=1)[counts > 0] / counts[counts > 0]
    pictures = int(counts.sum())
    if not pictures:
        return Estimate(float("nan"), float("nan"), float("nan"), 0, 0)
    mean = float(per_subject.mean())
    if len(per_subject) < 2 or np.ptp(per_subject) == 0:
        return Estimate(mean, mean, mean, len(per_subject), pictures)
    interval = bootstrap((per_subject,), np.mean, method="percentile", n_resamples=2000, rng=np.random.default_rng(seed)).confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high), len(per_subject), pictures)


def paired(scores: np.ndarray, others: np.ndarray, seed: int = 0) -> Estimate:
    """How much higher `scores` are than `others`, picture by picture of the same subjects, prompts and noise."""
    if scores.shape != others.shape:
        raise InputError(f"Scores of shapes {scores.shape} and {others.shape} cannot be compared in pairs; evaluate both methods on the same task.")
    return over_subjects(scores.astype(np.float64) - others.astype(np.float64), seed)

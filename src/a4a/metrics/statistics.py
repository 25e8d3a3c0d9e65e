"""Means with confidence intervals over subjects."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap


@dataclass(frozen=True)
class Estimate:
    mean: float
    low: float
    high: float
    subjects: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def over_subjects(scores: np.ndarray, seed: int = 0) -> Estimate:
    """Mean of scores [subjects] or [subjects, generations] with a 95 % bootstrap interval over subjects."""
    per_subject = scores.mean(axis=1) if scores.ndim == 2 else scores
    mean = float(per_subject.mean())
    if len(per_subject) < 2 or np.ptp(per_subject) == 0:
        return Estimate(mean, mean, mean, len(per_subject))
    interval = bootstrap((per_subject,), np.mean, method="percentile", n_resamples=2000, rng=np.random.default_rng(seed)).confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high), len(per_subject))

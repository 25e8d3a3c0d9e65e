"""Confidence intervals of any figure that is computed from learning curves: by resampling training seeds and subjects.

A learning curve is the mean over seeds and subjects at each sample count. Resampled curves give seeds and subjects
random weights; the spread of a figure over many such curves is its interval. Methods that were scored on the same
subjects get the same weights of them, so that their comparison is paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from a4a.evaluation.statistics import nan_mean

REPLICATES = 2000


@dataclass(frozen=True)
class ScoreCurve:
    """The scores of a method while it was trained."""

    samples: np.ndarray
    """Sample counts, ascending [counts]."""
    values: np.ndarray
    """Scores [seeds, subjects, counts]; NaN where there is none."""

    @property
    def seeds(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> np.ndarray:
        """[counts]; every subject weighs the same."""
        return _subject_means(self.values).mean(axis=0)

    def band(self) -> tuple[np.ndarray, np.ndarray]:
        """The ends of the 95 % interval at each sample count, [counts] each."""
        low, high = np.quantile(resample({"": self.values})[""], (0.025, 0.975), axis=0)
        return low, high


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % confidence interval; an end may be infinite."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, low: np.ndarray, high: np.ndarray | None = None, confidence: float = 0.95) -> "Interval":
        """From the figure and its resampled values; two arrays where they are only known to lie in between."""
        tail = (1 - confidence) / 2
        low_end = np.quantile(low, tail, method="lower")
        high_end = np.quantile(low if high is None else high, 1 - tail, method="higher")
        return cls(float(value), float(low_end), float(high_end))


def student_deviations(count: int, replicates: int, random: np.random.Generator) -> np.ndarray:
    """Random weights less 1/count, [replicates, count]: each row sums to zero.

    The weighted mean of `count` normal values is then spread around their mean as Student's t distribution says.
    Drawing with replacement, as the plain bootstrap does, makes intervals over three seeds far too narrow. All zero
    for a count of one, whose spread is unknown.
    """
    if count == 1:
        return np.zeros((replicates, 1))
    normal = random.normal(size=(replicates, count))
    normal -= normal.mean(axis=1, keepdims=True)
    return normal / np.sqrt(count * random.chisquare(count - 1, size=(replicates, 1)))


def resample(curves: Mapping[str, np.ndarray], replicates: int = REPLICATES, seed: int = 0) -> dict[str, np.ndarray]:
    """Resampled means [replicates, counts] of scores [seeds, subjects, counts], by the name of the method.

    Seeds and subjects are random effects of a crossed design: deviations of seeds and of subjects from the mean are
    weighted separately. Those of seeds are shrunk by the share of them that single images explain, which deviations of
    subjects have in them, too. Methods with equally many subjects are taken to have the same ones.
    """
    random = np.random.default_rng(seed)
    subject_weights: dict[int, np.ndarray] = {}
    resampled = {}
    for name, values in curves.items():
        seeds, subjects, _ = values.shape
        if subjects not in subject_weights:
            subject_weights[subjects] = student_deviations(subjects, replicates, random)
        means = _subject_means(values)
        seed_deviations = _seed_deviations(values)
        resampled[name] = (
            means.mean(axis=0)
            + student_deviations(seeds, replicates, random) @ seed_deviations
            + subject_weights[subjects] @ (means - means.mean(axis=0))
        )
    return resampled


def _subject_means(values: np.ndarray) -> np.ndarray:
    """Means over seeds [subjects, counts]; a subject without any value at a count has the mean of the others there."""
    means = nan_mean(values, axis=0)
    return np.where(np.isnan(means), nan_mean(means, axis=0), means)


def _seed_deviations(values: np.ndarray) -> np.ndarray:
    """How far each seed's curve lies from the mean of all [seeds, counts], less what single images explain."""
    seeds, subjects, counts = values.shape
    if seeds == 1 or subjects == 1:
        return np.zeros((seeds, counts))
    residuals = values - _subject_means(values)
    deviations = np.nan_to_num(nan_mean(residuals, axis=1))
    deviations -= deviations.mean(axis=0)
    rest = np.nansum(np.square(residuals - deviations[:, None])) / ((seeds - 1) * (subjects - 1))
    between = subjects * np.square(deviations).sum() / (seeds - 1)
    return deviations * np.sqrt(max(0.0, 1 - rest / between)) if between > 0 else deviations


def monotone(curves: np.ndarray) -> np.ndarray:
    """The nearest curves [..., counts] that never fall (least squares): one lucky evaluation does not count alone."""
    flat = curves.reshape(-1, curves.shape[-1])
    return np.array([isotonic_regression(curve).x for curve in flat]).reshape(curves.shape)


def samples_to_reach(samples: np.ndarray, curves: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """After how many samples curves [replicates, counts] reach levels [replicates]; infinity where they don't.

    The curves are monotone, and interpolated linearly between the recorded sample counts.
    """
    reached = curves >= levels[:, None]
    after = reached.argmax(axis=1)
    before = np.maximum(after - 1, 0)
    rows = np.arange(len(curves))
    low, high = curves[rows, before], curves[rows, after]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(high > low, (levels - low) / (high - low), 1.0)
    crossing = samples[before] + share * (samples[after] - samples[before])
    return np.where(reached.any(axis=1), np.maximum(crossing, 1.0), np.inf)  # at least one sample, for ratios


def common_samples(curves: Sequence[ScoreCurve], until: float | None = None) -> np.ndarray:
    """Sample counts that all curves have, without the untrained start, up to `until`."""
    common = curves[0].samples
    for curve in curves[1:]:
        common = np.intersect1d(common, curve.samples)
    return common[(common > 0) & (common <= (np.inf if until is None else until))]

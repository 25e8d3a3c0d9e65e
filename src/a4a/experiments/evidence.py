"""What an experiment measured, as claims and tables use it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from a4a.evaluation.resampling import Interval, ScoreCurve, common_samples, monotone, resample, samples_to_reach
from a4a.evaluation.statistics import nan_mean
from a4a.experiments.results import MethodResult

Curves = Mapping[str, Mapping[str, ScoreCurve]]
"""Learning curves by variant, then by score."""


@dataclass(frozen=True)
class Evidence:
    """The scores of an experiment, by the name of the variant or method."""

    methods: Mapping[str, MethodResult]
    """Scores of the final task."""
    curves: Curves
    """Of the variants, on the validation task."""
    validation: Mapping[str, MethodResult]
    """Scores of methods that are not trained here on the validation task."""
    variants: Collection[str]
    """What is trained here; of these one run alone says nothing about another."""

    def curve(self, name: str, score: str) -> ScoreCurve | None:
        return self.curves.get(name, {}).get(score)

    def level(self, name: str, score: str) -> ScoreCurve | None:
        """Scores on the validation task as a curve whose last point is the level; None if not measured."""
        if (curve := self.curve(name, score)) is not None:
            return curve
        if name not in self.validation or score not in self.validation[name].scores:
            return None
        scores = self.validation[name].scores[score]
        values = scores if scores.ndim == 2 else nan_mean(scores, axis=2)
        return ScoreCurve(np.zeros(1), values[..., None])


@dataclass(frozen=True)
class Crossing:
    """After how many samples a curve reaches a level."""

    samples: float
    """Infinity where the curve does not reach it."""
    resampled: np.ndarray
    """The same for resampled curves [replicates]."""
    end: float
    """The last sample count of the curve; infinity for a method of which only the sample count is known."""

    @property
    def interval(self) -> Interval:
        return Interval.of(self.samples, self.resampled)


@dataclass(frozen=True)
class Ratio:
    """How many times more samples b needs than a; between bounds where a curve ends before it reaches the level."""

    interval: Interval
    is_bound: bool
    """Whether b's curve ends before, so that the ratio is at least the interval's value."""


@dataclass(frozen=True)
class ScoreLevel:
    """A share of a method's score on the validation task, for the mean curve and for the resampled ones."""

    value: float
    resampled: np.ndarray


class Resampled:
    """Curves of one score of several methods, resampled together so that they are paired by subject."""

    def __init__(self, curves: Mapping[str, ScoreCurve]):
        self.curves = curves
        self.resampled = resample({name: curve.values for name, curve in curves.items()})
        self._monotone: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def level(self, name: str, fraction: float) -> ScoreLevel:
        """A fraction of the last score of a method."""
        mean, resampled = self.monotone(name)
        return ScoreLevel(fraction * float(mean[0, -1]), fraction * resampled[:, -1])

    def crossing(self, name: str, level: ScoreLevel) -> Crossing:
        """After how many samples a method's curve reaches a level."""
        samples, (mean, resampled) = self.curves[name].samples, self.monotone(name)
        crossing = samples_to_reach(samples, mean, np.array([level.value]))
        return Crossing(float(crossing[0]), samples_to_reach(samples, resampled, level.resampled), float(samples[-1]))

    def monotone(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A method's mean [1, counts] and resampled means [replicates, counts], made monotone."""
        if name not in self._monotone:
            self._monotone[name] = monotone(self.curves[name].mean[None]), monotone(self.resampled[name])
        return self._monotone[name]

    def at(self, name: str, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means [counts] and resampled means [replicates, counts] at sample counts that the curve has."""
        columns = np.searchsorted(self.curves[name].samples, samples)
        return self.curves[name].mean[columns], self.resampled[name][:, columns]

    def common(self, *names: str, until: float | None = None) -> np.ndarray:
        return common_samples([self.curves[name] for name in names], until)


def ratio(a: Crossing, b: Crossing) -> Ratio:
    """b's samples by a's. Where a does not reach the level, from zero (never) to as if it did at its end."""

    def bounds(a_samples: np.ndarray, b_samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low = np.where(np.isinf(a_samples), 0.0, np.minimum(b_samples, b.end) / a_samples)
        return low, b_samples / np.minimum(a_samples, a.end)

    low, high = bounds(a.resampled, b.resampled)
    value, _ = bounds(np.array(a.samples), np.array(b.samples))
    return Ratio(Interval.of(float(value), low, high), bool(np.isinf(b.samples)))

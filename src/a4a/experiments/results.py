"""Read what an experiment recorded: the scores of finished methods, and the learning curves of training runs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from a4a.evaluation.statistics import Estimate, bootstrap_mean
from a4a.training.log import read_log

Log = list[dict[str, float]]
"""The rows of one run's `log.csv`."""


@dataclass(frozen=True)
class MethodResult:
    """The final scores of one method, over all of its training seeds."""

    name: str
    seeds: int
    scores: dict[str, np.ndarray]
    """Scores by name, [seeds, subjects, generations] or [seeds, subjects]."""
    set_scores: dict[str, Estimate]
    """Scores of a whole set of images (KID); mean, low and high are averaged over seeds."""
    cost: dict[str, Any]
    images: Path
    """Folder with the generated images of the first seed."""

    def estimate(self, score: str) -> Estimate:
        """Mean and interval over subjects; the images of all seeds count as generations of their subject."""
        if score in self.set_scores:
            return self.set_scores[score]
        return bootstrap_mean(np.concatenate([s.reshape(len(s), -1) for s in self.scores[score]], axis=1))


def read_results(folder: Path, variants: Sequence[str] = ()) -> tuple[dict[str, MethodResult], dict[str, Any]]:
    """The methods of an evaluation by name, and its whole `results.json`.

    Entries called "VARIANT, seed N" of one of the `variants` become one method with several seeds.
    """
    results = json.loads((folder / "results.json").read_text())
    entries: dict[str, list[dict]] = {}
    for name, entry in results["methods"].items():
        variant = name.rpartition(", seed ")[0]
        entries.setdefault(variant if variant in variants else name, []).append(entry)
    return {name: _merge_seeds(name, seeds, folder) for name, seeds in entries.items()}, results


def _merge_seeds(name: str, entries: list[dict], folder: Path) -> MethodResult:
    """One method from its entries in `results.json`, an entry for each seed."""
    seeds = [json.loads((folder / entry["folder"] / "scores.json").read_text()) for entry in entries]
    set_scores = [score for score, value in seeds[0].items() if isinstance(value, dict)]
    scores = {n: np.array([values[n] for values in seeds], dtype=float) for n in seeds[0] if n not in set_scores}
    return MethodResult(
        name,
        len(entries),
        scores,
        {score: _mean_estimate([values[score] for values in seeds]) for score in set_scores},
        entries[0],
        folder / entries[0]["folder"] / "pictures",
    )


def _mean_estimate(seeds: list[dict[str, Any]]) -> Estimate:
    means = {end: float(np.mean([values[end] for values in seeds])) for end in ("mean", "low", "high")}
    return replace(Estimate(**seeds[0]), **means)


def read_logs(folder: Path, seeds: Sequence[int]) -> list[Log]:
    """The logs of a variant's runs, one for each seed that has been trained."""
    return [read_log(file) for seed in seeds if (file := folder / f"seed{seed}" / "log.csv").exists()]


@dataclass(frozen=True)
class CurvePoint:
    """A point of a learning curve. The interval is the range over seeds, or, with one seed, that over subjects."""

    samples: float
    mean: float
    low: float
    high: float


def learning_curve(logs: Sequence[Log], score: str) -> list[CurvePoint]:
    """A score against the sample count, where the logs of all seeds have it."""
    if not logs:
        return []
    runs = [{row["samples"]: row for row in log if score in row} for log in logs]
    return [
        _point(samples, [run[samples] for run in runs], score) for samples in sorted(set.intersection(*map(set, runs)))
    ]


def _point(samples: float, rows: list[dict[str, float]], score: str) -> CurvePoint:
    values = [row[score] for row in rows]
    if len(values) > 1:
        low, high = min(values), max(values)
    else:
        low, high = (rows[0].get(f"{score}.{end}", values[0]) for end in ("low", "high"))
    return CurvePoint(samples, float(np.mean(values)), low, high)

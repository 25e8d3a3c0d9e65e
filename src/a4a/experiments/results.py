"""Read what an experiment recorded: the scores of finished methods, and the learning curves of training runs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from a4a.errors import InputError
from a4a.evaluation.resampling import ScoreCurve
from a4a.evaluation.statistics import Estimate, bootstrap_mean, nan_mean
from a4a.training.log import read_log

LOG_COLUMNS = {"step", "samples", "loss", "samples_per_second"}
"""The columns of a log that are no scores."""
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


def read_curves(
    folder: Path, seeds: Sequence[int], scores: Sequence[str], source: str | None = None
) -> dict[str, ScoreCurve]:
    """The learning curves of a variant by score, where all seeds that have been trained have it.

    With `source`, those with that one of several sources.

    Raises InputError for a run that lacks the scores of single subjects.
    """
    runs = [_read_run(folder / f"seed{seed}") for seed in seeds if (folder / f"seed{seed}" / "log.csv").exists()]
    common = sorted(set.intersection(*map(set, runs))) if runs else []
    if not common:
        return {}
    columns = {name: f"{name} ({source})" if source is not None else name for name in scores}
    measured = {
        name: column
        for name, column in columns.items()
        if all(column in run[samples] for run in runs for samples in common)
    }
    return {
        name: ScoreCurve(
            np.array(common, dtype=float), np.array([[run[n][column] for n in common] for run in runs]).swapaxes(1, 2)
        )
        for name, column in measured.items()
    }


def _read_run(folder: Path) -> dict[int, dict[str, np.ndarray]]:
    """By sample count, the validation scores of a run by name, [subjects]."""
    rows = [row for row in read_log(folder / "log.csv") if set(row) - LOG_COLUMNS]
    return {int(row["samples"]): _read_scores(folder / "scores" / f"{int(row['samples']):010d}.json") for row in rows}


def _read_scores(file: Path) -> dict[str, np.ndarray]:
    """Scores of every subject, averaged over its images; those of a whole set have none."""
    if not file.exists():
        raise InputError(
            f"There is no {file}, the validation scores of every subject, which intervals of curves need; "
            f"train that run again (remove {file.parent.parent})."
        )
    found = {name: np.array(v, dtype=float) for name, v in json.loads(file.read_text()).items() if isinstance(v, list)}
    return {name: values if values.ndim == 1 else nan_mean(values, axis=1) for name, values in found.items()}

"""Read the recorded scores and logs of an experiment."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from a4a.evaluation.statistics import Estimate, bootstrap_mean
from a4a.training.log import read_log

Arrays = dict[str, np.ndarray]


@dataclass
class Method:
    """One method's final scores, over all of its seeds."""

    name: str
    seeds: int
    scores: Arrays
    """[seeds, subjects, generations] or [seeds, subjects]."""
    alone: dict[str, Estimate]
    """Scores that belong to all pictures together; mean, low and high are means over seeds."""
    cost: dict
    pictures: Path


def _logs(folder: Path, seeds: list[int]) -> list[list[dict[str, float]]]:
    return [read_log(file) for seed in seeds if (file := folder / f"seed{seed}" / "log.csv").exists()]


def _methods(folder: Path, variants: list[str]) -> tuple[dict[str, Method], dict]:
    """Methods by name; those called "NAME, seed N" of one variant are one."""
    results = json.loads((folder / "results.json").read_text())
    groups: dict[str, list[str]] = {}
    for name in results["methods"]:
        stem = name.rpartition(", seed ")[0]
        groups.setdefault(stem if stem in variants else name, []).append(name)
    methods = {}
    for name, members in groups.items():
        entries = [results["methods"][m] for m in members]
        values = [json.loads((folder / e["folder"] / "scores.json").read_text()) for e in entries]
        whole = [k for k, v in values[0].items() if isinstance(v, dict)]
        scores = {k: np.array([v[k] for v in values], dtype=float) for k in values[0] if k not in whole}
        ends = {k: {end: float(np.mean([v[k][end] for v in values])) for end in ("mean", "low", "high")} for k in whole}
        alone = {k: Estimate(**(values[0][k] | ends[k])) for k in whole}
        methods[name] = Method(
            name, len(members), scores, alone, entries[0], folder / entries[0]["folder"] / "pictures"
        )
    return methods, results


def _estimate(method: Method, score: str) -> Estimate:
    """Over subjects: all seeds' pictures of a subject count as its own."""
    if score in method.alone:
        return method.alone[score]
    return bootstrap_mean(np.concatenate([s.reshape(len(s), -1) for s in method.scores[score]], axis=1))


# --- curves and claims ------------------------------------------------------------------------------------------------


def _points(found: list[list[dict[str, float]]], score: str) -> Iterator[tuple[float, float, float, float]]:
    """Samples, mean, low, high: over seeds where there are several, over subjects where there is one."""
    tables = [{r["samples"]: r for r in rows if score in r} for rows in found]
    for samples in sorted(set.intersection(*(set(t) for t in tables))):
        values = [t[samples][score] for t in tables]
        only = tables[0][samples]
        ends = (
            (min(values), max(values))
            if len(values) > 1
            else (only.get(f"{score}.low", values[0]), only.get(f"{score}.high", values[0]))
        )
        yield samples, float(np.mean(values)), *ends

"""Sections of a report: what one experiment or one evaluation shows."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from a4a.evaluation.resampling import ScoreCurve
from a4a.evaluation.tables import Rows, difference_rows
from a4a.experiments.claims import Claim, Savings, Verdict
from a4a.experiments.decisions import decide
from a4a.experiments.evidence import Evidence
from a4a.experiments.results import Log, MethodResult, read_curves, read_logs, read_results
from a4a.experiments.savings import savings_table
from a4a.utils.images import grid, open_image
from a4a.web.plots import Curve, curves

Methods = dict[str, MethodResult]


@dataclass
class Section:
    """What a report shows of one experiment or evaluation."""

    name: str
    """Name for anchors and files, unique in a report."""
    title: str
    description: str
    tables: list[Rows]
    images: Image.Image | None
    """A grid: references in the first column, then a column for each method."""
    columns: list[str]
    note: str
    plots: dict[str, str] = field(default_factory=dict)
    """SVGs by the score that they show."""
    verdicts: list[tuple[str, Verdict]] = field(default_factory=list)
    """Claims in words, and what was found."""


def find_sections(runs: Path, grid_subjects: int) -> list[Section]:
    """All experiments below a folder, then all evaluations that are not part of one."""
    experiments = sorted(file.parent for file in runs.rglob("experiment.json"))
    parts = {folder / part for folder in experiments for part in ("final", "validation")}
    evaluations = sorted(file.parent for file in runs.rglob("results.json") if file.parent not in parts)
    return [_experiment(folder, _name(folder, runs), grid_subjects) for folder in experiments] + [
        _evaluation(folder, _name(folder, runs), grid_subjects) for folder in evaluations
    ]


def _name(folder: Path, runs: Path) -> str:
    """The path below `runs` in one word: two folders of one name are two sections."""
    return "-".join(folder.relative_to(runs).parts) or folder.name


def _experiment(folder: Path, name: str, grid_subjects: int) -> Section:
    experiment = json.loads((folder / "experiment.json").read_text())
    logs = {variant: read_logs(folder / run, experiment["seeds"]) for variant, run in experiment["variants"].items()}
    logs = {variant: runs for variant, runs in logs.items() if runs}
    methods, results = _read(folder / "final", experiment["variants"])
    validation, _ = _read(folder / "validation")
    savings = Savings(**experiment["savings"]) if experiment["savings"] else None
    claims = [Claim(**claim) for claim in experiment["claims"]]
    curves = {
        variant: read_curves(folder / run, experiment["seeds"], experiment["scores"])
        for variant, run in experiment["variants"].items()
    }
    evidence = Evidence(methods, curves, validation, list(experiment["variants"]))
    samples = {variant: int(runs[0][-1]["samples"]) for variant, runs in logs.items()}
    images, columns = _image_grid(methods, folder / "final", grid_subjects)
    return Section(
        name,
        experiment["title"],
        experiment["description"],
        [_score_table(methods, samples), *([savings_table(savings, evidence)] if savings else [])],
        images,
        columns,
        f"Seeds {', '.join(map(str, experiment['seeds']))}. {_task_note(results)} {_speed_note(logs)}",
        {score: _plot(experiment["title"], score, evidence) for score in experiment["scores"]},
        [(claim.description, decide(claim, evidence)) for claim in claims],
    )


def _evaluation(folder: Path, name: str, grid_subjects: int) -> Section:
    methods, results = _read(folder)
    tables = [_score_table(methods, {}), difference_rows(results)]
    images, columns = _image_grid(methods, folder, grid_subjects)
    return Section(
        name, results["title"], results["description"], list(filter(None, tables)), images, columns, _task_note(results)
    )


def _read(folder: Path, variants: Mapping[str, str] | None = None) -> tuple[Methods, dict[str, Any]]:
    """Methods and `results.json` of an evaluation; nothing where it has not been run yet."""
    return read_results(folder, list(variants or ())) if (folder / "results.json").exists() else ({}, {})


def _plot(title: str, score: str, evidence: Evidence) -> str:
    """Learning curves of the variants with their 95 % bands; the scores of untrained methods as dashed lines."""
    validation = evidence.validation.values()
    levels = {method.name: method.estimate(score).mean for method in validation if score in method.scores}
    found = {name: evidence.curve(name, score) for name in evidence.variants}
    lines = [_curve(name, curve) for name, curve in found.items() if curve is not None]
    return curves(title, f"{score}, validation", lines, levels)


def _curve(name: str, curve: ScoreCurve) -> Curve:
    low, high = curve.band()
    return Curve(name, list(curve.samples), list(curve.mean), low=list(low), high=list(high))


def _score_table(methods: Methods, samples: Mapping[str, int]) -> Rows:
    """A row per method: training samples, seeds, scores, and what an image costs."""
    scores = list(dict.fromkeys(score for m in methods.values() for score in (*m.scores, *m.set_scores)))
    has_gpu = any(method.cost["peak_gpu_bytes"] for method in methods.values())
    head = [
        "method",
        "samples",
        "seeds",
        *scores,
        "parameters",
        "base calls",
        "s/image",
        *(["GPU GB"] if has_gpu else []),
    ]
    rows = [head]
    for method in methods.values():
        cost, trained = method.cost, samples.get(method.name)
        measured = {*method.scores, *method.set_scores}
        rows.append(
            [
                method.name,
                f"{trained:,}" if trained else "",
                str(method.seeds),
                *(str(method.estimate(score)) if score in measured else "" for score in scores),
                f"{cost['parameters']:,}",
                str(cost["base_calls"]),
                "" if cost["seconds_per_image"] is None else f"{cost['seconds_per_image']:.2f}",
                *([f"{(cost['peak_gpu_bytes'] or 0) / 1e9:.1f}"] if has_gpu else []),
            ]
        )
    return rows if methods else []


def _image_grid(methods: Methods, folder: Path, subjects: int) -> tuple[Image.Image | None, list[str]]:
    """The first image of each of the first few subjects, and the names of the columns."""
    if not methods:
        return None, []
    task = json.loads((folder / "task.json").read_text())
    shown = range(min(subjects, task["subjects"]))
    references = [open_image(folder / "references" / f"{s:05d}.png") for s in shown]
    columns = [[open_image(m.images / f"{s * task['generations']:05d}.png") for s in shown] for m in methods.values()]
    side = min(max(96, columns[0][0].width), 256)
    rows = [[image.resize((side, side)) for image in row] for row in zip(references, *columns, strict=True)]
    return grid(rows), ["reference", *methods]


def _task_note(results: dict[str, Any]) -> str:
    if not results:
        return ""
    task = results["task"]
    return (
        f"{task['subjects']} subjects x {task['generations']} images, noise seed {task['seed']}; 95 % intervals: "
        f"bootstrap over subjects for scores, over training seeds and subjects for differences. {results['machine']}; "
        f"seconds as measured then, other jobs may have run."
    )


def _speed_note(logs: Mapping[str, list[Log]]) -> str:
    speeds = {name: np.mean([rows[-1]["samples_per_second"] for rows in runs]) for name, runs in logs.items()}
    return " ".join(f"{name}: {speed:.0f} training samples/s." for name, speed in speeds.items())

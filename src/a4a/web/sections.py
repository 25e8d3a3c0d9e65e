"""Sections of a report: what one experiment or one evaluation shows."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from a4a.errors import InputError
from a4a.evaluation.claims import Claim, Verdict
from a4a.evaluation.resampling import ScoreCurve
from a4a.evaluation.tables import Rows, difference_rows
from a4a.experiments.decisions import decide
from a4a.experiments.evidence import Evidence
from a4a.experiments.results import Log, MethodResult, read_curves, read_logs, read_results
from a4a.experiments.savings import Savings, savings_table
from a4a.utils.images import grid, open_image
from a4a.web.plots import Colours, Curve, Level, curves

Methods = dict[str, MethodResult]
PARTS = ("headline", "figure", "ablation")
"""The order of sections on the page."""
PREVIEW_ROWS = 4
"""Subjects in the image grids at the head of the page."""


@dataclass
class Section:
    """What a report shows of one experiment or evaluation."""

    name: str
    """Name for anchors and files, unique in a report."""
    title: str
    part: Literal["headline", "figure", "ablation"]
    description: str
    tables: list[Rows]
    images: Image.Image | None
    """A grid: references in the first column, then a column for each method."""
    columns: list[str]
    note: str
    plots: dict[str, str] = field(default_factory=dict)
    """SVGs by the score that they show."""
    curves: Rows = field(default_factory=list)
    """The figures of the plots."""
    savings: Rows = field(default_factory=list)
    """Samples to reach shares of a score."""
    verdicts: list[tuple[Claim, Verdict]] = field(default_factory=list)

    @property
    def preview(self) -> Image.Image | None:
        """The first rows of the image grid."""
        if self.images is None:
            return None
        side = self.images.width // len(self.columns)
        return self.images.crop((0, 0, self.images.width, min(PREVIEW_ROWS * side, self.images.height)))


def find_sections(runs: Path, grid_subjects: int) -> list[Section]:
    """All experiments below a folder, and all evaluations that are not part of one, in the order of PARTS."""
    colours = Colours()
    experiments = sorted(file.parent for file in runs.rglob("experiment.json"))
    parts = {folder / part for folder in experiments for part in ("final", "validation")}
    evaluations = sorted(file.parent for file in runs.rglob("results.json") if file.parent not in parts)
    sections = [_experiment(folder, _name(folder, runs), grid_subjects, colours) for folder in experiments]
    sections += [_evaluation(folder, _name(folder, runs), grid_subjects) for folder in evaluations]
    return sorted(sections, key=lambda section: PARTS.index(section.part))


def _name(folder: Path, runs: Path) -> str:
    """The path below `runs` in one word: two folders of one name are two sections."""
    return "-".join(folder.relative_to(runs).parts) or folder.name


def _experiment(folder: Path, name: str, grid_subjects: int, colours: Colours) -> Section:
    experiment = json.loads((folder / "experiment.json").read_text())
    _check(experiment, ("part", "savings", "paper"), folder / "experiment.json")
    variants, seeds, scores = experiment["variants"], experiment["seeds"], experiment["scores"]
    logs = {variant: read_logs(folder / run, seeds) for variant, run in variants.items()}
    logs = {variant: runs for variant, runs in logs.items() if runs}
    methods, results = _read(folder / "final", variants)
    validation, _ = _read(folder / "validation")
    sources = experiment.get("sources", {})
    measured = {name: read_curves(folder / run, seeds, scores, sources.get(name)) for name, run in variants.items()}
    evidence = Evidence(methods, measured, validation, list(variants))
    samples = {variant: int(runs[0][-1]["samples"]) for variant, runs in logs.items()}
    images, columns = _image_grid(methods, folder / "final", grid_subjects)
    savings = experiment["savings"]
    claims = [Claim(**claim) for claim in experiment["claims"]]
    return Section(
        name,
        experiment["title"],
        experiment["part"],
        experiment["description"],
        [_score_table(methods, samples, experiment["paper"])],
        images,
        columns,
        f"Seeds {', '.join(map(str, seeds))}. {_task_note(results)} {_speed_note(logs)}",
        plots={score: _plot(experiment["title"], score, evidence, colours) for score in scores},
        curves=_curve_rows(evidence, scores),
        savings=savings_table(Savings(**savings), evidence) if savings else [],
        verdicts=[(claim, decide(claim, evidence)) for claim in claims],
    )


def _evaluation(folder: Path, name: str, grid_subjects: int) -> Section:
    names = json.loads((folder / "results.json").read_text())["methods"]
    trained = {variant: "" for name in names if (variant := name.rpartition(", seed ")[0])}
    methods, results = _read(folder, trained)
    _check(results, ("paper",), folder / "results.json")
    evidence = Evidence(methods, {}, {}, list(trained))
    claims = [Claim(**claim) for claim in results.get("claims", [])]
    tables = [_score_table(methods, {}, results["paper"]), difference_rows(results)]
    images, columns = _image_grid(methods, folder, grid_subjects)
    note = _task_note(results)
    verdicts = [(claim, decide(claim, evidence)) for claim in claims]
    return Section(
        name, results["title"], "figure", results["description"], tables, images, columns, note, verdicts=verdicts
    )


def _check(record: Mapping[str, Any], names: Iterable[str], file: Path) -> None:
    """InputError for a record of an earlier version."""
    for name in names:
        if name not in record:
            raise InputError(
                f"{file} has no {name}: an earlier version wrote it. Run its recipe again; what is trained and "
                "generated is kept."
            )


def _read(folder: Path, variants: Mapping[str, str] | None = None) -> tuple[Methods, dict[str, Any]]:
    """Methods and `results.json` of an evaluation; nothing where it has not been run yet."""
    return read_results(folder, list(variants or ())) if (folder / "results.json").exists() else ({}, {})


def _plot(title: str, score: str, evidence: Evidence, colours: Colours) -> str:
    """Learning curves of the variants with their 95 % bands; the scores of untrained methods as dashed lines."""
    untrained = [method for method in evidence.validation.values() if score in method.scores]
    colour = colours.of([*evidence.variants, *(method.name for method in untrained)])
    found = {name: evidence.curve(name, score) for name in evidence.variants}
    lines = [_curve(name, curve, colour[name]) for name, curve in found.items() if curve is not None]
    levels = [Level(method.name, method.estimate(score).mean, colour[method.name]) for method in untrained]
    return curves(title, f"{score}, validation subjects", lines, levels)


def _curve(name: str, curve: ScoreCurve, colour: str) -> Curve:
    low, high = curve.band()
    return Curve(name, list(curve.samples), list(curve.mean), colour, low=list(low), high=list(high))


def _curve_rows(evidence: Evidence, scores: list[str]) -> Rows:
    """Every point of every curve, with the ends of its 95 % interval."""
    rows = [["method", "score", "seeds", "subjects", "samples", "mean", "low", "high"]]
    for name in evidence.variants:
        for score in scores:
            if (curve := evidence.curve(name, score)) is not None:
                facts = [name, score, str(curve.seeds), str(curve.values.shape[1])]
                points = zip(curve.samples, curve.mean, *curve.band(), strict=True)
                rows += [[*facts, f"{point[0]:.0f}", *(f"{value:.4f}" for value in point[1:])] for point in points]
    return rows


def _score_table(methods: Methods, samples: Mapping[str, int], paper: Mapping[str, str]) -> Rows:
    """A row per method: training samples, seeds, scores, what the paper reports, and what an image costs."""
    scores = list(dict.fromkeys(score for m in methods.values() for score in (*m.scores, *m.set_scores)))
    has_gpu = any(method.cost["peak_gpu_bytes"] for method in methods.values())

    def cells(method: MethodResult) -> Iterator[str]:
        cost, trained = method.cost, samples.get(method.name)
        measured = {*method.scores, *method.set_scores}
        yield method.name
        if samples:
            yield f"{trained:,}" if trained else ""
            yield str(method.seeds)
        yield from (str(method.estimate(score)) if score in measured else "" for score in scores)
        if paper:
            yield paper.get(method.name, "")
        yield f"{cost['parameters']:,}"
        yield str(cost["base_calls"])
        yield "" if cost["seconds_per_image"] is None else f"{cost['seconds_per_image']:.2f}"
        if has_gpu:
            yield f"{(cost['peak_gpu_bytes'] or 0) / 1e9:.1f}"

    head = ["method", *(["samples", "seeds"] if samples else []), *scores, *(["the paper"] if paper else [])]
    head += ["parameters", "base calls", "s/image", *(["GPU GB"] if has_gpu else [])]
    return [head, *(list(cells(method)) for method in methods.values())] if methods else []


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
        f"{task['subjects']} subjects x {task['generations']} images, noise seed {task['seed']}; 95 % intervals, of "
        f"scores over subjects, of curves and differences over training seeds and subjects. {results['machine']}; "
        f"seconds as measured then, other jobs may have run."
    )


def _speed_note(logs: Mapping[str, list[Log]]) -> str:
    speeds = {name: np.mean([rows[-1]["samples_per_second"] for rows in runs]) for name, runs in logs.items()}
    return " ".join(f"{name}: {speed:.0f} training samples/s." for name, speed in speeds.items())

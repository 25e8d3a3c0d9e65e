"""`a4a evaluate`: several methods generate the images of one task and are scored by the same metrics."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from a4a.errors import InputError
from a4a.evaluation.claims import Claim
from a4a.evaluation.methods import Method
from a4a.evaluation.metrics.base import Metric, Scores
from a4a.evaluation.scoring import (
    compute_scores,
    generated_set,
    image_grid,
    noise_generator,
    scores_to_json,
    summarize,
)
from a4a.evaluation.statistics import Estimate, paired_difference
from a4a.evaluation.tables import results_markdown, write_csv
from a4a.evaluation.tasks.base import Task
from a4a.utils.files import atomic_write, changed_setting, slug, write_json
from a4a.utils.images import open_image
from a4a.utils.machine import machine


@torch.no_grad()
def evaluate(
    task: Task,
    methods: dict[str, Method],
    metrics: list[Metric],
    output: Path,
    baseline: str | None = None,
    batch: int = 8,
    seed: int = 0,
    grid_subjects: int = 12,
    title: str | None = None,
    description: str = "",
    paper: dict[str, str] = {},  # noqa: B006
    claims: list[Claim] = [],  # noqa: B006
) -> None:
    """Generate the images of a task with several methods, score them, and write tables and image grids.

    Images stay in the output folder: a run that was stopped goes on, and a further metric generates nothing again.

    Args:
        task: References and prompts, for example class_path PreparedTask with the path of what a4a prepare made.
        methods: What is compared, by name, for example class_path ImagePromptMethod with model and adapter.
        metrics: What is scored, for example class_path CLIPImageScore.
        output: Folder for images, scores.csv, results.json and table.md.
        baseline: Name of a method; the table shows how much the others differ from it, paired by image.
        batch: Images that are generated at a time.
        seed: Of the noise.
        grid_subjects: Subjects in the image grids.
        title: Of the section in a report; by default the folder's name.
        description: What this comparison shows, in sentences for the report.
        paper: By the name of a method, what the paper reports of it, in words for the report.
        claims: Statements that the report decides, of kind above or equal. Methods called "NAME, seed N" are one
            method, NAME, trained several times; with one seed it decides nothing.
    """
    _check_arguments(methods, metrics, baseline, paper)
    _check_claims(claims, methods)
    output = Path(output)
    task_settings = {"subjects": len(task.subjects), "generations": task.generations, "seed": seed}
    _claim(output / "task.json", {"task": task.key} | task_settings)
    _save_references(task, output)

    scores: dict[str, Scores] = {}
    entries: dict[str, dict[str, Any]] = {}
    for name, method in methods.items():
        folder = output / slug(name)
        _claim(folder / "method.json", {"name": name, "method": method.key})
        cost = _generate(method, task, folder, batch, seed, name)
        method.release()
        images = [open_image(_image_file(folder, i)) for i in range(len(task))]
        scores[name] = compute_scores(metrics, generated_set(task, images))
        _save_method(folder, scores[name], image_grid(task, images, grid_subjects))
        estimates = summarize(scores[name])
        entries[name] = {"folder": folder.name, **cost, "scores": {n: asdict(e) for n, e in estimates.items()}}
    if baseline is not None:
        for name, differences in _differences(scores, baseline).items():
            entries[name]["baseline"] = {score: asdict(difference) for score, difference in differences.items()}

    results = {
        "title": title or output.name,
        "description": description,
        "paper": paper,
        "claims": [asdict(claim) for claim in claims],
        "task": {"key": task.key} | task_settings,
        "baseline": baseline,
        "machine": machine(),
        "methods": entries,
    }
    _save_results(output, results, task, scores)


def _compared(methods: dict[str, Method]) -> list[str]:
    """The names of the methods, of which several seeds are one."""
    return list(dict.fromkeys(name.rpartition(", seed ")[0] or name for name in methods))


def _check_claims(claims: Sequence[Claim], methods: dict[str, Method]) -> None:
    """InputError for a claim about a method that is not compared, or about learning curves."""
    names = _compared(methods)
    for claim in claims:
        if claim.needs_curves:
            raise InputError(
                f"The claim {claim.description!r} is of kind {claim.kind}, about learning curves, which an evaluation "
                "does not have; choose above or equal, or put it into a recipe of a4a experiment."
            )
        for name in (claim.a, claim.b):
            if name not in names:
                raise InputError(
                    f"The claim {claim.description!r} is about {name!r}; expected one of the methods {', '.join(names)}."
                )


def _check_arguments(
    methods: dict[str, Method], metrics: Sequence[Metric], baseline: str | None, paper: dict[str, str]
) -> None:
    if not methods or not metrics:
        raise InputError("There is nothing to evaluate: give at least one of methods and one of metrics.")
    if baseline is not None and baseline not in methods:
        raise InputError(f"baseline is {baseline!r}; expected one of the methods {', '.join(methods)}.")
    for name in paper:
        if name not in _compared(methods):
            raise InputError(f"paper is about {name!r}; expected one of the methods {', '.join(_compared(methods))}.")


def _claim(file: Path, settings: dict[str, Any]) -> None:
    """Record what a folder is made with; InputError where something else has been recorded."""
    if (changed := changed_setting(file, settings)) is not None:
        name, recorded, given = changed
        raise InputError(
            f"{file.parent} was made with {name} {recorded}, not {given}; scores of the two cannot stand in one "
            "table: choose another output folder or remove this one."
        )


def _image_file(folder: Path, index: int) -> Path:
    return folder / "pictures" / f"{index:05d}.png"


def _save_png(image: Image.Image, file: Path) -> None:
    with atomic_write(file) as temporary:
        image.save(temporary, format="PNG")


def _save_references(task: Task, output: Path) -> None:
    for s, reference in enumerate(task.references):
        _save_png(reference, output / "references" / f"{s:05d}.png")


def _save_method(folder: Path, scores: Scores, samples: Image.Image) -> None:
    _save_png(samples, folder / "grid.png")
    write_json(folder / "scores.json", scores_to_json(scores))


def _save_results(output: Path, results: dict[str, Any], task: Task, scores: dict[str, Scores]) -> None:
    write_json(output / "results.json", results, indent=1)
    write_csv(output / "scores.csv", task, scores)
    text = results_markdown(results)
    with atomic_write(output / "table.md") as temporary:
        temporary.write_text(text)
    print(text)


def _differences(scores: dict[str, Scores], baseline: str) -> dict[str, dict[str, Estimate]]:
    """Paired differences from the baseline: by method, then by score; scores of whole sets have none."""
    return {
        method: {} if method == baseline else _paired_differences(method_scores, scores[baseline])
        for method, method_scores in scores.items()
    }


def _paired_differences(scores: Scores, others: Scores) -> dict[str, Estimate]:
    arrays = {name: (values, others.get(name)) for name, values in scores.items()}
    return {
        name: paired_difference(values, other)
        for name, (values, other) in arrays.items()
        if isinstance(values, np.ndarray) and isinstance(other, np.ndarray)
    }


def _generate(method: Method, task: Task, folder: Path, batch: int, seed: int, name: str) -> dict[str, Any]:
    """Generate the images that the folder lacks; return what an image costs, as last measured."""
    cost_file = folder / "cost.json"
    missing = [i for i in range(len(task)) if not _image_file(folder, i).exists()]
    if not missing and cost_file.exists():
        return json.loads(cost_file.read_text())
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = None
    with tqdm(total=len(task), initial=len(task) - len(missing), desc=name, unit="image") as bar:
        timed_from, timed = None, 0
        for start in range(0, len(missing), batch):
            indices = missing[start : start + batch]
            images = method.generate(task, indices, [noise_generator(i, seed) for i in indices])
            for i, image in zip(indices, images, strict=True):
                _save_png(image, _image_file(folder, i))
            bar.update(len(indices))
            if timed_from is None:  # the first batch is not timed, since it loads the models
                timed_from = time.perf_counter()
            else:
                timed += len(indices)
                seconds = (time.perf_counter() - timed_from) / timed
    cost = {
        **asdict(method.cost()),
        "seconds_per_image": seconds,
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    }
    write_json(cost_file, cost)
    return cost

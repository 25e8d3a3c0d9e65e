"""Scores of methods on a task: `a4a evaluate`, and the scores that a training run logs."""

import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from a4a.errors import InputError
from a4a.evaluation.methods import Method
from a4a.evaluation.metrics.base import Metric, Scores
from a4a.evaluation.scoring import estimates, generated, measure, noise, picture_grid
from a4a.evaluation.statistics import Estimate, paired_difference
from a4a.evaluation.tables import _write_csv, table
from a4a.evaluation.tasks.base import Task
from a4a.utils.files import atomic_write, slug
from a4a.utils.images import open_image
from a4a.utils.machine import machine

# --- the command ------------------------------------------------------------------------------------------------------


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
) -> None:
    """Let several methods draw the same task, score them, and write tables and picture grids.

    What is drawn stays in the output folder: a run that was stopped goes on, another metric needs no new pictures.

    Args:
        task: What is drawn, for example class_path FolderTask with path and prompts.
        painters: The methods by name, for example class_path ImagePromptMethod with model and adapter.
        metrics: What is scored, for example class_path CLIPImageScore.
        output: Folder for pictures, scores.csv, results.json and table.md.
        against: Name of a method; the table shows how much better than it the others are, in pairs of pictures.
        batch: Pictures at a time.
        seed: Of the noise.
        shown: Subjects in the picture grids.
        title: Of the section in a report; the folder's name where it is left out.
        says: What the paper, or whoever asks, says about it; for the report.
    """
    if not methods or not metrics:
        raise InputError("There is nothing to evaluate: give at least one of methods and one of metrics.")
    if baseline is not None and baseline not in methods:
        raise InputError(f"baseline is {baseline!r}, which is none of the methods {', '.join(methods)}.")
    output = Path(output)
    _claim(
        output / "task.json",
        {"task": task.key, "seed": seed, "subjects": len(task.subjects), "generations": task.generations},
    )
    for s, reference in enumerate(task.references):
        with atomic_write(output / "references" / f"{s:05d}.png") as beside:
            reference.save(beside, format="PNG")
    values: dict[str, Scores] = {}
    entries: dict[str, dict] = {}
    for name, method in methods.items():
        folder = output / slug(name)
        _claim(folder / "method.json", {"name": name, "method": method.key})
        cost = _generate_all(method, task, folder, batch, seed, name)
        method.release()
        pictures = [open_image(folder / _file(i)) for i in range(len(task))]
        values[name] = measure(metrics, generated(task, pictures))
        with atomic_write(folder / "grid.png") as beside:
            picture_grid(task, pictures, grid_subjects).save(beside, format="PNG")
        with atomic_write(folder / "scores.json") as beside:
            beside.write_text(
                json.dumps({k: asdict(v) if isinstance(v, Estimate) else v.tolist() for k, v in values[name].items()})
            )
        entries[name] = {
            "folder": folder.name,
            **cost,
            "scores": {k: asdict(e) for k, e in estimates(values[name]).items()},
        }
    if baseline is not None:
        for name in methods:
            both = [
                k
                for k, v in values[name].items()
                if isinstance(v, np.ndarray) and isinstance(values[baseline].get(k), np.ndarray)
            ]
            entries[name]["baseline"] = (
                {k: asdict(paired_difference(values[name][k], values[baseline][k])) for k in both}
                if name != baseline
                else {}
            )  # pyright: ignore[reportArgumentType]
    results = {
        "title": title or output.name,
        "description": description,
        "task": {"key": task.key, "subjects": len(task.subjects), "generations": task.generations, "seed": seed},
        "baseline": baseline,
        "machine": machine(),
        "methods": entries,
    }
    with atomic_write(output / "results.json") as beside:
        beside.write_text(json.dumps(results, indent=1))
    _write_csv(output / "scores.csv", task, values)
    text = table(results)
    with atomic_write(output / "table.md") as beside:
        beside.write_text(text)
    print(text)


def _claim(file: Path, content: dict) -> None:
    """Marks a folder as belonging to one thing; InputError where it belongs to another."""
    if file.exists():
        found = json.loads(file.read_text())
        if found != content:
            name = next(k for k in {**found, **content} if found.get(k) != content.get(k))
            raise InputError(
                f"{file.parent} was made with {name} {found.get(name)}, not {content.get(name)}; scores of the two cannot stand in one table: "
                "choose another output folder or remove this one."
            )
        return
    with atomic_write(file) as beside:
        beside.write_text(json.dumps(content, indent=1))


def _file(picture: int) -> str:
    return f"pictures/{picture:05d}.png"


def _generate_all(method: Method, task: Task, folder: Path, batch: int, seed: int, name: str) -> dict:
    """Draws what is missing; what it cost, measured over the last time that anything was drawn."""
    costs = folder / "cost.json"
    missing = [i for i in range(len(task)) if not (folder / _file(i)).exists()]
    if not missing and costs.exists():
        return json.loads(costs.read_text())
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    began, drawn = None, 0
    with tqdm(total=len(task), initial=len(task) - len(missing), desc=name, unit="picture") as bar:
        for start in range(0, len(missing), batch):
            rows = missing[start : start + batch]
            for i, picture in zip(rows, method.generate(task, rows, [noise(i, seed) for i in rows]), strict=True):
                with atomic_write(folder / _file(i)) as beside:
                    picture.save(beside, format="PNG")
            bar.update(len(rows))
            if began is None:  # the first batch loads the models
                began = time.perf_counter()
            else:
                drawn += len(rows)
    cost = {
        **asdict(method.cost()),
        "seconds_per_picture": (time.perf_counter() - began) / drawn if began is not None and drawn else None,
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    }
    with atomic_write(costs) as beside:
        beside.write_text(json.dumps(cost))
    return cost

"""Scores of methods on a task: `a4a evaluate`, and the scores that a training run logs."""

import csv
import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Generator
from tqdm import tqdm

from a4a.adapters.adapter import ImagePromptAdapter
from a4a.adapters.encoders import CLIPImageEncoder
from a4a.errors import InputError
from a4a.files import replacing
from a4a.images import grid, open_image
from a4a.metrics.metric import Gallery, Metric, Scores
from a4a.metrics.statistics import Estimate, over_subjects, paired
from a4a.painters import Painter, Sampling, paint, paint_plain
from a4a.pipeline import ImagePromptPipeline
from a4a.tasks import Task


def noise(picture: int, seed: int = 0) -> Generator:
    """By the picture's number, so that no method and no batch size changes it."""
    return torch.Generator().manual_seed(seed * 1_000_003 + picture)


def gallery(task: Task, pictures: Sequence[Image.Image]) -> Gallery:
    return Gallery(task.references, task.rows(task.prompts), task.rows(pictures))


def measure(metrics: Sequence[Metric], shown: Gallery) -> Scores:
    scores: Scores = {}
    for metric in metrics:
        scores |= metric(shown)
    return scores


def estimates(scores: Scores) -> dict[str, Estimate]:
    return {name: value if isinstance(value, Estimate) else over_subjects(value) for name, value in scores.items()}


def picture_grid(task: Task, pictures: Sequence[Image.Image], subjects: int) -> Image.Image:
    """A reference in front of what was drawn for it; with one picture each, references above and pictures below."""
    rows = [[reference, *own] for reference, own in zip(task.references, task.rows(pictures), strict=False)][:subjects]
    return grid([list(column) for column in zip(*rows, strict=True)] if task.generations == 1 else rows)


@dataclass(frozen=True)
class Result:
    scores: dict[str, Estimate]
    picture: Image.Image
    """A grid: references and what was drawn for them."""


class Evaluation:
    """Scores of an adapter while it is trained: the same references, prompts and noise every time.

    Args:
        task: what is drawn.
        metrics: what is scored.
        sampling: steps, guidance and size.
        scale: weight of the image prompt.
        batch: pictures at a time.
        seed: of the noise.
        shown: subjects in the picture that is kept.
    """

    def __init__(
        self,
        task: Task,
        metrics: list[Metric],
        sampling: Sampling = Sampling(),
        scale: float = 1.0,
        batch: int = 8,
        seed: int = 0,
        shown: int = 12,
    ):
        self.task, self.metrics, self.sampling, self.scale, self.batch, self.seed, self.shown = task, metrics, sampling, scale, batch, seed, shown

    @torch.no_grad()
    def draw(self, pipe: DiffusionPipeline, adapter: ImagePromptAdapter | None, image_encoder: CLIPImageEncoder | None) -> list[Image.Image]:
        prompted = ImagePromptPipeline(pipe, adapter, image_encoder) if adapter is not None else None
        pictures: list[Image.Image] = []
        for start in range(0, len(self.task), self.batch):
            rows = range(start, min(start + self.batch, len(self.task)))
            noises = [noise(i, self.seed) for i in rows]
            if prompted is None:
                pictures += paint_plain(pipe, self.task, rows, noises, self.sampling)
            else:
                pictures += paint(prompted, self.task, rows, noises, self.sampling, self.scale)
        return pictures

    def draw_and_score(
        self, pipe: DiffusionPipeline, adapter: ImagePromptAdapter | None, image_encoder: CLIPImageEncoder | None
    ) -> tuple[list[Image.Image], dict[str, Estimate]]:
        pictures = self.draw(pipe, adapter, image_encoder)
        return pictures, estimates(measure(self.metrics, gallery(self.task, pictures)))

    def __call__(self, pipe: DiffusionPipeline, adapter: ImagePromptAdapter | None, image_encoder: CLIPImageEncoder | None) -> Result:
        pictures, scores = self.draw_and_score(pipe, adapter, image_encoder)
        return Result(scores, picture_grid(self.task, pictures, self.shown))


def logged(scores: dict[str, Estimate]) -> dict[str, float]:
    """Columns of a log: the mean under the score's name, and its interval."""
    return {f"{name}{end}": value for name, e in scores.items() for end, value in (("", e.mean), (".low", e.low), (".high", e.high))}


# --- the command ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(
    task: Task,
    painters: dict[str, Painter],
    metrics: list[Metric],
    output: Path,
    against: str | None = None,
    batch: int = 8,
    seed: int = 0,
    shown: int = 12,
    title: str | None = None,
    says: str = "",
) -> None:
    """Let several methods draw the same task, score them, and write tables and picture grids.

    What is drawn stays in the output folder: a run that was stopped goes on, another metric needs no new pictures.

    Args:
        task: What is drawn, for example class_path FolderTask with path and prompts.
        painters: The methods by name, for example class_path Prompted with model and adapter.
        metrics: What is scored, for example class_path CLIPImageScore.
        output: Folder for pictures, scores.csv, results.json and table.md.
        against: Name of a method; the table shows how much better than it the others are, in pairs of pictures.
        batch: Pictures at a time.
        seed: Of the noise.
        shown: Subjects in the picture grids.
        title: Of the section in a report; the folder's name where it is left out.
        says: What the paper, or whoever asks, says about it; for the report.
    """
    if not painters or not metrics:
        raise InputError("There is nothing to evaluate: give at least one of painters and one of metrics.")
    if against is not None and against not in painters:
        raise InputError(f"against names {against!r}, which is none of the painters {', '.join(painters)}.")
    output = Path(output)
    _claim(output / "task.json", {"task": task.key, "seed": seed, "subjects": len(task.subjects), "generations": task.generations})
    for s, reference in enumerate(task.references):
        with replacing(output / "references" / f"{s:05d}.png") as beside:
            reference.save(beside, format="PNG")
    values: dict[str, Scores] = {}
    methods = {}
    for name, painter in painters.items():
        folder = output / slug(name)
        _claim(folder / "painter.json", {"name": name, "painter": painter.key})
        cost = _paint_all(painter, task, folder, batch, seed, name)
        painter.release()
        pictures = [open_image(folder / _file(i)) for i in range(len(task))]
        values[name] = measure(metrics, gallery(task, pictures))
        with replacing(folder / "grid.png") as beside:
            picture_grid(task, pictures, shown).save(beside, format="PNG")
        with replacing(folder / "scores.json") as beside:
            beside.write_text(json.dumps({k: asdict(v) if isinstance(v, Estimate) else v.tolist() for k, v in values[name].items()}))
        methods[name] = {"folder": folder.name, **cost, "scores": {k: asdict(e) for k, e in estimates(values[name]).items()}}
    if against is not None:
        for name in painters:
            both = [k for k, v in values[name].items() if isinstance(v, np.ndarray) and isinstance(values[against].get(k), np.ndarray)]
            methods[name]["against"] = {k: asdict(paired(values[name][k], values[against][k])) for k in both} if name != against else {}  # pyright: ignore[reportArgumentType]
    results = {
        "title": title or output.name,
        "says": says,
        "task": {"key": task.key, "subjects": len(task.subjects), "generations": task.generations, "seed": seed},
        "against": against,
        "machine": machine(),
        "methods": methods,
    }
    with replacing(output / "results.json") as beside:
        beside.write_text(json.dumps(results, indent=1))
    _write_csv(output / "scores.csv", task, values)
    text = table(results)
    with replacing(output / "table.md") as beside:
        beside.write_text(text)
    print(text)


def slug(name: str) -> str:
    """A method's name as a folder's."""
    return re.sub(r"[^\w.+-]+", "-", name.replace("*", "-star")).strip("-")


def machine() -> str:
    what = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    return f"{what}, torch {torch.__version__}"


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
    with replacing(file) as beside:
        beside.write_text(json.dumps(content, indent=1))


def _file(picture: int) -> str:
    return f"pictures/{picture:05d}.png"


def _paint_all(painter: Painter, task: Task, folder: Path, batch: int, seed: int, name: str) -> dict:
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
            for i, picture in zip(rows, painter.paint(task, rows, [noise(i, seed) for i in rows]), strict=True):
                with replacing(folder / _file(i)) as beside:
                    picture.save(beside, format="PNG")
            bar.update(len(rows))
            if began is None:  # the first batch loads the models
                began = time.perf_counter()
            else:
                drawn += len(rows)
    cost = {
        **asdict(painter.cost()),
        "seconds_per_picture": (time.perf_counter() - began) / drawn if began is not None and drawn else None,
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    }
    with replacing(costs) as beside:
        beside.write_text(json.dumps(cost))
    return cost


def _write_csv(file: Path, task: Task, values: dict[str, Scores]) -> None:
    """A line for each picture, method and score."""
    with replacing(file) as beside, beside.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["method", "score", "subject", "generation", "prompt", "value"])
        for method, scores in values.items():
            for name, array in scores.items():
                if isinstance(array, Estimate):
                    writer.writerow([method, name, "", "", "", array.mean])
                    continue
                cells = array[:, None] if array.ndim == 1 else array
                for s, g in np.ndindex(*cells.shape):
                    prompt = task.prompts[s * task.generations + g] if array.ndim == 2 else ""
                    writer.writerow([method, name, task.subjects[s], g if array.ndim == 2 else "", prompt, cells[s, g]])


def table(results: dict) -> str:
    """Markdown: a method a row, a score a column."""
    methods: dict[str, dict] = results["methods"]
    names = list(dict.fromkeys(n for m in methods.values() for n in m["scores"]))
    task = results["task"]
    lines = ["| | " + " | ".join(names) + " | base calls | s a picture |", "|---" * (len(names) + 3) + "|"]
    for name, method in methods.items():
        cells = [str(Estimate(**method["scores"][n])) if n in method["scores"] else "" for n in names]
        seconds = method["seconds_per_picture"]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {method['base_calls']} | {f'{seconds:.2f}' if seconds is not None else ''} |")
    note = f"{task['subjects']} subjects x {task['generations']} pictures, seed {task['seed']}; means with 95 % bootstrap intervals over subjects; {results['machine']}."
    if results["against"]:
        lines += [
            "",
            f"Differences to {results['against']}, picture by picture:",
            "",
            "| | " + " | ".join(names) + " |",
            "|---" * (len(names) + 1) + "|",
        ]
        for name, method in methods.items():
            if name != results["against"]:
                cells = [_signed(Estimate(**method["against"][n])) if n in method["against"] else "" for n in names]
                lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", note, ""])


def _signed(e: Estimate) -> str:
    return f"{e.mean:+.3f} [{e.low:+.3f}, {e.high:+.3f}]"

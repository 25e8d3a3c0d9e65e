"""From generated images to scores."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from PIL import Image
from torch import Generator

from a4a.evaluation.metrics.base import GeneratedSet, Metric, Scores
from a4a.evaluation.statistics import Estimate, bootstrap_mean
from a4a.evaluation.tasks.base import Task
from a4a.utils.images import grid


def noise_generator(index: int, seed: int = 0) -> Generator:
    """The noise of a task's image: the same for every method and batch size."""
    return torch.Generator().manual_seed(seed * 1_000_003 + index)


def generated_set(task: Task, images: Sequence[Image.Image]) -> GeneratedSet:
    """All images of a task with their references and prompts, as metrics take them."""
    return GeneratedSet(task.references, task.by_subject(task.prompts), task.by_subject(images))


def compute_scores(metrics: Sequence[Metric], generated: GeneratedSet) -> Scores:
    """The scores of all metrics by name."""
    scores: Scores = {}
    for metric in metrics:
        scores |= metric(generated)
    return scores


def summarize(scores: Scores) -> dict[str, Estimate]:
    """Mean and interval of each score."""
    return {name: value if isinstance(value, Estimate) else bootstrap_mean(value) for name, value in scores.items()}


def scores_to_json(scores: Scores) -> dict[str, Any]:
    """Scores as lists; an estimate of a whole set as a mapping."""
    return {n: asdict(v) if isinstance(v, Estimate) else v.tolist() for n, v in scores.items()}


def image_grid(task: Task, images: Sequence[Image.Image], subjects: int) -> Image.Image:
    """Each reference followed by its images, a row a subject; with one image each, references above images."""
    rows = [[reference, *own] for reference, own in zip(task.references, task.by_subject(images), strict=True)]
    rows = rows[:subjects]
    return grid([list(column) for column in zip(*rows, strict=True)] if task.generations == 1 else rows)

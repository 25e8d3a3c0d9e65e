"""From generated images to scores."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Generator

from a4a.evaluation.metrics.base import GeneratedSet, Metric, Scores
from a4a.evaluation.statistics import Estimate, bootstrap_mean
from a4a.evaluation.tasks.base import Task
from a4a.utils.images import grid


def noise(picture: int, seed: int = 0) -> Generator:
    """By the picture's number, so that no method and no batch size changes it."""
    return torch.Generator().manual_seed(seed * 1_000_003 + picture)


def generated(task: Task, pictures: Sequence[Image.Image]) -> GeneratedSet:
    return GeneratedSet(task.references, task.rows(task.prompts), task.rows(pictures))


def measure(metrics: Sequence[Metric], shown: GeneratedSet) -> Scores:
    scores: Scores = {}
    for metric in metrics:
        scores |= metric(shown)
    return scores


def estimates(scores: Scores) -> dict[str, Estimate]:
    return {name: value if isinstance(value, Estimate) else bootstrap_mean(value) for name, value in scores.items()}


def picture_grid(task: Task, pictures: Sequence[Image.Image], subjects: int) -> Image.Image:
    """A reference in front of what was drawn for it; with one picture each, references above and pictures below."""
    rows = [[reference, *own] for reference, own in zip(task.references, task.rows(pictures), strict=False)][:subjects]
    return grid([list(column) for column in zip(*rows, strict=True)] if task.generations == 1 else rows)

"""Scores and sample images of an adapter while it is trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from a4a.adapters.base import ImagePromptAdapter
from a4a.encoders.base import ImageEncoder
from a4a.evaluation.generation import Sampling, generate_images, generate_text_only
from a4a.evaluation.metrics.base import Metric, Scores
from a4a.evaluation.scoring import compute_scores, generated_set, image_grid, noise_generator, summarize
from a4a.evaluation.statistics import Estimate
from a4a.evaluation.tasks.base import Task
from a4a.pipeline import ImagePromptPipeline

Value = TypeVar("Value")


@dataclass(frozen=True)
class ValidationResult:
    """What one validation of an adapter gives."""

    subject_scores: Scores
    """The scores of every subject and image."""
    samples: Image.Image
    """A grid of references and generated images."""

    @property
    def scores(self) -> dict[str, Estimate]:
        """Mean and interval of each score."""
        return summarize(self.subject_scores)

    def log_row(self) -> dict[str, float]:
        """Columns of the log: each score's mean under its name, its interval as `NAME.low` and `NAME.high`."""
        row: dict[str, float] = {}
        for name, estimate in self.scores.items():
            row |= {name: estimate.mean, f"{name}.low": estimate.low, f"{name}.high": estimate.high}
        return row


def with_source(scores: Mapping[str, Value], source: str) -> dict[str, Value]:
    """Scores of an adapter with one of its sources under names of their own, such as `identity (plus)`.

    The ends of an interval, `identity.low`, become `identity (plus).low`. An empty name leaves all as they are.
    """
    if not source:
        return dict(scores)
    parts = {name: name.partition(".") for name in scores}
    return {f"{head} ({source}){dot}{end}": scores[name] for name, (head, dot, end) in parts.items()}


class Validator:
    """Scores an adapter while it is trained, on the same references, prompts and noise every time.

    The pipeline must have no safety checker: the images that it blackens would be scored (`a4a transfer` loads none).

    Args:
        task: references and prompts.
        metrics: what is scored.
        sampling: steps, guidance and size.
        scale: weight of the image prompt.
        batch: images that are generated at a time.
        seed: of the noise.
        grid_subjects: subjects in the image grid that is kept.
    """

    def __init__(
        self,
        task: Task,
        metrics: list[Metric],
        sampling: Sampling = Sampling(),
        scale: float = 1.0,
        batch: int = 8,
        seed: int = 0,
        grid_subjects: int = 12,
    ):
        self.task, self.metrics, self.sampling, self.scale = task, metrics, sampling, scale
        self.batch, self.seed, self.grid_subjects = batch, seed, grid_subjects

    @torch.no_grad()
    def generate(
        self, pipe: DiffusionPipeline, adapter: ImagePromptAdapter | None, image_encoder: ImageEncoder | None
    ) -> list[Image.Image]:
        """All images of the task; from the prompts alone without an adapter."""
        pipe.set_progress_bar_config(disable=True)  # one bar for each batch would bury the run's own
        prompted = ImagePromptPipeline(pipe, adapter, image_encoder) if adapter is not None else None
        images: list[Image.Image] = []
        for start in range(0, len(self.task), self.batch):
            indices = range(start, min(start + self.batch, len(self.task)))
            noise = [noise_generator(i, self.seed) for i in indices]
            if prompted is None:
                images += generate_text_only(pipe, self.task, indices, noise, self.sampling)
            else:
                images += generate_images(prompted, self.task, indices, noise, self.sampling, self.scale)
        return images

    def generate_and_score(
        self, pipe: DiffusionPipeline, adapter: ImagePromptAdapter | None, image_encoder: ImageEncoder | None
    ) -> tuple[list[Image.Image], dict[str, Estimate]]:
        """All images of the task, and the mean and interval of each of their scores."""
        images = self.generate(pipe, adapter, image_encoder)
        return images, self.score(images)

    def score(self, images: list[Image.Image]) -> dict[str, Estimate]:
        """Mean and interval of each metric for all images of the task, however they were made."""
        return summarize(compute_scores(self.metrics, generated_set(self.task, images)))

    def __call__(
        self, pipe: DiffusionPipeline, adapter: ImagePromptAdapter | None, image_encoder: ImageEncoder | None
    ) -> ValidationResult:
        images = self.generate(pipe, adapter, image_encoder)
        scores = compute_scores(self.metrics, generated_set(self.task, images))
        return ValidationResult(scores, image_grid(self.task, images, self.grid_subjects))

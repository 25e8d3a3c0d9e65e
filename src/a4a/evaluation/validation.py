"""Scores and sample images of an adapter while it is trained."""

from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from a4a.adapters.base import ImagePromptAdapter
from a4a.encoders.clip import CLIPImageEncoder
from a4a.evaluation.generation import Sampling, generate_images, generate_text_only
from a4a.evaluation.metrics.base import Metric
from a4a.evaluation.scoring import estimates, generated, measure, noise, picture_grid
from a4a.evaluation.statistics import Estimate
from a4a.evaluation.tasks.base import Task
from a4a.pipeline import ImagePromptPipeline


@dataclass(frozen=True)
class ValidationResult:
    scores: dict[str, Estimate]
    picture: Image.Image
    """A grid: references and what was drawn for them."""


class Validator:
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
        grid_subjects: int = 12,
    ):
        self.task, self.metrics, self.sampling, self.scale, self.batch, self.seed, self.grid_subjects = (
            task,
            metrics,
            sampling,
            scale,
            batch,
            seed,
            grid_subjects,
        )

    @torch.no_grad()
    def draw(
        self, pipe: DiffusionPipeline, adapter: ImagePromptAdapter | None, image_encoder: CLIPImageEncoder | None
    ) -> list[Image.Image]:
        prompted = ImagePromptPipeline(pipe, adapter, image_encoder) if adapter is not None else None
        pictures: list[Image.Image] = []
        for start in range(0, len(self.task), self.batch):
            rows = range(start, min(start + self.batch, len(self.task)))
            noises = [noise(i, self.seed) for i in rows]
            if prompted is None:
                pictures += generate_text_only(pipe, self.task, rows, noises, self.sampling)
            else:
                pictures += generate_images(prompted, self.task, rows, noises, self.sampling, self.scale)
        return pictures

    def draw_and_score(
        self, pipe: DiffusionPipeline, adapter: ImagePromptAdapter | None, image_encoder: CLIPImageEncoder | None
    ) -> tuple[list[Image.Image], dict[str, Estimate]]:
        pictures = self.draw(pipe, adapter, image_encoder)
        return pictures, estimates(measure(self.metrics, generated(self.task, pictures)))

    def __call__(
        self, pipe: DiffusionPipeline, adapter: ImagePromptAdapter | None, image_encoder: CLIPImageEncoder | None
    ) -> ValidationResult:
        pictures, scores = self.draw_and_score(pipe, adapter, image_encoder)
        return ValidationResult(scores, picture_grid(self.task, pictures, self.grid_subjects))


def logged(scores: dict[str, Estimate]) -> dict[str, float]:
    """Columns of a log: the mean under the score's name, and its interval."""
    return {
        f"{name}{end}": value
        for name, e in scores.items()
        for end, value in (("", e.mean), (".low", e.low), (".high", e.high))
    }

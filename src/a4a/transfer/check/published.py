"""Step 2 of a check: adapters that are known to work draw held-out subjects, and score as they are known to."""

from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from a4a.errors import InputError
from a4a.evaluation.generation import generate_text_only
from a4a.evaluation.methods import ImagePromptMethod
from a4a.evaluation.scoring import compute_scores, generated_set, noise_generator, summarize
from a4a.evaluation.statistics import Estimate, bootstrap_mean, paired_difference
from a4a.evaluation.tasks.base import Task
from a4a.transfer.check.config import KnownAdapter
from a4a.transfer.check.report import Finding
from a4a.transfer.check.setup import CheckSetup
from a4a.utils.files import atomic_write, slug
from a4a.utils.images import grid

TILE = 256
"""Largest side in pixels of an image in a grid."""


def draw_published(setup: CheckSetup) -> Generator[Finding, None, None]:
    """For each adapter: does its image prompt raise the score, and is the score the expected one?"""
    for name, adapter in setup.config.adapters.items():
        yield from _draw(setup, name, adapter)


@torch.no_grad()
def _draw(setup: CheckSetup, name: str, adapter: KnownAdapter) -> Generator[Finding, None, None]:
    evaluation, task = setup.evaluation, setup.evaluation.task.first(setup.config.subjects)
    method = _method(setup, name, adapter)
    sampling = method.sampling
    prompted = _generate(evaluation.batch, task, lambda i, noise: method.generate(task, i, noise))
    plain = _generate(
        evaluation.batch, task, lambda i, noise: generate_text_only(method.pipe.pipe, task, i, noise, sampling)
    )
    method.release()
    images_file = _save_grid(setup.folder / "published" / f"{slug(name)}.png", task, prompted, plain)

    scores = compute_scores(evaluation.metrics, generated_set(task, prompted))
    with_image = setup.score_of(scores)
    without_image = setup.score_of(compute_scores(evaluation.metrics, generated_set(task, plain)))
    is_same = all(a.tobytes() == b.tobytes() for a, b in zip(prompted, plain, strict=True))
    values = {score: estimate.mean for score, estimate in summarize(scores).items()}
    yield _above_text_only(setup, name, with_image, without_image, is_same, values, images_file)
    if adapter.expected is not None:
        yield _as_expected(setup, name, adapter, bootstrap_mean(with_image))


def _method(setup: CheckSetup, name: str, adapter: KnownAdapter) -> ImagePromptMethod:
    settings = setup.settings
    path = adapter.adapter or (settings.source if not isinstance(settings.source, dict) else None)
    if path is None:
        raise InputError(f"check.adapters.{name} names no adapter and the recipe not one source; name it there.")
    return ImagePromptMethod(
        str(adapter.model or settings.model),
        str(path),
        str(adapter.image_encoder or settings.image_encoder),
        adapter.scale,
        adapter.sampling or setup.evaluation.sampling,
    )


def _generate(batch: int, task: Task, draw: Callable[[list[int], list[torch.Generator]], list[Image.Image]]):
    """All images of a task, with the same noise whatever draws them."""
    images: list[Image.Image] = []
    for start in range(0, len(task), batch):
        indices = list(range(start, min(start + batch, len(task))))
        images += draw(indices, [noise_generator(i) for i in indices])
    return images


def _save_grid(file: Path, task: Task, prompted: list[Image.Image], plain: list[Image.Image]) -> str:
    """A row a subject: reference, first image with the image prompt, the same from the prompt alone."""
    columns = [task.references, *([row[0] for row in task.by_subject(images)] for images in (prompted, plain))]
    rows = [[_tile(image) for image in row] for row in zip(*columns, strict=True)]
    with atomic_write(file) as temporary:
        grid(rows).save(temporary, format="PNG")
    return str(file)


def _tile(image: Image.Image) -> Image.Image:
    tile = image.copy()
    tile.thumbnail((TILE, TILE))
    return tile


def _above_text_only(
    setup: CheckSetup,
    name: str,
    with_image: np.ndarray,
    without_image: np.ndarray,
    is_same: bool,
    values: dict[str, float],
    images_file: str,
) -> Finding:
    score, prompted, plain = setup.config.score, bootstrap_mean(with_image), bootstrap_mean(without_image)
    difference = paired_difference(with_image, without_image)
    return Finding(
        f"{name}, {score} with the image prompt and without it",
        f"{prompted.mean:.3f} and {plain.mean:.3f}, difference {difference.signed()}",
        "a difference whose interval lies above 0",
        difference.low > 0,
        _where_the_image_is_lost(is_same, prompted, images_file),
        values | {f"{score} of the prompt alone": plain.mean, "difference": difference.mean, "low": difference.low},
        images_file,
    )


def _where_the_image_is_lost(is_same: bool, prompted: Estimate, images_file: str) -> str:
    if is_same:
        return (
            "the adapter's file (a4a inspect): the images with it and without it are the same to the last bit, "
            "so it changes nothing"
        )
    if not prompted.subjects:
        return f"{images_file}: no generated image has anything that the metric can score (no face, for a face encoder)"
    return (
        f"{images_file}: the adapter changes the images, but not towards the references; is it the adapter for this model, "
        "and its image encoder?"
    )


def _as_expected(setup: CheckSetup, name: str, adapter: KnownAdapter, found: Estimate) -> Finding:
    expected, tolerance = adapter.expected or 0.0, adapter.tolerance
    return Finding(
        f"{name}, {setup.config.score}",
        str(found),
        f"{expected:g} +- {tolerance:g}",
        abs(found.mean - expected) <= tolerance,
        "the images again, the prompts of evaluation.task, sampling (steps, guidance, size), the image encoder, and "
        "what the score is measured with (for faces the detector and its threshold)",
        {setup.config.score: found.mean, "low": found.low, "high": found.high, "expected": expected},
    )

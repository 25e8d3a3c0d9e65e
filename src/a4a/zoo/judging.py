"""Scores of generated creatures: identity, retrieval, prompt accuracy, CLIP; the same subjects, prompts and noise for every method."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from a4a.adapters.adapter import ImagePromptAdapter
from a4a.adapters.encoders import CLIPImageEncoder
from a4a.backbones import backbone_for
from a4a.evaluation import Evaluation, Result
from a4a.images import grid, to_pil
from a4a.metrics.statistics import Estimate, over_subjects
from a4a.pipeline import ImagePromptPipeline
from a4a.zoo.folder import MODELS
from a4a.zoo.perception import IdentityEncoder, SceneClassifier
from a4a.zoo.world import Subjects, Views, caption, draw


@dataclass(frozen=True)
class Task:
    """References and prompts: `generations` pictures of each subject, every one in a view of its own."""

    references: Tensor
    """[subjects, 3, 64, 64]"""
    views: Views
    """subjects x generations views; reference and views share nothing but the subject"""
    prompts: list[str]
    subjects: Subjects
    generations: int

    @classmethod
    def of(cls, split: str, subjects: int, generations: int) -> "Task":
        creatures = Subjects.sample(subjects, split)
        references = draw(creatures, Views.sample(subjects, 900))
        views = Views.sample(subjects * generations, 901)
        return cls(references, views, caption(views, 902), creatures, generations)

    def first(self, subjects: int) -> "Task":
        """The same pictures of the first few subjects."""
        count = subjects * self.generations
        return Task(self.references[:subjects], self.views[:count], self.prompts[:count], self.subjects[:subjects], self.generations)

    @property
    def rows(self) -> Tensor:
        """The subject of every picture."""
        return torch.arange(len(self.subjects)).repeat_interleave(self.generations)


@torch.no_grad()
def generate(
    task: Task,
    pipe: DiffusionPipeline,
    adapter: ImagePromptAdapter | None,
    image_encoder: CLIPImageEncoder | None,
    *,
    scale: float = 1.0,
    steps: int = 15,
    guidance: float = 3.0,
    batch: int = 50,
    seed: int = 0,
) -> Tensor:
    """Pictures [subjects x generations, 3, 64, 64] in [0, 1]; without an adapter, from the prompts alone."""
    prompted = ImagePromptPipeline(pipe, adapter, image_encoder) if adapter is not None else None
    embeds = prompted.embed(to_pil(task.references))[task.rows] if prompted is not None else None
    pictures = []
    for rows in torch.arange(len(task.prompts)).split(batch):
        # noise by the picture's number, so that no method and no batch size changes it
        noise = [torch.Generator().manual_seed(seed * 1_000_003 + int(i)) for i in rows]
        call: dict[str, Any] = {
            "prompt": [task.prompts[i] for i in rows],
            "generator": noise,
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "height": 64,
            "width": 64,
            "output_type": "pt",
        }
        if prompted is None:
            pictures.append(pipe(**backbone_for(pipe).call_options(), **call).images)  # pyright: ignore[reportCallIssue]
        else:
            assert embeds is not None
            pictures.append(prompted(**call, image_prompt=embeds[rows], image_prompt_scale=scale).images)
    return torch.cat(pictures).float().clamp(0, 1)


@dataclass(frozen=True)
class Scores:
    """Each with its interval over subjects."""

    identity: Estimate
    """cosine of the identity encoder, generated against reference"""
    retrieval: Estimate
    """share of pictures whose nearest reference is their own"""
    clip: Estimate
    """cosine of the image encoder, generated against reference"""
    scene: Estimate
    place: Estimate
    size: Estimate
    """shares as prompted"""


class Judges:
    """The identity encoder, the scene classifier and the image encoder of the zoo."""

    def __init__(self, identity: IdentityEncoder, scene: SceneClassifier, clip: CLIPImageEncoder):
        self.identity, self.scene, self.clip = identity.eval(), scene.eval(), clip

    @classmethod
    def load(cls, models: Path) -> "Judges":
        return cls(
            IdentityEncoder.from_pretrained(models / "identity", dtype=torch.float32),  # pyright: ignore[reportArgumentType]
            SceneClassifier.from_pretrained(models / "scene", dtype=torch.float32),  # pyright: ignore[reportArgumentType]
            CLIPImageEncoder.load(models / "clip-large" / "image_encoder"),
        )

    @torch.no_grad()
    def score(self, task: Task, pictures: Tensor) -> Scores:
        def vectors(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
            return torch.nn.functional.normalize(torch.cat([function(p) for p in images.split(200)]), dim=-1)

        def estimate(values: Tensor) -> Estimate:
            return over_subjects(values.float().unflatten(0, (-1, task.generations)).numpy().astype(np.float64))

        own = task.rows
        likeness = vectors(self.identity, pictures) @ vectors(self.identity, task.references).T
        clip = vectors(self.clip, pictures) @ vectors(self.clip, task.references).T
        logits = [torch.cat(part) for part in zip(*(self.scene(p) for p in pictures.split(200)), strict=True)]
        wanted = (task.views.scene, task.views.place, task.views.size)
        right = [estimate(part.argmax(1) == kind) for part, kind in zip(logits, wanted, strict=True)]
        each = torch.arange(len(own))
        return Scores(estimate(likeness[each, own]), estimate(likeness.argmax(1) == own), estimate(clip[each, own]), *right)

    @torch.no_grad()
    def ceiling(self, task: Task) -> Scores:
        """What a fresh drawing of every subject, in the prompted view, scores."""
        return self.score(task, draw(task.subjects[task.rows], task.views))


class WorldEvaluation(Evaluation):
    """Scores on creatures of the world that nothing was trained on.

    Args:
        split: validation while choosing anything, test for what is published.
        subjects: how many creatures.
        generations: pictures of each, every one in a view of its own.
        models: the zoo's folder.
        scale: weight of the image prompt.
        shown: rows of the picture that is made.
    """

    def __init__(
        self, split: str = "validation", subjects: int = 64, generations: int = 1, models: Path = MODELS, scale: float = 1.0, shown: int = 12
    ):
        self.task, self.judges = Task.of(split, subjects, generations), Judges.load(Path(models))
        self.scale, self.shown = scale, shown

    def __call__(self, pipe: DiffusionPipeline, adapter: ImagePromptAdapter | None, image_encoder: CLIPImageEncoder) -> Result:
        pictures = generate(self.task, pipe, adapter, image_encoder, scale=self.scale)
        scores = self.judges.score(self.task, pictures)
        made = pictures.unflatten(0, (-1, self.task.generations))[: self.shown]
        rows = [[*to_pil(reference[None]), *to_pil(own)] for reference, own in zip(self.task.references, made, strict=False)]
        columns = [list(column) for column in zip(*rows, strict=True)] if self.task.generations == 1 else rows
        return Result({f.name: getattr(scores, f.name) for f in fields(scores)}, grid(columns))

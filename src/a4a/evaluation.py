"""Scores and sample pictures of an adapter on a model: what a run reports besides its loss."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from a4a.adapters.adapter import ImagePromptAdapter
from a4a.adapters.encoders import CLIPImageEncoder
from a4a.backbones import backbone_for
from a4a.data.pictures import SUFFIXES
from a4a.errors import InputError
from a4a.images import grid, open_image
from a4a.metrics.statistics import Estimate, over_subjects
from a4a.pipeline import ImagePromptPipeline


@dataclass(frozen=True)
class Result:
    scores: dict[str, Estimate]
    picture: Image.Image
    """A grid: a reference in front of what was generated for it."""


class Evaluation(ABC):
    """The same references, prompts and noise every time it is called."""

    @abstractmethod
    def __call__(self, pipe: DiffusionPipeline, adapter: ImagePromptAdapter | None, image_encoder: CLIPImageEncoder) -> Result: ...


class CLIPEvaluation(Evaluation):
    """CLIP image score, generated against reference (the paper's CLIP-score), for each reference with each prompt.

    Args:
        references: folder of pictures.
        prompts: to generate with each of them.
        steps: of denoising.
        guidance: classifier-free guidance scale.
        seed: of the noise.
    """

    def __init__(self, references: Path, prompts: Sequence[str], steps: int = 30, guidance: float = 5.0, seed: int = 0):
        folder = Path(references)
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES) if folder.is_dir() else []
        if not files:
            raise InputError(f"The folder of references {references} holds no pictures; give at least one.")
        if not prompts:
            raise InputError("The evaluation's prompts are empty; give at least one.")
        self.references, self.prompts = [open_image(f) for f in files], list(prompts)
        self.steps, self.guidance, self.seed = steps, guidance, seed

    @torch.no_grad()
    def __call__(self, pipe: DiffusionPipeline, adapter: ImagePromptAdapter | None, image_encoder: CLIPImageEncoder) -> Result:
        prompted = ImagePromptPipeline(pipe, adapter, image_encoder) if adapter is not None else None
        scores, rows = [], []
        for number, reference in enumerate(self.references):
            noise = [torch.Generator().manual_seed(self.seed * 1_000_003 + number * 1009 + i) for i in range(len(self.prompts))]
            call = {"prompt": self.prompts, "num_inference_steps": self.steps, "guidance_scale": self.guidance, "generator": noise}
            images = (pipe(**backbone_for(pipe).call_options(), **call) if prompted is None else prompted(**call, image_prompt=reference)).images  # pyright: ignore[reportCallIssue]
            a, b = (torch.nn.functional.normalize(image_encoder(i).float(), dim=-1) for i in ([reference], images))
            scores.append((b @ a.T).flatten())
            rows.append([reference, *images])
        return Result({"clip": over_subjects(torch.stack(scores).double().numpy())}, grid(rows))

"""Call a pipeline for the images of a task."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffusers import DiffusionPipeline
from PIL import Image
from torch import Generator

from a4a.backbones import backbone_for
from a4a.evaluation.tasks.base import Task


@dataclass
class Sampling:
    """How a pipeline is called; what is None is the pipeline's own default."""

    steps: int | None = None
    """Denoising steps."""
    guidance: float | None = None
    """Classifier-free guidance scale."""
    size: int | None = None
    """Height and width in pixels."""

    def options(self) -> dict[str, Any]:
        named = {
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
            "height": self.size,
            "width": self.size,
        }
        return {name: value for name, value in named.items() if value is not None}


def generate_images(
    pipe: Any,
    task: Task,
    pictures: Sequence[int],
    noise: Sequence[Generator],
    sampling: Sampling,
    scale: float = 1.0,
    **options: Any,
) -> list[Image.Image]:
    """Calls anything that is called as an `ImagePromptPipeline`; each reference is embedded once."""
    subjects = list(dict.fromkeys(task.subject(i) for i in pictures))
    embeds = pipe.embed([task.references[s] for s in subjects])
    rows = embeds[[subjects.index(task.subject(i)) for i in pictures]]
    prompts = [task.prompts[i] for i in pictures]
    return pipe(
        prompts, image_prompt=rows, image_prompt_scale=scale, generator=list(noise), **sampling.options(), **options
    ).images


def generate_text_only(
    pipe: DiffusionPipeline, task: Task, pictures: Sequence[int], noise: Sequence[Generator], sampling: Sampling
) -> list[Image.Image]:
    """From the prompts alone."""
    call = backbone_for(pipe).call_options() | sampling.options()
    return pipe(prompt=[task.prompts[i] for i in pictures], generator=list(noise), **call).images  # pyright: ignore[reportCallIssue]

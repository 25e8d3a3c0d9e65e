"""Call a pipeline for images of a task."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffusers import DiffusionPipeline
from PIL import Image
from torch import Generator

from a4a.backbones import Backbone, backbone_for
from a4a.evaluation.tasks.base import Task


@dataclass
class Sampling:
    """How a pipeline is called; None leaves an option at the pipeline's own default."""

    steps: int | None = None
    """Denoising steps."""
    guidance: float | None = None
    """Classifier-free guidance scale."""
    size: int | None = None
    """Height and width in pixels."""

    def options(self, backbone: Backbone, prompts: int) -> dict[str, Any]:
        """The options for so many prompts, by the names that the backbone's pipeline gives them."""
        options = {"num_inference_steps": self.steps, "height": self.size, "width": self.size}
        options |= backbone.image_options()
        if self.guidance is not None:
            options |= backbone.guidance_options(self.guidance, prompts)
        return {name: value for name, value in options.items() if value is not None}


def generate_images(
    pipe: Any,
    task: Task,
    indices: Sequence[int],
    noise: Sequence[Generator],
    sampling: Sampling,
    scale: float = 1.0,
    **options: Any,
) -> list[Image.Image]:
    """Generate some of a task's images from their references and prompts; each reference is embedded once.

    Args:
        pipe: an `ImagePromptPipeline`, or a pipeline that is called like one.
        task: references and prompts.
        indices: which of the task's images.
        noise: a generator for each of them.
        sampling: steps, guidance and size.
        scale: weight of the image prompt.
        options: further options of the pipeline's call.
    """
    subjects = list(dict.fromkeys(task.subject_of(i) for i in indices))
    embeds = pipe.encode_image_prompt([task.references[s] for s in subjects])
    rows = embeds[[subjects.index(task.subject_of(i)) for i in indices]]
    prompts = [task.prompts[i] for i in indices]
    options = sampling.options(pipe.backbone, len(prompts)) | options
    drawn = pipe(prompt=prompts, image_prompt_embeds=rows, image_prompt_scale=scale, generator=list(noise), **options)
    return pipe.backbone.drawn_images(drawn)


def generate_text_only(
    pipe: DiffusionPipeline, task: Task, indices: Sequence[int], noise: Sequence[Generator], sampling: Sampling
) -> list[Image.Image]:
    """Generate some of a task's images from their prompts alone."""
    call: Any = pipe  # DiffusionPipeline itself declares no __call__
    backbone = backbone_for(pipe)
    options = backbone.call_options() | sampling.options(backbone, len(indices))
    drawn = call(prompt=[task.prompts[i] for i in indices], generator=list(noise), **options)
    return backbone.drawn_images(drawn)

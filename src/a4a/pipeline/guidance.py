"""How diffusers pipelines guide: which rows of a denoiser's batch are prompts, and which are something else."""

from collections.abc import Mapping, Sequence
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.pipelines.pag.pag_utils import PAGMixin

from a4a.errors import InputError
from a4a.pipeline.image_prompt import ImagePrompt

UNSUPPORTED = {
    "StableDiffusionSAGPipeline": "self-attention guidance runs the negatives alone",
    "StableDiffusionInstructPix2PixPipeline": "it has two kinds of negatives",
    "StableDiffusionXLInstructPix2PixPipeline": "it has two kinds of negatives",
}
"""Pipelines, and those derived from them, whose batches have other rows than negatives and prompts."""


def check_guidance(pipe: DiffusionPipeline) -> None:
    """InputError where the rows of a batch do not tell which of them are prompts."""
    for kind in type(pipe).__mro__:
        if (reason := UNSUPPORTED.get(kind.__name__)) is not None:
            raise InputError(
                f"{type(pipe).__name__} runs the denoiser on other rows than prompts and negatives ({reason}), so an "
                f"image prompt would reach the wrong ones; use a pipeline with classifier-free or perturbed-attention "
                f"guidance."
            )


def is_perturbed(pipe: DiffusionPipeline, options: dict[str, Any]) -> bool:
    """Whether a call with these options runs perturbed-attention guidance: all rows but the negatives twice."""
    return isinstance(pipe, PAGMixin) and options["pag_scale"] > 0 and len(pipe.pag_applied_layers) > 0


def check_negatives(
    pipe: DiffusionPipeline, pictures: Sequence[Sequence[ImagePrompt]], options: Mapping[str, Any]
) -> None:
    """InputError for a negative image prompt in a call without guidance, which would never see it."""
    if not any(prompt.negative is not None for prompts in pictures for prompt in prompts):
        return
    true_guidance = "true_cfg_scale" in options
    scale = options.get("true_cfg_scale" if true_guidance else "guidance_scale")
    negatives = [options.get(name) for name in ("negative_prompt", "negative_prompt_embeds")]
    if (isinstance(scale, int | float) and scale <= 1) or (true_guidance and all(n is None for n in negatives)):
        wanted = "true_cfg_scale= above 1 and a negative_prompt=" if true_guidance else "guidance_scale= above 1"
        raise InputError(
            f"A negative image prompt works by guidance, which is off in this call of {type(pipe).__name__}; "
            f"give {wanted}."
        )

"""How diffusers pipelines guide: which rows of a denoiser's batch are prompts, and which are something else."""

from typing import Any

from diffusers import DiffusionPipeline
from diffusers.pipelines.pag.pag_utils import PAGMixin

from a4a.errors import InputError

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

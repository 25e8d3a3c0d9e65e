"""Image prompts applied to a ComfyUI model: how strongly, at which sites, during which part of the schedule, where."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from a4a import InputError
from a4a.pipeline.scales import WEIGHT_TYPES, weight_type_factors

from .features import ImagePrompts
from .injection import Injection, Region
from .patches import Attention, denoiser_of, patch_model
from .sites import sites_of

WEIGHT_TYPE_NAMES = tuple(WEIGHT_TYPES)
TOLERANCE = 1e-4
"""Of the parts of a schedule: noise levels of samplers are rounded."""


def apply(
    model: Any,
    prompts: ImagePrompts,
    attention: Attention,
    scale: float = 1.0,
    start: float = 0.0,
    end: float = 1.0,
    weight_type: str = "linear",
    mask: Tensor | None = None,
) -> Any:
    """A clone of a ComfyUI model with image prompts.

    Args:
        model: a ModelPatcher.
        prompts: for the sites of that model.
        attention: ComfyUI's `optimized_attention`.
        scale: weight of the image prompt.
        start, end: between which parts of the schedule it acts, as of ComfyUI's ControlNets: 0 is all noise, 1 none.
        weight_type: how the scale is spread over the sites, one of `WEIGHT_TYPE_NAMES` (a4a/pipeline/scales.py).
        mask: where in the picture it acts: [1 or images, height, width] in [0, 1]; everywhere by default.
    """
    denoiser = denoiser_of(model)
    family, sites = sites_of(prompts.sites, denoiser)
    prompts = replace(prompts, sites=tuple(found.site for found in sites))
    scales = scale * weight_type_factors(weight_type, prompts.sites)
    course = Course(model.get_model_object("model_sampling").percent_to_sigma, start, end)
    region = None if mask is None else Region(mask, getattr(denoiser, "patch_size", 1), family == "unet")
    injection = Injection(prompts, scales.tolist(), course, region)
    return patch_model(model, family, sites, injection, attention)


class Course:
    """The number by which the scale is multiplied at a noise level.

    Args:
        percent_to_sigma: of a model, from the part of the schedule that has passed to the noise level.
        start, end: see `apply`.
    """

    def __init__(self, percent_to_sigma: Callable[[float], float], start: float = 0.0, end: float = 1.0):
        if not 0 <= start <= end <= 1:
            raise InputError(f"The image prompt acts from {start:g} to {end:g}; expected 0 <= start <= end <= 1.")
        self.percent_to_sigma, self.start, self.end = percent_to_sigma, start, end

    def __call__(self, sigma: float) -> float:
        passed = self.passed(sigma) + TOLERANCE
        return float(self.start <= passed and (passed < self.end or self.end == 1))

    def passed(self, sigma: float) -> float:
        """The part of the schedule that has passed at a noise level, by bisection."""
        low, high = 0.0, 1.0
        for _ in range(24):
            middle = (low + high) / 2
            low, high = (middle, high) if self.percent_to_sigma(middle) > sigma else (low, middle)
        return high

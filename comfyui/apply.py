"""Image prompts applied to a ComfyUI model: how strong, and during which part of the schedule."""

from collections.abc import Callable
from typing import Any

from a4a import InputError

from .features import ImagePrompts
from .injection import Injection
from .patches import Attention, denoiser_of, patch_model
from .sites import sites_of

TOLERANCE = 1e-4
"""Of the parts of a schedule: noise levels of samplers are rounded."""


def apply(
    model: Any,
    prompts: ImagePrompts,
    attention: Attention,
    scale: float = 1.0,
    start: float = 0.0,
    end: float = 1.0,
) -> Any:
    """A clone of a ComfyUI model with image prompts.

    Args:
        model: a ModelPatcher.
        prompts: features for the sites of that model.
        attention: ComfyUI's `optimized_attention`.
        scale: weight of the image prompt.
        start, end: between which parts of the schedule it acts, as of ComfyUI's ControlNets: 0 is all noise, 1 none.
    """
    family, sites = sites_of(prompts.sites, denoiser_of(model))
    course = Course(model.get_model_object("model_sampling").percent_to_sigma, start, end)
    injection = Injection(prompts.features, prompts.negative, [scale] * len(sites), course)
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

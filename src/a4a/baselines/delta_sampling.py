"""Delta Sampling (2025): what the image prompt changes in the base model's prediction is added to the upgraded model's.

No training. Both models must share their latent space, and the base model runs twice at every step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Generator, Tensor, nn

from a4a.backbones import Backbone, Text
from a4a.backbones.prediction import split_variance
from a4a.baselines.base import TwoModelMethod, TwoModelPipeline, given_prompts, latents_and_timestep, removing
from a4a.errors import InputError
from a4a.evaluation.generation import generate_images
from a4a.evaluation.methods import Cost, load_for_inference
from a4a.evaluation.tasks.base import Task
from a4a.features import SiteFeatures
from a4a.injection import Scale, attach, site_scales
from a4a.pipeline import ImagePromptPipeline, References
from a4a.pipeline.arguments import bind


class DeltaSamplingPipeline(TwoModelPipeline):
    """`prediction += delta_scale * (base with the image prompt - base without)`, at the upgraded model's own latents.

    The base model encodes the prompts with its own text encoder; its batches have negative and positive rows in the
    upgraded model's order. Where the two noise schedules differ, it runs at its own time step of the same
    signal-to-noise ratio (our addition). Where it predicts something else (noise, velocity, sample, flow), the
    difference is converted.

    Raises InputError where the two models have different latents.
    """

    def __init__(self, base: ImagePromptPipeline, pipe: DiffusionPipeline):
        super().__init__(base, pipe)
        upgraded_latents, base_latents = _latents(self.backbone), _latents(base.backbone)
        if upgraded_latents != base_latents:
            raise InputError(
                f"Delta Sampling needs a shared latent space but the upgraded model has "
                f"{_latents_text(upgraded_latents)} and the base model {_latents_text(base_latents)}; choose two "
                "models with the same VAE and size, or transfer the adapter (a4a transfer)."
            )
        self.predictions = base.backbone.prediction, self.backbone.prediction

    def base_calls(self, steps: int) -> int:
        return 2 * steps

    @property
    def parameters(self) -> int:
        parts = self.base.pipe.components.items()
        text_encoders = (module for name, module in parts if name.startswith("text_encoder"))
        return self._added_parameters(self.base.backbone.denoiser, *text_encoders, self.base.adapter)

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        image_prompt: References | None = None,
        image_prompt_embeds: Tensor | None = None,
        image_prompt_scale: Scale = 1.0,
        delta_scale: float = 1.0,
        **kwargs: Any,
    ) -> Any:
        """Generate with one reference for all prompts, or one for each.

        Args:
            prompt: the prompts, in words: each model encodes them with its own text encoder.
            image_prompt, image_prompt_embeds, image_prompt_scale: as of `ImagePromptPipeline`, for the base model.
            delta_scale: weight of the base model's difference; 0 is the plain upgraded model.
            kwargs: of the upgraded model's pipeline, whose output this returns.

        Raises InputError for an argument that the upgraded model's pipeline does not have.
        """
        call = bind(self.pipe, (), {"prompt": prompt, **kwargs}, own=("delta_scale",))
        call.arguments = self.backbone.call_options() | call.arguments
        embeds = self.base.reference_embeds(image_prompt, image_prompt_embeds)
        if embeds is None:
            return self.pipe(*call.args, **call.kwargs)
        condition = self._base_condition(given_prompts(prompt), embeds, image_prompt_scale, kwargs)
        hook = partial(self._add_delta, condition, delta_scale)
        with removing(self.backbone.denoiser.register_forward_hook(hook, with_kwargs=True)):
            return self.pipe(*call.args, **call.kwargs)

    def _base_condition(
        self, prompts: list[str], embeds: Tensor, scale: Scale, options: Mapping[str, Any]
    ) -> "_BaseCondition":
        """Text and image features of a call, for the base model."""
        repeats = options.get("num_images_per_prompt") or 1
        positive, negative = self.base.features_for_batch(embeds, len(prompts), repeats)
        text = self._text(prompts, options.get("negative_prompt"), repeats)
        return _BaseCondition(
            text, positive, negative, site_scales(scale, len(self.base.backbone.sites), "image_prompt_scale")
        )

    def _add_delta(
        self,
        condition: "_BaseCondition",
        delta_scale: float,
        denoiser: nn.Module,
        args: tuple,
        kwargs: dict[str, Any],
        output: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        """Forward hook of the upgraded model's denoiser: its output with the difference added to the prediction."""
        latents, timestep = latents_and_timestep(denoiser, args, kwargs)
        delta = self._delta(condition, latents, timestep)
        prediction, variance = split_variance(output[0], latents.shape[1])
        return torch.cat([prediction + delta_scale * delta.to(prediction), variance], dim=1), *output[1:]

    def _delta(self, condition: "_BaseCondition", latents: Tensor, timestep: Tensor) -> Tensor:
        """What the image prompt changes in the base model's prediction, as the upgraded model would predict it."""
        base = self.base.backbone
        step, log_snr = self._same_noise(timestep.flatten()[0])
        noisy = (latents * self._latents_ratio(log_snr)).to(base.device, base.dtype)
        call = noisy, step.to(base.device).expand(len(noisy)), condition.text_for(len(noisy))
        without = base.predict(*call)
        with attach(base.denoiser, base.sites, condition.positive, condition.scales, condition.negative):
            return (base.predict(*call) - without) * self._prediction_ratio(log_snr)

    def _text(self, prompts: list[str], negative: str | Sequence[str] | None, repeats: int) -> Text:
        """Text states of the negative prompts and then of the prompts, one row for each image."""
        base, count = self.base.backbone, len(prompts)
        positives = base.encode_text(prompts)
        if negative is None:
            negatives = {name: t.expand(count, *t.shape[1:]) for name, t in base.no_text().items()}
        else:
            negatives = base.encode_text([negative] * count if isinstance(negative, str) else negative)
        both = {name: torch.cat([negatives[name], t]) for name, t in positives.items()}
        return {name: t.repeat_interleave(repeats, 0).to(base.device) for name, t in both.items()}

    def _same_noise(self, timestep: Tensor) -> tuple[Tensor, float]:
        """The base model's time step of the same noise as the upgraded model's, and its log signal-to-noise ratio."""
        base, upgraded = self.predictions
        step = base.matching_timestep(upgraded, timestep)
        return step, base.log_snr(step)

    def _latents_ratio(self, log_snr: float) -> float:
        """Factor from the upgraded model's noisy latents to the base model's: 1 unless just one is a flow model."""
        base, upgraded = (prediction.norm(log_snr) for prediction in self.predictions)
        return base / upgraded

    def _prediction_ratio(self, log_snr: float) -> float:
        """Factor from a difference of the base model's predictions to one of the upgraded model's: 1 for one kind."""
        base, upgraded = (prediction.noise_per_prediction(log_snr) for prediction in self.predictions)
        return base / upgraded


@dataclass(frozen=True)
class _BaseCondition:
    """What the base model takes in one call of the pipeline."""

    text: Text
    """Text states of the negative prompts and then of the prompts, one row for each image."""
    positive: SiteFeatures
    """Features of the references, one row for each image."""
    negative: SiteFeatures
    """Features of "no image", one row for each image."""
    scales: list[float]
    """Weight of the image prompt at each site."""

    def text_for(self, rows: int) -> Text:
        """The text states for so many rows of the denoiser's batch: without guidance it has no negative prompts."""
        images = self.positive.batch
        return self.text if rows > images else {name: t[-images:] for name, t in self.text.items()}


def _latents(backbone: Backbone) -> tuple[int, float, int]:
    """Channels, scaling factor and side of a model's latents."""
    return backbone.latent_channels, backbone.vae.config.scaling_factor, backbone.latent_size()


def _latents_text(latents: tuple[int, float, int]) -> str:
    channels, factor, side = latents
    return f"{channels} channels of {side} x {side}, scaled by {factor:g},"


@dataclass
class DeltaSamplingMethod(TwoModelMethod):
    """Delta Sampling: what the adapter changes in the base model's prediction is added to the upgraded model's."""

    @cached_property
    def pipe(self) -> DeltaSamplingPipeline:
        return DeltaSamplingPipeline(self.with_adapter(), load_for_inference(self.model))

    def generate(self, task: Task, indices: Sequence[int], noise: Sequence[Generator]) -> list[Image.Image]:
        return generate_images(self.pipe, task, indices, noise, self.sampling, self.scale)

    def cost(self) -> Cost:
        return Cost(self.pipe.parameters, self.pipe.base_calls(self.steps(self.pipe.pipe)))

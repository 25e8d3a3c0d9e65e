"""Delta Sampling (2025): what the image prompt changes in the base model's prediction is added to the upgraded model's.

No training. Both models must share their latent space, and the base model runs twice at every step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Generator, Tensor, nn

from a4a.backbones import Backbone, Text
from a4a.backbones.prediction import split_variance
from a4a.baselines.base import TwoModelMethod, TwoModelPipeline, call_of, removing
from a4a.errors import InputError
from a4a.evaluation.generation import generate_images
from a4a.evaluation.methods import Cost, load_for_inference
from a4a.evaluation.tasks.base import Task
from a4a.injection import Scale, attach
from a4a.pipeline import ImagePrompt, ImagePromptPipeline


class DeltaSamplingPipeline(TwoModelPipeline):
    """`prediction += delta_scale * (base with the image prompt - base without)`, at the upgraded model's own latents.

    The base model encodes the prompts with its own text encoder and has the rows of guidance in the same order. Where
    its noise differs from the upgraded model's at a time step, it runs at its own step of the same signal-to-noise
    ratio (ours); where it predicts something else (noise, velocity, sample, flow), the difference is converted.

    Raises InputError where the two models have different latents.
    """

    def __init__(self, base: ImagePromptPipeline, pipe: DiffusionPipeline):
        super().__init__(base, pipe)
        mine, theirs = _latents(self.backbone), _latents(base.backbone)
        if mine != theirs:
            raise InputError(
                f"Delta Sampling needs a shared latent space but the upgraded model has {_latents_text(mine)} and the "
                f"base model {_latents_text(theirs)}; choose two models with the same VAE and size, or transfer the "
                "adapter (a4a transfer)."
            )
        self.predictions = base.backbone.prediction, self.backbone.prediction

    def base_calls(self, steps: int) -> int:
        return 2 * steps

    @property
    def parameters(self) -> int:
        texts = (module for name, module in self.base.pipe.components.items() if name.startswith("text_encoder"))
        return self._added_parameters(self.base.backbone.denoiser, *texts, self.base.adapter)

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        image_prompt: ImagePrompt | None = None,
        image_prompt_embeds: Tensor | None = None,
        image_prompt_scale: Scale = 1.0,
        delta_scale: float = 1.0,
        **kwargs: Any,
    ) -> Any:
        """With one reference for all prompts, or one per prompt. All else as in the upgraded model's pipeline."""
        kwargs = self.backbone.call_options() | kwargs
        embeds = self.base.reference_embeds(image_prompt, image_prompt_embeds)
        if embeds is None:
            return self.pipe(prompt=prompt, **kwargs)  # pyright: ignore[reportCallIssue]
        if prompt is None:
            raise InputError(
                "A prompt is missing; give prompt=, in words, since each of the two models encodes it in its own way."
            )
        prompts, repeats = (
            [prompt] if isinstance(prompt, str) else list(prompt),
            kwargs.get("num_images_per_prompt") or 1,
        )
        base, rows = self.base.backbone, len(prompts) * repeats
        positive, negative = self.base.features_for_batch(embeds, len(prompts), repeats)
        text = self._text(prompts, kwargs.get("negative_prompt"), repeats)

        def add(
            denoiser: nn.Module, args: tuple, options: dict[str, Any], output: tuple[Tensor, ...]
        ) -> tuple[Tensor, ...]:
            latents, timestep = call_of(denoiser, args, options)
            step, log_snr = self._same_noise(timestep.flatten()[0])
            noisy = (latents * self._latents_ratio(log_snr)).to(base.device, base.dtype)
            call = (
                noisy,
                step.to(base.device).expand(len(noisy)),
                text if len(noisy) > rows else {n: t[-rows:] for n, t in text.items()},
            )
            without = base.predict(*call)
            with attach(base.denoiser, base.sites, positive, image_prompt_scale, negative):
                delta = (base.predict(*call) - without) * self._prediction_ratio(log_snr)
            prediction, variance = split_variance(output[0], latents.shape[1])
            return torch.cat([prediction + delta_scale * delta.to(prediction), variance], dim=1), *output[1:]

        with removing(self.backbone.denoiser.register_forward_hook(add, with_kwargs=True)):
            return self.pipe(prompt=prompt, **kwargs)  # pyright: ignore[reportCallIssue]

    def _text(self, prompts: list[str], negative: str | Sequence[str] | None, repeats: int) -> Text:
        """Text states of the negative prompts and then of the prompts, a row for each image."""
        base, count = self.base.backbone, len(prompts)
        yes = base.encode_text(prompts)
        if negative is None:
            no = {name: t.expand(count, *t.shape[1:]) for name, t in base.no_text().items()}
        else:
            no = base.encode_text([negative] * count if isinstance(negative, str) else negative)
        return {name: torch.cat([no[name], t]).repeat_interleave(repeats, 0).to(base.device) for name, t in yes.items()}

    def _same_noise(self, timestep: Tensor) -> tuple[Tensor, float]:
        """The base model's time step with the noise of the upgraded model's, and its log signal-to-noise ratio."""
        base, upgraded = self.predictions
        step = base.matching_timestep(upgraded, timestep)
        return step, base.log_snr(step)

    def _latents_ratio(self, log_snr: float) -> float:
        """From the upgraded model's noisy latents to the base model's: 1 but between diffusion and flow matching."""
        base, upgraded = (prediction.norm(log_snr) for prediction in self.predictions)
        return base / upgraded

    def _prediction_ratio(self, log_snr: float) -> float:
        """From a difference of the base model's predictions to one of the upgraded model's: 1 for equal kinds."""
        base, upgraded = (prediction.noise_per_prediction(log_snr) for prediction in self.predictions)
        return base / upgraded


def _latents(backbone: Backbone) -> tuple[int, float, int]:
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

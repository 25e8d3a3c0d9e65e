"""X-Adapter's generation in two stages, and X-Adapter as a method.

In the paper the base model's second pass and the upgraded model run side by side. Here (ours) the base model's second
pass runs first as a whole, since nothing in it depends on the upgraded model: so both are diffusers' own image-to-image
pipelines at the same time steps, for any batch and scheduler. Until the image is done, three feature maps of each step
are kept: for SD1.5 in half precision, 21 MB for each step and image with guidance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch.nn.functional as F
from diffusers import AutoPipelineForImage2Image, DiffusionPipeline
from jaxtyping import Float
from PIL import Image
from torch import Generator, Tensor

from a4a.backbones import denoiser_of
from a4a.baselines.base import TwoModelMethod, TwoModelPipeline, given_prompts
from a4a.baselines.x_adapter import BaseStep, XAdapter, add_residuals, load_mapper, record_features
from a4a.errors import InputError
from a4a.evaluation.generation import generate_images
from a4a.evaluation.methods import Cost, load_for_inference
from a4a.evaluation.tasks.base import Task
from a4a.injection import Scale
from a4a.pipeline import ImagePromptPipeline, References
from a4a.pipeline.arguments import bind

SHARED = ("negative_prompt", "guidance_scale", "num_images_per_prompt", "generator", "eta")
"""Arguments of a call that both models take."""
OWN = ("start", "mapper_scale", "height", "width")
"""Arguments of a call that diffusers' image-to-image pipelines need not have."""
NOISE_SCHEDULE = (
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)
"""Settings of a scheduler that belong to the model, since it was trained with them."""


class XAdapterPipeline(TwoModelPipeline):
    """Two stages: the base model generates an image, and the upgraded model generates it again from that image.

    In the second stage the base model's features are added to the upgraded model's.

    Raises InputError where the mapper is for two other models.
    """

    def __init__(self, base: ImagePromptPipeline, pipe: DiffusionPipeline, mapper: XAdapter):
        mapper.check(base.backbone.denoiser, denoiser_of(pipe))
        super().__init__(base, pipe)
        device: Any = self.backbone.device
        self.mapper = mapper.eval().to(device)

    def base_calls(self, steps: int, start: float = 0.8) -> int:
        return steps + int(steps * start)

    @property
    def parameters(self) -> int:
        return self._added_parameters(*self.base.pipe.components.values(), self.base.adapter, self.mapper)

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        image_prompt: References | None = None,
        image_prompt_embeds: Tensor | None = None,
        image_prompt_scale: Scale = 1.0,
        start: float = 0.8,
        mapper_scale: float = 1.0,
        num_inference_steps: int = 50,
        height: int | None = None,
        width: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate with one reference for all prompts, or one for each.

        Args:
            prompt: the prompts, in words: each model encodes them with its own text encoder.
            image_prompt, image_prompt_embeds, image_prompt_scale: as of `ImagePromptPipeline`, for the base model.
            start: share of the denoising steps that the second stage runs, in (0, 1]; at 1 it starts from pure noise.
            mapper_scale: weight of the mapped features; 0 is plain image-to-image.
            num_inference_steps: denoising steps of the first stage.
            height, width: of the output in pixels; by default those that the upgraded model is configured for.
            kwargs: of the upgraded model's image-to-image pipeline, whose output this returns.

        Raises InputError for an argument that the upgraded model's image-to-image pipeline does not have.
        """
        prompts: Any = prompt if isinstance(prompt, str) else given_prompts(prompt)
        upgraded = image_to_image(self.pipe)
        _check_arguments(upgraded, kwargs)
        _check_start(start, num_inference_steps)
        height, width = height or side(self.pipe), width or side(self.pipe)
        call: dict[str, Any] = {
            "num_inference_steps": num_inference_steps,
            **{name: kwargs[name] for name in SHARED if name in kwargs},
            "image_prompt_embeds": self.base.reference_embeds(image_prompt, image_prompt_embeds),
            "image_prompt_scale": image_prompt_scale,
        }
        size: dict[str, Any] = self._base_size(height, width)
        images = self.base(prompts, **call, **size, output_type="pt").images
        features = self._base_features(prompts, call, images, start)
        with add_residuals(self.backbone.denoiser, self.mapper, features, mapper_scale):
            images = resized(images, height, width)
            return upgraded(
                prompt=prompts, image=images, strength=start, num_inference_steps=num_inference_steps, **kwargs
            )

    def _base_features(self, prompt: Any, call: dict[str, Any], images: Tensor, start: float) -> list[BaseStep]:
        """The base model's steps of the second stage, which starts from its own images."""
        image_to_image_pipe = image_to_image(self.base.pipe, self._base_scheduler())
        pipe = ImagePromptPipeline(image_to_image_pipe, self.base.adapter, self.base.image_encoder)
        with record_features(pipe.backbone.denoiser) as steps:
            pipe(prompt, **call, image=images, strength=start, output_type="latent")
        return steps

    def _base_size(self, height: int, width: int) -> dict[str, int]:
        """The same share of the base model's own size, in pixels that its VAE can take."""
        ratio, factor = side(self.base.pipe) / side(self.pipe), self.base.backbone.vae_scale_factor
        return {"height": round(height * ratio / factor) * factor, "width": round(width * ratio / factor) * factor}

    def _base_scheduler(self) -> Any:
        """The upgraded model's kind of scheduler, with the noise schedule that the base model was trained with."""
        upgraded, base = self.pipe.scheduler, self.base.backbone.pipe.scheduler
        trained = {n: base.config[n] for n in NOISE_SCHEDULE if n in base.config and n in upgraded.config}
        return type(upgraded).from_config({**upgraded.config, **trained})


def _check_arguments(pipe: DiffusionPipeline, kwargs: dict[str, Any]) -> None:
    """InputError for arguments that the upgraded model's image-to-image pipeline lacks or that the stages set."""
    for name, instead in (("image", "image_prompt="), ("strength", "start=")):
        if name in kwargs:
            raise InputError(f"X-Adapter takes no argument {name}: it sets it in its second stage; give {instead}.")
    bind(pipe, (), kwargs, own=OWN)


def _check_start(start: float, steps: int) -> None:
    """InputError where the second stage would have no step, or more than there are."""
    if not 0 < start <= 1 or int(steps * start) < 1:
        raise InputError(
            f"start is {start:g} of {steps} steps; expected at least one step, and at most all: start in (0, 1]."
        )


def image_to_image(pipe: Any, scheduler: Any = None) -> Any:
    """diffusers' image-to-image pipeline from the parts of a text-to-image pipeline."""
    watermarked = getattr(pipe, "watermark", None) is not None
    scheduler = scheduler or pipe.scheduler
    converted = AutoPipelineForImage2Image.from_pipe(pipe, scheduler=scheduler, add_watermarker=watermarked)
    converted.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    return converted


def side(pipe: Any) -> int:
    """Height and width in pixels that a model is configured for."""
    return int(denoiser_of(pipe).config.sample_size * pipe.vae_scale_factor)


def resized(images: Float[Tensor, "batch 3 h w"], height: int, width: int) -> Float[Tensor, "batch 3 height width"]:
    """Images at this height and width."""
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(images, (height, width), mode="bilinear", antialias=True)


@dataclass
class XAdapterMethod(TwoModelMethod):
    """X-Adapter: the base model's decoder steers the upgraded U-Net through a trained mapper."""

    trained = ("adapter", "mapper")

    mapper: str = ""
    """Folder of the trained mapper."""
    start: float = 0.8
    """Share of the steps that the second stage runs."""

    @cached_property
    def pipe(self) -> XAdapterPipeline:
        return XAdapterPipeline(self.with_adapter(), load_for_inference(self.model), load_mapper(self.mapper))

    def generate(self, task: Task, indices: Sequence[int], noise: Sequence[Generator]) -> list[Image.Image]:
        return generate_images(self.pipe, task, indices, noise, self.sampling, self.scale, start=self.start)

    def cost(self) -> Cost:
        return Cost(self.pipe.parameters, self.pipe.base_calls(self.steps(self.pipe.pipe), self.start))

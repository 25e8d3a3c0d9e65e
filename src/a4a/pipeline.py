"""Any diffusers pipeline of a supported denoiser, with an image prompt."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.pag.pag_utils import PAGMixin
from PIL import Image
from torch import Tensor

from a4a.adapters.base import ImagePromptAdapter
from a4a.backbones import backbone_for
from a4a.encoders.base import ImageEncoder
from a4a.encoders.clip import CLIPImageEncoder
from a4a.errors import InputError
from a4a.features import SiteFeatures, differing_site
from a4a.injection import Scale, attach

ImagePrompt = Image.Image | Sequence[Image.Image] | Tensor

_OTHER_ROWS = {
    "StableDiffusionSAGPipeline",
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionXLInstructPix2PixPipeline",
}
"""Self-attention guidance runs negatives alone, instruct-pix2pix has two kinds of them."""


class ImagePromptPipeline:
    """`pipe`, unchanged, plus `image_prompt=` and `image_prompt_scale=`; whatever else a call is given goes to `pipe`.

        pipe = ImagePromptPipeline(PixArtAlphaPipeline.from_pretrained(...), A4A.from_pretrained(...), CLIPImageEncoder.from_pretrained(...))
        images = pipe("a cat on a beach", image_prompt=photo, image_prompt_scale=0.8).images

    Raises InputError where the adapter is for other sites than `pipe` has, or for another image encoder, and where `pipe`
    guides in a way that does not say which rows of its batches are the prompts.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        adapter: ImagePromptAdapter,
        image_encoder: ImageEncoder | str | Path | None = None,
    ):
        check_guidance(pipe)
        self.pipe, self.backbone = pipe, backbone_for(pipe)
        named = type(adapter).__name__ == "A4A" or any(not s.name.isdigit() for s in adapter.sites)
        if (difference := differing_site(self.backbone.sites, adapter.sites, names=named)) is not None:
            raise InputError(
                f"The adapter is not for {type(self.backbone.denoiser).__name__} of {type(pipe).__name__}: {difference} "
                f"(expected: the model, found: the adapter); load the adapter that was made for this model, or transfer it."
            )
        self.adapter = adapter.eval()
        self.image_encoder = (
            CLIPImageEncoder.from_pretrained(image_encoder) if isinstance(image_encoder, str | Path) else image_encoder
        )
        if self.image_encoder is not None:
            self.image_encoder.check(adapter.image_embed_dim, type(adapter).__name__)

    def embed(self, image_prompt: ImagePrompt) -> Tensor:
        """Image embeddings [references, image_embed_dim], which can be kept and given again as `image_prompt`."""
        if isinstance(image_prompt, Tensor):
            if image_prompt.ndim != 2 or image_prompt.shape[1] != self.adapter.image_embed_dim:
                raise InputError(
                    f"image_prompt embeddings have shape {tuple(image_prompt.shape)}; expected [references, {self.adapter.image_embed_dim}]."
                )
            return image_prompt
        if self.image_encoder is None:
            raise InputError(
                "This pipeline was made without an image encoder; pass one, or give image_prompt as embeddings."
            )
        return self.image_encoder([image_prompt] if isinstance(image_prompt, Image.Image) else list(image_prompt))

    @torch.no_grad()
    def features(self, image_prompt: ImagePrompt) -> tuple[SiteFeatures, SiteFeatures]:
        """Features of each reference, and of no image. They hold for every step, prompt and seed."""
        self.adapter.to(self.backbone.device)  # pyright: ignore[reportArgumentType] (now, since `pipe` may have moved)
        embeds = self.embed(image_prompt).to(self.backbone.device, next(self.adapter.parameters()).dtype)
        positive = self.adapter(embeds)
        negative = self.adapter(self.adapter.unconditional(embeds[:1]))
        return positive, negative.map(lambda t: t.expand(len(embeds), -1, -1))

    def rows(self, image_prompt: ImagePrompt, prompts: int, repeats: int = 1) -> tuple[SiteFeatures, SiteFeatures]:
        """Features for a call with so many prompts and pictures of each, a row a picture: of its reference, and of no image."""
        positive, negative = self.features(image_prompt)
        if positive.batch not in (1, prompts):
            raise InputError(
                f"There are {positive.batch} references for {prompts} prompts; give one for all or one for each."
            )
        times = repeats * prompts if positive.batch == 1 else repeats
        return positive.repeat_interleave(times).to(self.backbone.dtype), negative.repeat_interleave(times).to(
            self.backbone.dtype
        )

    def __call__(
        self, *args: Any, image_prompt: ImagePrompt | None = None, image_prompt_scale: Scale = 1.0, **kwargs: Any
    ) -> Any:
        """With one reference for all prompts, or one per prompt. All else as in the diffusers pipeline."""
        call = inspect.signature(self.pipe.__call__).bind(*args, **kwargs)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        call.arguments = self.backbone.call_options() | call.arguments
        call.apply_defaults()
        if image_prompt is None:
            return self.pipe(*call.args, **call.kwargs)  # pyright: ignore[reportCallIssue]
        options = call.arguments
        positive, negative = self.rows(image_prompt, _prompts(options), options.get("num_images_per_prompt") or 1)
        perturbed = (
            isinstance(self.pipe, PAGMixin) and options["pag_scale"] > 0 and len(self.pipe.pag_applied_layers) > 0
        )
        with attach(self.backbone.denoiser, self.backbone.sites, positive, image_prompt_scale, negative, perturbed):
            return self.pipe(*call.args, **call.kwargs)  # pyright: ignore[reportCallIssue]


def check_guidance(pipe: DiffusionPipeline) -> None:
    """InputError where features cannot tell which rows of a batch are the prompts."""
    if any(kind.__name__ in _OTHER_ROWS for kind in type(pipe).__mro__):
        raise InputError(
            f"{type(pipe).__name__} runs the denoiser on other rows than prompts and negatives, so an image prompt would reach the wrong ones; "
            f"use a pipeline with classifier-free or perturbed-attention guidance."
        )


def _prompts(options: dict[str, Any]) -> int:
    """How many prompts a call has."""
    prompt, embeds = options.get("prompt"), options.get("prompt_embeds")
    if isinstance(prompt, str):
        return 1
    given = prompt if prompt is not None else embeds
    if given is None:
        raise InputError("A prompt is missing; give prompt= or prompt_embeds=.")
    return len(given)

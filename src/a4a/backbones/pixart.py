"""PixArt-alpha and -Sigma: transformers with cross-attention to T5."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import PixArtSigmaPAGPipeline, PixArtSigmaPipeline
from torch import Tensor

from a4a.backbones.base import Backbone, Text
from a4a.backbones.published import KL_VAE, T5_XXL, PublishedModel
from a4a.backbones.sizes import SizeConditions

BINNED_SIZES = (32, 64, 128)
"""Latent sizes of the models for which the pipelines have tables of resolutions; Sigma has one of 256 as well."""

PIXART = {
    "sample_size": 128,
    "num_layers": 28,
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": 8,
    "cross_attention_dim": 1152,
    "caption_channels": 4096,
    "patch_size": 2,
}


class PixArt(Backbone):
    denoisers = ("PixArtTransformer2DModel",)
    published: ClassVar[dict[str, PublishedModel]] = {
        "PixArt-alpha/PixArt-XL-2-1024-MS": PublishedModel(
            "PixArtAlphaPipeline",
            {"transformer": ("PixArtTransformer2DModel", PIXART), "vae": KL_VAE, "scheduler": ("DDIMScheduler", {})},
            {"text_encoder": T5_XXL},
        ),
        "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS": PublishedModel(
            "PixArtSigmaPipeline",
            {
                "transformer": (
                    "PixArtTransformer2DModel",
                    {**PIXART, "interpolation_scale": 2, "use_additional_conditions": False},
                ),
                "vae": KL_VAE,
                "scheduler": ("DDIMScheduler", {}),
            },
            {"text_encoder": T5_XXL},
        ),
    }

    @property
    def _tokens(self) -> int:
        """Of a prompt: as many as the pipeline takes (alpha 120, Sigma 300), or its tokenizer where that has fewer."""
        tokens = self.default("max_sequence_length", "encode_prompt")
        return tokens if self.pipe.tokenizer is None else min(self.pipe.tokenizer.model_max_length, tokens)

    def call_options(self) -> dict[str, Any]:
        """Without these, the pipelines fail for models of other sizes or with shorter tokenizers."""
        is_sigma = isinstance(self.pipe, PixArtSigmaPipeline | PixArtSigmaPAGPipeline)
        sizes = (*BINNED_SIZES, 256) if is_sigma else BINNED_SIZES
        return {
            "use_resolution_binning": self.denoiser.config.sample_size in sizes,
            "max_sequence_length": self._tokens,
        }

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Text:
        """`states` [prompts, tokens, width] of T5 and `mask` [prompts, tokens]."""
        states, mask, *_ = self.pipe.encode_prompt(
            list(prompts),
            do_classifier_free_guidance=False,
            device=self.device,
            max_sequence_length=self._tokens,
            clean_caption=True,  # the default of a call of the pipelines, as PixArt was trained
        )
        return {"states": states.cpu(), "mask": mask.cpu()}

    def text_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        return {
            "states": ((self._tokens, self.denoiser.config.caption_channels), None),
            "mask": ((self._tokens,), torch.long),
        }

    def run_denoiser(self, noisy: Tensor, timesteps: Tensor, text: Text, sizes: SizeConditions) -> Tensor:
        added = {"resolution": None, "aspect_ratio": None}
        if (
            self.denoiser.config.sample_size == 128
        ):  # as the pipeline does: only 1024-pixel models have these embeddings
            original, target = (
                size.to(noisy.device, torch.float32) for size in (sizes.original_size, sizes.target_size)
            )
            added = {"resolution": original, "aspect_ratio": target[:, :1] / target[:, 1:]}
        return self.denoiser(
            noisy,
            encoder_hidden_states=text["states"].to(noisy),
            encoder_attention_mask=text["mask"].to(noisy.device),
            timestep=timesteps,
            added_cond_kwargs=added,
        ).sample

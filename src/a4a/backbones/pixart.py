"""PixArt-alpha and -Sigma: transformers with cross-attention to T5."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import PixArtSigmaPAGPipeline, PixArtSigmaPipeline
from torch import Tensor

from a4a.backbones.base import Backbone, Text

ALPHA_TOKENS = 120
BINNED_SIZES = (32, 64, 128)
"""Latent sizes of the models for which the pipelines have tables of resolutions; Sigma has one of 256 as well."""


class PixArt(Backbone):
    denoisers = ("PixArtTransformer2DModel",)

    @property
    def _tokens(self) -> int:
        """Of a prompt: as many as the pipeline takes (alpha 120, Sigma 300), or its tokenizer where that has fewer."""
        parameters = inspect.signature(type(self.pipe).encode_prompt).parameters
        return min(self.pipe.tokenizer.model_max_length, parameters["max_sequence_length"].default)

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
            clean_caption=False,
        )
        return {"states": states.cpu(), "mask": mask.cpu()}

    def text_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        tokens = self._tokens if hasattr(self.pipe, "tokenizer") else ALPHA_TOKENS
        return {"states": ((tokens, self.denoiser.config.caption_channels), None), "mask": ((tokens,), torch.long)}

    def run_denoiser(self, noisy: Tensor, timesteps: Tensor, text: Text) -> Tensor:
        added = {"resolution": None, "aspect_ratio": None}
        if (
            self.denoiser.config.sample_size == 128
        ):  # as the pipeline does: only 1024-pixel models have these embeddings
            height, width = (side * self.vae_scale_factor for side in noisy.shape[-2:])
            added = {
                "resolution": noisy.new_tensor([[height, width]]).expand(len(noisy), -1),
                "aspect_ratio": noisy.new_tensor([[height / width]]).expand(len(noisy), -1),
            }
        return self.denoiser(
            noisy,
            encoder_hidden_states=text["states"].to(noisy),
            encoder_attention_mask=text["mask"].to(noisy.device),
            timestep=timesteps,
            added_cond_kwargs=added,
        ).sample

"""FLUX.1 dev, schnell and Kontext: double blocks, then single ones, on latents packed two by two, by flow matching.

diffusers has an IP-Adapter for FLUX.1 of its own (XLabs' and InstantX's files). There the keys of the image are not
normalised, and what they give skips the output projection and the gate: it is added to the block's output behind the
feed-forward layer. Here they pass the model's own `norm_k`, and join the attention's result before `to_out`, as eq. 13
has it and as in every other family; so the files of one do not fit the other. Both take the query without rotary
position.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from a4a.backbones.attention import DOUBLE, SINGLE_LAST, AttentionContract, ImageRows
from a4a.backbones.base import Backbone, Text
from a4a.backbones.latents import grid_of_positions, pack, unpack
from a4a.backbones.prediction import TimestepDensity
from a4a.backbones.published import CLIP_L, FLUX_VAE, T5_XXL, Component, PublishedModel
from a4a.backbones.sizes import SizeConditions
from a4a.errors import InputError
from a4a.image_terms import TokenGrid

DYNAMIC: Component = ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "use_dynamic_shifting": True})
STATIC: Component = ("FlowMatchEulerDiscreteScheduler", {"shift": 1.0})


def flux(pipeline: str, distilled_guidance: bool, scheduler: Component) -> PublishedModel:
    """A published model of this family."""
    transformer = ("FluxTransformer2DModel", {"guidance_embeds": distilled_guidance})
    return PublishedModel(
        pipeline,
        {"transformer": transformer, "vae": FLUX_VAE, "scheduler": scheduler},
        {"text_encoder": CLIP_L, "text_encoder_2": T5_XXL},
    )


class Flux(Backbone):
    """By default the double blocks alone are sites: there the image's rows have projections of their own.

    The choice `all` adds the single blocks, whose attention returns the heads unmixed; the block mixes them with its
    feed-forward layer in one output projection. Rows of Kontext's reference image are never given image features.
    """

    denoisers = ("FluxTransformer2DModel",)
    blocks = ("FluxTransformerBlock", "FluxSingleTransformerBlock")
    site_suffix = ".attn"
    site_choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "double": ("transformer_blocks",),
        "all": ("transformer_blocks", "single_transformer_blocks"),
    }
    guidance = "separate"
    density = TimestepDensity("logit_normal")
    published: ClassVar[dict[str, PublishedModel]] = {
        "black-forest-labs/FLUX.1-dev": flux("FluxPipeline", True, DYNAMIC),
        "black-forest-labs/FLUX.1-schnell": flux("FluxPipeline", False, STATIC),
        "black-forest-labs/FLUX.1-Kontext-dev": flux("FluxKontextPipeline", True, DYNAMIC),
    }

    @classmethod
    def attention_at(cls, name: str) -> AttentionContract:
        return DOUBLE if name.startswith("transformer_blocks.") else SINGLE_LAST

    @classmethod
    def image_rows(cls, denoiser: Any, inputs: Mapping[str, Any]) -> ImageRows | None:
        """The rows whose position has a zero first; a Kontext pipeline puts its reference image behind them."""
        positions = inputs["img_ids"]
        drawn = (positions[..., 0] == 0).sum(-1)
        return ImageRows(drawn, after=positions.shape[-2] - drawn)

    @classmethod
    def token_grid(cls, denoiser: Any, inputs: Mapping[str, Any]) -> TokenGrid:
        return grid_of_positions(inputs["img_ids"])

    @property
    def _tokens(self) -> int:
        """Of T5: 256 for schnell, as by its authors, which has no distilled guidance; 512 for the others."""
        tokens = 512 if self.denoiser.config.guidance_embeds else 256
        tokenizer = self.pipe.tokenizer_2
        return tokens if tokenizer is None else min(tokenizer.model_max_length, tokens)

    def call_options(self) -> dict[str, Any]:
        return {"max_sequence_length": self._tokens}

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Text:
        """`states` [prompts, tokens, width] of T5 and `pooled` [prompts, width] of CLIP."""
        states, pooled, _ = self.pipe.encode_prompt(
            list(prompts), None, device=self.device, max_sequence_length=self._tokens
        )
        return {"states": states.cpu(), "pooled": pooled.cpu()}

    def text_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        config = self.denoiser.config
        return {
            "states": ((self._tokens, config.joint_attention_dim), None),
            "pooled": ((config.pooled_projection_dim,), None),
        }

    @property
    def latent_channels(self) -> int:
        return self.denoiser.out_channels // self.patch_size**2

    def latent_size(self, pixels: int | None = None) -> int:
        return super().latent_size(pixels or self.pipe.default_sample_size * self.vae_scale_factor)

    def run_denoiser(self, noisy: Tensor, timesteps: Tensor, text: Text, sizes: SizeConditions) -> Tensor:
        taken, given = self.denoiser.config.in_channels, self.denoiser.out_channels
        if taken != given:
            raise InputError(
                f"The denoiser of {type(self.pipe).__name__} takes {taken} channels and predicts {given}: the others are "
                f"of an image to fill or to follow, which training has not; train on FLUX.1-dev, whose adapters fit."
            )
        image_positions = positions(noisy, self.patch_size)
        rows = self.denoiser(
            pack(noisy, self.patch_size),
            encoder_hidden_states=text["states"].to(noisy),
            timestep=timesteps.to(noisy) / 1000,
            img_ids=image_positions,
            txt_ids=image_positions.new_zeros(text["states"].shape[1], 3),
            **self.further_inputs(text, noisy),
        ).sample
        return unpack(rows, noisy.shape[-2:], self.patch_size)

    def further_inputs(self, text: Text, noisy: Tensor) -> dict[str, Any]:
        """What else the denoiser takes.

        A model with distilled guidance is trained at guidance 1, where it predicts the flow of the data themselves.
        """
        guided = self.denoiser.config.guidance_embeds
        return {
            "pooled_projections": text["pooled"].to(noisy),
            "guidance": torch.ones(len(noisy), device=noisy.device) if guided else None,
        }


def positions(latents: Tensor, patch_size: int) -> Tensor:
    """(0, row, column) of each patch of latents [batch, channels, height, width], as [patches, 3]."""
    height, width = (side // patch_size for side in latents.shape[-2:])
    device = latents.device
    row, column = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).flatten(0, 1).float()

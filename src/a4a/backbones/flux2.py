"""FLUX.2 dev and klein: double blocks, then single ones whose attention shares its layers with the MLP."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from a4a.backbones.attention import DOUBLE, PACKED, AttentionContract, ImageRows
from a4a.backbones.base import Backbone, Text
from a4a.backbones.latents import grid_of_positions, pack, unpack
from a4a.backbones.prediction import TimestepDensity
from a4a.backbones.published import QWEN3_4B, PublishedModel
from a4a.backbones.sizes import SizeConditions
from a4a.image_terms import TokenGrid

QWEN3_8B, MISTRAL_SMALL = 8_190_735_360, 24_011_361_280
"""Parameters of text encoders; the second with its vision tower."""

KLEIN_4B = {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680}
KLEIN_9B = {"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288}


def flux2(pipeline: str, transformer: dict[str, Any], text_encoder: int) -> PublishedModel:
    """A published model of this family."""
    return PublishedModel(
        pipeline,
        {
            "transformer": ("Flux2Transformer2DModel", transformer),
            "vae": ("AutoencoderKLFlux2", {}),
            "scheduler": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "use_dynamic_shifting": True}),
        },
        {"text_encoder": text_encoder},
    )


def klein(transformer: dict[str, Any], text_encoder: int) -> PublishedModel:
    return flux2("Flux2KleinPipeline", {**transformer, "guidance_embeds": False}, text_encoder)


class Flux2(Backbone):
    """All blocks are sites by default, since few are double (dev: 8 of 56); the choice `double` leaves the others out.

    Latents are those of the VAE in patches of two by two, normalised by its batch norm: sixteen pixels along each side
    are one image row. Rows of reference images are never given image features. Training shifts time steps as FLUX.1's
    does; so do the pipelines for 200 steps, and towards noise for fewer.
    """

    denoisers = ("Flux2Transformer2DModel",)
    blocks = ("Flux2TransformerBlock", "Flux2SingleTransformerBlock")
    site_suffix = ".attn"
    site_choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "all": ("transformer_blocks", "single_transformer_blocks"),
        "double": ("transformer_blocks",),
    }
    guidance = "separate"
    patch_size = 1
    density = TimestepDensity("logit_normal")
    published: ClassVar[dict[str, PublishedModel]] = {
        "black-forest-labs/FLUX.2-dev": flux2("Flux2Pipeline", {}, MISTRAL_SMALL),
        "black-forest-labs/FLUX.2-klein-4B": klein(KLEIN_4B, QWEN3_4B),
        "black-forest-labs/FLUX.2-klein-base-4B": klein(KLEIN_4B, QWEN3_4B),
        "black-forest-labs/FLUX.2-klein-9B": klein(KLEIN_9B, QWEN3_8B),
        "black-forest-labs/FLUX.2-klein-base-9B": klein(KLEIN_9B, QWEN3_8B),
    }

    @classmethod
    def attention_at(cls, name: str) -> AttentionContract:
        return DOUBLE if name.startswith("transformer_blocks.") else PACKED

    @classmethod
    def image_rows(cls, denoiser: Any, inputs: Mapping[str, Any]) -> ImageRows | None:
        """The rows whose position has a zero first.

        Reference images come behind them, but before them where klein's KV pipeline fills its cache of their keys.
        """
        positions = inputs["img_ids"]
        drawn = (positions[..., 0] == 0).sum(-1)
        references = positions.shape[-2] - drawn
        if inputs.get("kv_cache_mode") == "extract":
            return ImageRows(drawn, before=references)
        return ImageRows(drawn, after=references)

    @classmethod
    def token_grid(cls, denoiser: Any, inputs: Mapping[str, Any]) -> TokenGrid:
        return grid_of_positions(inputs["img_ids"])

    @property
    def _tokens(self) -> int:
        """Of a prompt, as many as the pipeline takes, or its tokenizer where that has fewer."""
        tokens = self.default("max_sequence_length")
        tokenizer = getattr(self.pipe.tokenizer, "tokenizer", self.pipe.tokenizer)  # dev has a processor around it
        return tokens if tokenizer is None else min(tokenizer.model_max_length, tokens)

    def guidance_options(self, scale: float, prompts: int) -> dict[str, Any]:
        """None for klein's KV pipeline, whose model is distilled."""
        takes = inspect.signature(type(self.pipe).__call__).parameters
        return {"guidance_scale": scale} if "guidance_scale" in takes else {}

    def call_options(self) -> dict[str, Any]:
        return {"max_sequence_length": self._tokens}

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Text:
        """`states` [prompts, tokens, width]: three layers of the language model, side by side.

        The model sees padding as it sees words.
        """
        states, _ = self.pipe.encode_prompt(list(prompts), device=self.device, max_sequence_length=self._tokens)
        return {"states": states.cpu()}

    def text_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        return {"states": ((self._tokens, self.denoiser.config.joint_attention_dim), None)}

    @property
    def vae_scale_factor(self) -> int:
        return 2 * self.pipe.vae_scale_factor

    def latent_size(self, pixels: int | None = None) -> int:
        return super().latent_size(pixels or self.pipe.default_sample_size * self.pipe.vae_scale_factor)

    def run_denoiser(self, noisy: Tensor, timesteps: Tensor, text: Text, sizes: SizeConditions) -> Tensor:
        """A model with distilled guidance is trained at guidance 1, where it predicts the flow of the data themselves."""
        guided, (height, width) = self.denoiser.config.guidance_embeds, noisy.shape[-2:]
        rows = self.denoiser(
            pack(noisy, self.patch_size),
            encoder_hidden_states=text["states"].to(noisy),
            timestep=timesteps.to(noisy) / 1000,
            img_ids=positions(height, width, 1, noisy.device),
            txt_ids=positions(1, 1, text["states"].shape[1], noisy.device),
            guidance=torch.ones(len(noisy), device=noisy.device) if guided else None,
        ).sample
        return unpack(rows, (height, width), self.patch_size)


def positions(height: int, width: int, words: int, device: torch.device) -> Tensor:
    """(0, row, column, word) of each row of a sequence, as [rows, 4]; the zero tells that it is no reference image."""
    axes = [torch.arange(size, device=device) for size in (1, height, width, words)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 3)

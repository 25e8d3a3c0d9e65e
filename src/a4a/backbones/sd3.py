"""Stable Diffusion 3 and 3.5: transformers whose text and image rows attend to each other, trained by flow matching."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from a4a.backbones.attention import DOUBLE
from a4a.backbones.base import Backbone, Text
from a4a.backbones.prediction import TimestepDensity
from a4a.backbones.published import CLIP_G, FLUX_VAE, T5_XXL, Component, PublishedModel
from a4a.backbones.sizes import SizeConditions

CLIP_L_PROJECTED = 123_650_304
"""Parameters of CLIP ViT-L/14's text side with its projection, whose pooled output SD3 reads; CLIP_G counts its own."""

VAE: Component = (FLUX_VAE[0], {**FLUX_VAE[1], "scaling_factor": 1.5305, "shift_factor": 0.0609})

MEDIUM = {"sample_size": 128, "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536}
SIZES = {
    "stabilityai/stable-diffusion-3-medium-diffusers": {**MEDIUM, "pos_embed_max_size": 192},
    "stabilityai/stable-diffusion-3.5-medium": {
        **MEDIUM,
        "pos_embed_max_size": 384,
        "qk_norm": "rms_norm",
        "dual_attention_layers": tuple(range(13)),
    },
    "stabilityai/stable-diffusion-3.5-large": {
        "sample_size": 128,
        "num_layers": 38,
        "num_attention_heads": 38,
        "caption_projection_dim": 2432,
        "pos_embed_max_size": 192,
        "qk_norm": "rms_norm",
    },
}
"""Denoisers of the published models, where they differ from the class's defaults."""


class SD3(Backbone):
    """The image's rows have projections of their own; 3.5-medium's self-attention `attn2` is not a site."""

    denoisers = ("SD3Transformer2DModel",)
    blocks = ("JointTransformerBlock",)
    site_suffix = ".attn"
    attention = DOUBLE
    density = TimestepDensity("logit_normal")
    published: ClassVar[dict[str, PublishedModel]] = {
        name: PublishedModel(
            "StableDiffusion3Pipeline",
            {
                "transformer": ("SD3Transformer2DModel", size),
                "vae": VAE,
                "scheduler": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
            },
            {"text_encoder": CLIP_L_PROJECTED, "text_encoder_2": CLIP_G, "text_encoder_3": T5_XXL},
        )
        for name, size in SIZES.items()
    }

    @property
    def _t5_tokens(self) -> int:
        """Of a prompt: as many as the pipeline takes, or T5's tokenizer where that has fewer."""
        tokens = self.default("max_sequence_length", "encode_prompt")
        return tokens if self.pipe.tokenizer_3 is None else min(self.pipe.tokenizer_3.model_max_length, tokens)

    def call_options(self) -> dict[str, Any]:
        """T5's padding is attended to, so that a model with a shorter tokenizer needs its own number of tokens."""
        return {"max_sequence_length": self._t5_tokens}

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Text:
        """`states` [prompts, CLIP's and T5's tokens, width] and `pooled` [prompts, width] of both CLIPs."""
        states, _, pooled, _ = self.pipe.encode_prompt(
            list(prompts),
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self._t5_tokens,
        )
        return {"states": states.cpu(), "pooled": pooled.cpu()}

    def text_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        config, tokens = self.denoiser.config, self.pipe.tokenizer_max_length + self._t5_tokens
        return {
            "states": ((tokens, config.joint_attention_dim), None),
            "pooled": ((config.pooled_projection_dim,), None),
        }

    def run_denoiser(self, noisy: Tensor, timesteps: Tensor, text: Text, sizes: SizeConditions) -> Tensor:
        return self.denoiser(
            noisy,
            encoder_hidden_states=text["states"].to(noisy),
            pooled_projections=text["pooled"].to(noisy),
            timestep=timesteps,
        ).sample

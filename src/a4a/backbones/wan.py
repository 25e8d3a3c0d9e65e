"""Wan 2.1 and 2.2: video transformers with cross-attention to UMT5, trained by flow matching.

An image is a video of one frame: adapters are trained on images. In a video every frame sees the same features.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from a4a.backbones.base import Backbone, Text
from a4a.backbones.prediction import Prediction, TimestepDensity
from a4a.backbones.published import Component, PublishedModel
from a4a.backbones.sizes import SizeConditions
from a4a.errors import InputError

UMT5_XXL = 5_680_910_336
"""Parameters of the text encoder."""

VAE_22: Component = (
    "AutoencoderKLWan",
    {
        "base_dim": 160,
        "decoder_base_dim": 256,
        "z_dim": 48,
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "scale_factor_spatial": 16,
        "latents_mean": (0.0,) * 48,  # each channel has its own; only their number matters without weights
        "latents_std": (1.0,) * 48,
    },
)

SMALL = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
MIDDLE = {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48}
SIZES: dict[str, tuple[dict[str, Any], Component, float]] = {
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": (SMALL, ("AutoencoderKLWan", {}), 3.0),
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": ({}, ("AutoencoderKLWan", {}), 3.0),
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": (MIDDLE, VAE_22, 5.0),
}
"""Denoisers of the published models, where they differ from the class's defaults, which are those of 14B; their VAE,
and the shift of their time steps."""


class Wan(Backbone):
    """Guidance runs as two forward passes. Queries and keys are normalised over all heads."""

    denoisers = ("WanTransformer3DModel",)
    blocks = ("WanTransformerBlock",)
    guidance = "separate"
    density = TimestepDensity("logit_normal")
    published: ClassVar[dict[str, PublishedModel]] = {
        name: PublishedModel(
            "WanPipeline",
            {
                "transformer": ("WanTransformer3DModel", size),
                "vae": vae,
                "scheduler": (
                    "UniPCMultistepScheduler",
                    {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift},
                ),
            },
            {"text_encoder": UMT5_XXL},
        )
        for name, (size, vae, shift) in SIZES.items()
    }

    def __init__(self, pipe: DiffusionPipeline):
        if getattr(pipe, "transformer_2", None) is not None:
            raise InputError(
                f"This {type(pipe).__name__} has two denoisers, one for noisy and one for late steps (transformer_2), "
                f"and an adapter is for one; use a Wan with one, such as Wan-AI/Wan2.2-TI2V-5B-Diffusers."
            )
        super().__init__(pipe)

    @property
    def vae_scale_factor(self) -> int:
        return self.pipe.vae_scale_factor_spatial

    @property
    def latent_channels(self) -> int:
        return self.denoiser.config.out_channels  # where a first frame is given, in_channels counts that, too

    def latent_size(self, pixels: int | None = None) -> int:
        """By default of the shorter side of the videos that the model was trained on: 480 pixels, or 704 (2.2)."""
        factor = self.vae_scale_factor
        return (pixels or (480 if factor == 8 else 704)) // factor

    @property
    def prediction(self) -> Prediction:
        if self.denoiser.config.in_channels != self.latent_channels:
            raise InputError(
                f"{type(self.pipe).__name__} draws videos from a first frame, and cannot be trained on images alone; "
                f"train the adapter on the text-to-video model of the same size, and use it here."
            )
        return super().prediction

    def image_options(self) -> dict[str, Any]:
        return {"num_frames": 1, "output_type": "pil"}

    def drawn_images(self, output: Any) -> list[Image.Image]:
        return [frames[0] for frames in output.frames]

    @property
    def _tokens(self) -> int:
        return self.default("max_sequence_length")

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Text:
        """`states` [prompts, tokens, width] of UMT5, zeros after the end of each prompt."""
        states, _ = self.pipe.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, max_sequence_length=self._tokens, device=self.device
        )
        return {"states": states.cpu()}

    def text_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        return {"states": ((self._tokens, self.denoiser.config.text_dim), None)}

    def run_denoiser(self, noisy: Tensor, timesteps: Tensor, text: Text, sizes: SizeConditions) -> Tensor:
        """Also takes videos [batch, channels, frames, height, width]."""
        video = noisy.unsqueeze(2) if noisy.ndim == 4 else noisy
        found = self.denoiser(video, timesteps, encoder_hidden_states=text["states"].to(noisy)).sample
        return found.squeeze(2) if noisy.ndim == 4 else found

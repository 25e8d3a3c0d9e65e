"""Sana, Sana 1.5 and SanaSprint: linear self-attention, cross-attention to Gemma, trained by flow matching."""

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from a4a.backbones.base import Backbone, Text
from a4a.backbones.prediction import Prediction, TimestepDensity
from a4a.backbones.published import GEMMA2_2B, Component, PublishedModel
from a4a.backbones.sizes import SizeConditions
from a4a.errors import InputError

BINNED_SIZES = (16, 32, 64, 128)
"""Latent sizes of the models for which the pipelines have tables of resolutions; SanaSprint's has one of 32 alone."""

VAE: Component = (
    "AutoencoderDC",
    {
        "encoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
        "decoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
        "downsample_block_type": "conv",
        "upsample_block_type": "interpolate",
        "scaling_factor": 0.41407,
    },
)
"""32 pixels per latent, 32 channels."""

FLOW: Component = (
    "DPMSolverMultistepScheduler",
    {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
)

SMALL = {
    "num_layers": 28,
    "num_attention_heads": 36,
    "num_cross_attention_heads": 16,
    "cross_attention_head_dim": 72,
    "cross_attention_dim": 1152,
}
SIZES = {
    "Efficient-Large-Model/Sana_600M_1024px_diffusers": SMALL,
    "Efficient-Large-Model/Sana_1600M_1024px_diffusers": {},
    "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers": {"qk_norm": "rms_norm_across_heads"},
}
"""Denoisers of the published models, where they differ from the class's defaults, which are those of 1600M."""


class Sana(Backbone):
    """SanaSprint, which is distilled to a few steps, takes adapters made for the Sana of its size; see `prediction`."""

    denoisers = ("SanaTransformer2DModel",)
    blocks = ("SanaTransformerBlock",)
    density = TimestepDensity("logit_normal")
    published: ClassVar[dict[str, PublishedModel]] = {
        name: PublishedModel(
            "SanaPipeline",
            {"transformer": ("SanaTransformer2DModel", size), "vae": VAE, "scheduler": FLOW},
            {"text_encoder": GEMMA2_2B},
        )
        for name, size in SIZES.items()
    }

    @property
    def prediction(self) -> Prediction:
        if self.pipe.scheduler.config.get("prediction_type") == "trigflow":
            raise InputError(
                f"{type(self.pipe).__name__} is distilled to jump to the image in a few steps, and cannot be trained "
                f"by denoising; train the adapter on the Sana of the same size, and use it here."
            )
        return super().prediction

    @property
    def _tokens(self) -> int:
        return self.default("max_sequence_length")

    def call_options(self) -> dict[str, Any]:
        """Without this, the pipelines fail for models of other sizes."""
        sizes = (32,) if self.denoiser.config.guidance_embeds else BINNED_SIZES
        return {"use_resolution_binning": self.denoiser.config.sample_size in sizes}

    def encode_text(self, prompts: Sequence[str]) -> Text:
        """`states` [prompts, tokens, width] of Gemma and `mask` [prompts, tokens].

        Gemma reads each prompt behind the instruction that the pipeline gives it; of that, one token is kept.
        """
        return self._encode(prompts, self.default("complex_human_instruction"))

    def no_text(self) -> Text:
        """The empty prompt, without the instruction."""
        return self._encode([""], None)

    @torch.no_grad()
    def _encode(self, prompts: Sequence[str], instruction: list[str] | None) -> Text:
        guided = "do_classifier_free_guidance" in inspect.signature(self.pipe.encode_prompt).parameters
        states, mask, *_ = self.pipe.encode_prompt(
            list(prompts),
            device=self.device,
            clean_caption=self.default("clean_caption"),
            max_sequence_length=self._tokens,
            complex_human_instruction=instruction,
            **({"do_classifier_free_guidance": False} if guided else {}),  # SanaSprint knows none
        )
        return {"states": states.cpu(), "mask": mask.cpu()}

    def text_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        return {
            "states": ((self._tokens, self.denoiser.config.caption_channels), None),
            "mask": ((self._tokens,), torch.long),
        }

    def run_denoiser(self, noisy: Tensor, timesteps: Tensor, text: Text, sizes: SizeConditions) -> Tensor:
        config = self.denoiser.config
        if config.guidance_embeds:  # distilled guidance, at the strength that the pipeline has by default
            strength = self.default("guidance_scale") * config.guidance_embeds_scale
            guidance = torch.full_like(timesteps, strength, dtype=noisy.dtype)
        else:
            guidance, timesteps = None, timesteps * config.timestep_scale
        return self.denoiser(
            noisy,
            encoder_hidden_states=text["states"].to(noisy),
            encoder_attention_mask=text["mask"].to(noisy.device),
            timestep=timesteps,
            guidance=guidance,
        ).sample

"""Qwen-Image: text and image rows with projections of their own, packed latents, guidance as two forward passes."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from a4a.backbones.attention import DOUBLE, ImageRows
from a4a.backbones.base import Backbone, Text
from a4a.backbones.latents import pack, unpack
from a4a.backbones.padding import lengths, pad
from a4a.backbones.prediction import TimestepDensity
from a4a.backbones.published import Component, PublishedModel
from a4a.backbones.sizes import SizeConditions
from a4a.errors import InputError
from a4a.image_terms import TokenGrid

QWEN25_VL_7B = 8_292_166_656
"""Parameters of the text encoder, vision tower included."""

NO_PROMPT = " "
"""What the authors give for no prompt; the pipeline guides only where it is given a negative prompt."""

SCHEDULER: Component = (
    "FlowMatchEulerDiscreteScheduler",
    {"use_dynamic_shifting": True, "max_image_seq_len": 8192, "max_shift": 0.9, "shift_terminal": 0.02},
)


class QwenImage(Backbone):
    """The editing models' reference images follow the drawn image's rows, and take no image features."""

    denoisers = ("QwenImageTransformer2DModel",)
    blocks = ("QwenImageTransformerBlock",)
    site_suffix = ".attn"
    attention = DOUBLE
    density = TimestepDensity("logit_normal")
    guidance = "separate"
    published: ClassVar[dict[str, PublishedModel]] = {
        "Qwen/Qwen-Image": PublishedModel(
            "QwenImagePipeline",
            {
                "transformer": ("QwenImageTransformer2DModel", {}),
                "vae": ("AutoencoderKLQwenImage", {}),
                "scheduler": SCHEDULER,
            },
            {"text_encoder": QWEN25_VL_7B},
        )
    }

    @classmethod
    def image_rows(cls, denoiser: Any, inputs: Mapping[str, Any]) -> ImageRows | None:
        """The drawn image's come first; Qwen-Image-Layered draws several, and one reference image follows them."""
        shapes = inputs["img_shapes"][0]
        if isinstance(shapes[0], int):  # the ControlNet pipelines give one shape a sample, not a list of them
            return None
        drawn = len(shapes) - 1 if denoiser.config.use_layer3d_rope else 1
        count, after = (sum(map(prod, group)) for group in (shapes[:drawn], shapes[drawn:]))
        return ImageRows(count, after=after) if after else None

    @classmethod
    def token_grid(cls, denoiser: Any, inputs: Mapping[str, Any]) -> TokenGrid:
        """Every layer of Qwen-Image-Layered is a frame."""
        shapes = inputs["img_shapes"][0]
        if isinstance(shapes[0], int):
            return TokenGrid(*shapes)
        frames, height, width = shapes[0]
        return TokenGrid(frames * (len(shapes) - 1 if denoiser.config.use_layer3d_rope else 1), height, width)

    @property
    def _tokens(self) -> int:
        """Of a prompt, as many as a call of the pipeline takes by default."""
        return self.default("max_sequence_length")

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Text:
        """`states` [prompts, tokens, width] of Qwen2.5-VL and `mask` [prompts, tokens]."""
        states, mask = self.pipe.encode_prompt(list(prompts), device=self.device, max_sequence_length=self._tokens)
        own = [states.shape[1]] * len(states) if mask is None else lengths(mask)
        states, mask = pad([row[:n] for row, n in zip(states, own, strict=True)], self._tokens)
        return {"states": states.cpu(), "mask": mask.cpu()}

    def no_text(self) -> Text:
        return self.encode_text([NO_PROMPT])

    def text_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        return {
            "states": ((self._tokens, self.denoiser.config.joint_attention_dim), None),
            "mask": ((self._tokens,), torch.long),
        }

    def guidance_options(self, scale: float, prompts: int) -> dict[str, Any]:
        return {"true_cfg_scale": scale, "negative_prompt": [NO_PROMPT] * prompts if scale > 1 else None}

    @property
    def latent_channels(self) -> int:
        return self.denoiser.config.in_channels // self.patch_size**2

    def latent_size(self, pixels: int | None = None) -> int:
        return super().latent_size(pixels or self.pipe.default_sample_size * self.vae_scale_factor)

    def run_denoiser(self, noisy: Tensor, timesteps: Tensor, text: Text, sizes: SizeConditions) -> Tensor:
        if self.denoiser.config.use_additional_t_cond:
            raise InputError(
                f"The denoiser of {type(self.pipe).__name__} draws layers, and training has images without layers; "
                f"train on Qwen-Image."
            )
        own, size = lengths(text["mask"]), noisy.shape[-2:]
        states, mask = text["states"].to(noisy)[:, : max(own)], text["mask"].to(noisy.device)[:, : max(own)]
        rows = self.denoiser(
            pack(noisy, self.patch_size),
            encoder_hidden_states=states,
            encoder_hidden_states_mask=None if min(own) == max(own) else mask.bool(),
            timestep=timesteps / 1000,
            img_shapes=[[(1, *(side // self.patch_size for side in size))]] * len(noisy),
        ).sample
        return unpack(rows, size, self.patch_size)

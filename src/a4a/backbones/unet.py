"""U-Nets with cross-attention to text: Stable Diffusion 1.5, 2.1, SDXL and Kolors."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from a4a.backbones.base import Backbone, Text
from a4a.backbones.published import CLIP_G, CLIP_L, KL_VAE, STABLE_DIFFUSION_NOISE, PublishedModel
from a4a.backbones.sizes import SizeConditions
from a4a.features import Site
from a4a.image_terms import TokenGrid

SD15 = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
SD21 = {
    **SD15,
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
KOLORS = {
    **SDXL,
    "projection_class_embeddings_input_dim": 5632,
    "encoder_hid_dim": 4096,
    "encoder_hid_dim_type": "text_proj",
}

OPENCLIP_H, CHATGLM3 = 340_387_840, 6_243_584_000
"""Parameters of the text encoders of SD2.1 (without its last layer) and Kolors."""


class UNet(Backbone):
    denoisers = ("UNet2DConditionModel",)
    published: ClassVar[dict[str, PublishedModel]] = {
        "stable-diffusion-v1-5/stable-diffusion-v1-5": PublishedModel(
            "StableDiffusionPipeline",
            {"unet": ("UNet2DConditionModel", SD15), "vae": KL_VAE, "scheduler": STABLE_DIFFUSION_NOISE},
            {"text_encoder": CLIP_L},
        ),
        "stabilityai/stable-diffusion-2-1-base": PublishedModel(
            "StableDiffusionPipeline",
            {"unet": ("UNet2DConditionModel", SD21), "vae": KL_VAE, "scheduler": STABLE_DIFFUSION_NOISE},
            {"text_encoder": OPENCLIP_H},
        ),
        "stabilityai/stable-diffusion-2-1": PublishedModel(
            "StableDiffusionPipeline",
            {
                "unet": ("UNet2DConditionModel", {**SD21, "sample_size": 96}),
                "vae": KL_VAE,
                "scheduler": (
                    STABLE_DIFFUSION_NOISE[0],
                    {**STABLE_DIFFUSION_NOISE[1], "prediction_type": "v_prediction"},
                ),
            },
            {"text_encoder": OPENCLIP_H},
        ),
        "stabilityai/stable-diffusion-xl-base-1.0": PublishedModel(
            "StableDiffusionXLPipeline",
            {"unet": ("UNet2DConditionModel", SDXL), "vae": KL_VAE, "scheduler": STABLE_DIFFUSION_NOISE},
            {"text_encoder": CLIP_L, "text_encoder_2": CLIP_G},
        ),
        "Kwai-Kolors/Kolors-diffusers": PublishedModel(
            "KolorsPipeline",
            {
                "unet": ("UNet2DConditionModel", KOLORS),
                "vae": KL_VAE,
                "scheduler": (
                    "EulerDiscreteScheduler",
                    {
                        "num_train_timesteps": 1100,
                        "beta_start": 0.00085,
                        "beta_end": 0.014,
                        "beta_schedule": "scaled_linear",
                        "steps_offset": 1,
                    },
                ),
            },
            {"text_encoder": CHATGLM3},
        ),
    }

    @classmethod
    def find_sites(cls, denoiser: nn.Module, choice: str | None = None) -> tuple[Site, ...]:
        """In the order of published IP-Adapters: down, up, middle. They run in the order down, middle, up."""
        names = cls._chosen(cls.site_names(denoiser), choice)
        down, middle, up = (
            [n for n in names if n.startswith(part)] for part in ("down_blocks", "mid_block", "up_blocks")
        )
        depth = {name: i / max(len(names) - 1, 1) for i, name in enumerate(down + middle + up)}
        return tuple(cls.site(denoiser, name, depth[name]) for name in down + up + middle)

    @classmethod
    def token_grid(cls, denoiser: Any, inputs: Mapping[str, Any]) -> TokenGrid:
        return super().token_grid(denoiser, inputs)._replace(halved=True)

    @property
    def _is_xl(self) -> bool:
        """Whether it takes pooled text and sizes; Kolors does, too."""
        return self.denoiser.config.addition_embed_type == "text_time"

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Text:
        """`states` [prompts, tokens, width]; SDXL and Kolors also take `pooled` [prompts, width]."""
        encoded = self.pipe.encode_prompt(
            prompt=list(prompts), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        names = ("states", "", "pooled", "") if self._is_xl else ("states", "")  # the others are of the negative prompt
        return {name: tensor.cpu() for name, tensor in zip(names, encoded, strict=True) if name}

    def no_text(self) -> Text:
        text = self.encode_text([""])
        zeros = self._is_xl and self.pipe.config.force_zeros_for_empty_prompt
        return {name: torch.zeros_like(t) for name, t in text.items()} if zeros else text

    def text_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        config, tokenizer = self.denoiser.config, self.pipe.tokenizer
        tokens = 77 if tokenizer is None else tokenizer.model_max_length
        if (limit := inspect.signature(self.pipe.encode_prompt).parameters.get("max_sequence_length")) is not None:
            tokens = limit.default  # Kolors'
        shapes: dict[str, tuple[tuple[int, ...], torch.dtype | None]] = {
            "states": ((tokens, config.encoder_hid_dim or config.cross_attention_dim), None)
        }
        if self._is_xl:
            pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            shapes["pooled"] = ((pooled,), None)
        return shapes

    def run_denoiser(self, noisy: Tensor, timesteps: Tensor, text: Text, sizes: SizeConditions) -> Tensor:
        added = {}
        if self._is_xl:
            ids = torch.cat([sizes.original_size, sizes.crop_top_left, sizes.target_size], 1)
            # bfloat16 would round them; the U-Net takes their sines in float32
            added = {"text_embeds": text["pooled"].to(noisy), "time_ids": ids.to(noisy.device, torch.float32)}
        return self.denoiser(noisy, timesteps, text["states"].to(noisy), added_cond_kwargs=added or None).sample

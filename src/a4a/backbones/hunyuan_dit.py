"""HunyuanDiT: a transformer with long skip connections and cross-attention to BERT and T5 in one sequence."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid
from torch import Tensor

from a4a.backbones.base import Backbone, Text
from a4a.backbones.published import KL_VAE, PublishedModel
from a4a.backbones.sizes import SizeConditions

BERT, MT5_XL = 352_035_840, 1_669_958_656
"""Parameters of the text encoders."""

TRAINED_SIZE = 512 // 8
"""Side of the latents for which the rotary embeddings were made; others are interpolated to it."""

HUNYUAN_DIT = {
    "num_layers": 40,
    "in_channels": 4,
    "patch_size": 2,
    "sample_size": 128,
    "hidden_size": 1408,
    "mlp_ratio": 4.3637,
    "use_style_cond_and_image_meta_size": False,
}


class HunyuanDiT(Backbone):
    """Its queries are normalised and rotated before cross-attention; image keys are normalised as the text's are.

    diffusers' model cannot recompute its blocks, so there is no gradient checkpointing.
    """

    denoisers = ("HunyuanDiT2DModel",)
    blocks = ("HunyuanDiTBlock",)
    published: ClassVar[dict[str, PublishedModel]] = {
        "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers": PublishedModel(
            "HunyuanDiTPipeline",
            {
                "transformer": ("HunyuanDiT2DModel", HUNYUAN_DIT),
                "vae": (KL_VAE[0], {**KL_VAE[1], "scaling_factor": 0.13025}),
                "scheduler": (
                    "DDPMScheduler",
                    {
                        "beta_start": 0.00085,
                        "beta_end": 0.018,
                        "beta_schedule": "scaled_linear",
                        "prediction_type": "v_prediction",
                        "steps_offset": 1,
                        "clip_sample": False,
                    },
                ),
            },
            {"text_encoder": BERT, "text_encoder_2": MT5_XL},
        ),
    }

    def call_options(self) -> dict[str, Any]:
        """The pipeline's table of resolutions is for models of 1024 pixels."""
        return {"use_resolution_binning": self.denoiser.config.sample_size == 128}

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Text:
        """`states` [prompts, tokens, width] and `mask` [prompts, tokens] of BERT; `states_t5` and `mask_t5` of T5."""
        text = {}
        for index, name in enumerate(("", "_t5")):
            states, _, mask, _ = self.pipe.encode_prompt(
                list(prompts),
                device=self.device,
                do_classifier_free_guidance=False,
                max_sequence_length=self._tokens[index],
                text_encoder_index=index,
            )
            text |= {f"states{name}": states.cpu(), f"mask{name}": mask.cpu()}
        return text

    @property
    def _tokens(self) -> tuple[int, int]:
        return self.denoiser.config.text_len, self.denoiser.config.text_len_t5

    def text_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        config, (tokens, t5_tokens) = self.denoiser.config, self._tokens
        return {
            "states": ((tokens, config.cross_attention_dim), None),
            "mask": ((tokens,), torch.long),
            "states_t5": ((t5_tokens, config.cross_attention_dim_t5), None),
            "mask_t5": ((t5_tokens,), torch.long),
        }

    def run_denoiser(self, noisy: Tensor, timesteps: Tensor, text: Text, sizes: SizeConditions) -> Tensor:
        ids = torch.cat([sizes.original_size, sizes.target_size, sizes.crop_top_left], 1)
        return self.denoiser(
            noisy,
            timesteps.to(noisy.dtype),  # in which the denoiser computes all that depends on it
            encoder_hidden_states=text["states"].to(noisy),
            text_embedding_mask=text["mask"].to(noisy.device),
            encoder_hidden_states_t5=text["states_t5"].to(noisy).contiguous(),
            text_embedding_mask_t5=text["mask_t5"].to(noisy.device),
            image_meta_size=ids.to(noisy),  # both of these are read by versions before 1.2 alone
            style=torch.zeros(len(noisy), dtype=torch.long, device=noisy.device),
            image_rotary_emb=self._rotary(noisy),
        ).sample

    def _rotary(self, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [patches, head width], as the pipeline makes them."""
        denoiser = self.denoiser
        patch = denoiser.config.patch_size
        grid = (noisy.shape[-2] // patch, noisy.shape[-1] // patch)
        region = get_resize_crop_region_for_grid(grid, TRAINED_SIZE // patch)
        head_width = denoiser.inner_dim // denoiser.num_heads
        found: Any = get_2d_rotary_pos_embed(head_width, region, grid, device=noisy.device, output_type="pt")
        return found

"""CogView4: text of a language model and image in one sequence, whose queries the model rotates in place."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from a4a.backbones.attention import SINGLE_LAST, ImageRows
from a4a.backbones.base import Backbone, Text
from a4a.backbones.published import KL_VAE, PublishedModel
from a4a.backbones.sizes import SizeConditions

GLM_4_9B = 8_779_194_368
"""Parameters of the language model without its head."""

TOKENS = 256
"""Of a training prompt at most; calls of the pipeline take 1024."""


class CogView4(Backbone):
    """Its pipeline guides by two forward passes. The rotation happens behind `norm_q`, so what `to_q` gives stays."""

    denoisers = ("CogView4Transformer2DModel",)
    blocks = ("CogView4TransformerBlock",)
    site_suffix = ".attn1"
    attention = SINGLE_LAST
    guidance = "separate"
    published: ClassVar[dict[str, PublishedModel]] = {
        "THUDM/CogView4-6B": PublishedModel(
            "CogView4Pipeline",
            {
                "transformer": (
                    "CogView4Transformer2DModel",
                    {"num_layers": 28, "num_attention_heads": 32, "attention_head_dim": 128},
                ),
                "vae": (
                    KL_VAE[0],
                    {
                        **KL_VAE[1],
                        "block_out_channels": (128, 512, 1024, 1024),
                        "layers_per_block": 3,
                        "latent_channels": 16,
                        "scaling_factor": 1.0,
                        "use_quant_conv": False,
                        "use_post_quant_conv": False,
                        "mid_block_add_attention": False,
                    },
                ),
                "scheduler": (
                    "FlowMatchEulerDiscreteScheduler",
                    {"base_shift": 0.25, "max_shift": 0.75, "use_dynamic_shifting": True, "time_shift_type": "linear"},
                ),
            },
            {"text_encoder": GLM_4_9B},
        )
    }

    @classmethod
    def image_rows(cls, denoiser: Any, inputs: Mapping[str, Any]) -> ImageRows | None:
        height, width = (side // denoiser.config.patch_size for side in inputs["hidden_states"].shape[-2:])
        return ImageRows(height * width)

    def shift_mu(self, latents: Tensor) -> float | None:
        """Linear in the side of the image, as in the pipeline."""
        config = self.pipe.scheduler.config
        if not config.get("use_dynamic_shifting"):
            return None
        rows = latents.shape[-2] * latents.shape[-1] // self.patch_size**2
        return config.base_shift + config.max_shift * (rows / config.base_image_seq_len) ** 0.5

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Text:
        """`states` [prompts, tokens, width] at the end of `mask` [prompts, tokens], and the state of padding before.

        Each prompt is encoded by itself, in a multiple of 16 tokens: the pipeline would pad it to the longest of a
        call, and the language model reads the padding. The state of padding is the same wherever it comes first.
        """
        encoded = [self._encode(prompt) for prompt in prompts]
        states = self._encode("")[:1].expand(TOKENS, -1).repeat(len(prompts), 1, 1)
        mask = torch.zeros(len(prompts), TOKENS, dtype=torch.long)
        for i, own in enumerate(encoded):
            states[i, -len(own) :], mask[i, -len(own) :] = own, 1
        return {"states": states, "mask": mask}

    def _encode(self, prompt: str) -> Tensor:
        """[tokens, width], on the CPU."""
        states, _ = self.pipe.encode_prompt(
            [prompt], do_classifier_free_guidance=False, device=self.device, max_sequence_length=TOKENS
        )
        return states[0].cpu()

    def text_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        return {"states": ((TOKENS, self.denoiser.config.text_embed_dim), None), "mask": ((TOKENS,), torch.long)}

    def run_denoiser(self, noisy: Tensor, timesteps: Tensor, text: Text, sizes: SizeConditions) -> Tensor:
        """The text is as long as the batch's longest; the denoiser has no mask."""
        longest = TOKENS if text["mask"].is_meta else int(text["mask"].sum(1).max())
        return self.denoiser(
            noisy,
            encoder_hidden_states=text["states"][:, -longest:].to(noisy),
            timestep=timesteps,
            original_size=sizes.original_size.to(noisy),
            target_size=sizes.target_size.to(noisy),
            crop_coords=sizes.crop_top_left.to(noisy),
        ).sample

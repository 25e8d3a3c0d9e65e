"""AuraFlow: four double blocks and 32 single ones, with text of a T5 and eight register tokens before the image."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from a4a.backbones.attention import DOUBLE, SINGLE_LAST, AttentionContract, ImageRows
from a4a.backbones.base import Backbone, Text
from a4a.backbones.prediction import TimestepDensity
from a4a.backbones.published import KL_VAE, PublishedModel
from a4a.backbones.sizes import SizeConditions

PILE_T5_XL = 1_223_550_976
"""Parameters of the encoder of EleutherAI/pile-t5-xl."""


class AuraFlow(Backbone):
    """All blocks are sites: the double ones are too few, and all before the first ninth of the depth."""

    denoisers = ("AuraFlowTransformer2DModel",)
    blocks = ("AuraFlowJointTransformerBlock", "AuraFlowSingleTransformerBlock")
    site_suffix = ".attn"
    density = TimestepDensity("logit_normal")
    published: ClassVar[dict[str, PublishedModel]] = {
        name: PublishedModel(
            "AuraFlowPipeline",
            {
                "transformer": ("AuraFlowTransformer2DModel", {"pos_embed_max_size": positions}),
                "vae": (KL_VAE[0], {**KL_VAE[1], "scaling_factor": 0.13025}),
                "scheduler": ("FlowMatchEulerDiscreteScheduler", {"shift": 1.73}),
            },
            {"text_encoder": PILE_T5_XL},
        )
        for name, positions in (("fal/AuraFlow-v0.2", 4096), ("fal/AuraFlow-v0.3", 9216))
    }

    @classmethod
    def attention_at(cls, name: str) -> AttentionContract:
        return DOUBLE if name.startswith("joint_transformer_blocks.") else SINGLE_LAST

    @classmethod
    def image_rows(cls, denoiser: Any, inputs: Mapping[str, Any]) -> ImageRows | None:
        height, width = (side // denoiser.config.patch_size for side in inputs["hidden_states"].shape[-2:])
        return ImageRows(height * width)

    @property
    def _tokens(self) -> int:
        """Of a prompt, as many as the pipeline takes, or its tokenizer where that has fewer."""
        tokens = self.default("max_sequence_length", "encode_prompt")
        return tokens if self.pipe.tokenizer is None else min(self.pipe.tokenizer.model_max_length, tokens)

    def call_options(self) -> dict[str, Any]:
        return {"max_sequence_length": self._tokens}

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Text:
        """`states` [prompts, tokens, width], zero at padding, which the model sees as it sees words."""
        states, *_ = self.pipe.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, device=self.device, max_sequence_length=self._tokens
        )
        return {"states": states.cpu()}

    def text_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        return {"states": ((self._tokens, self.denoiser.config.joint_attention_dim), None)}

    def run_denoiser(self, noisy: Tensor, timesteps: Tensor, text: Text, sizes: SizeConditions) -> Tensor:
        return self.denoiser(
            noisy, encoder_hidden_states=text["states"].to(noisy), timestep=timesteps.to(noisy) / 1000
        ).sample

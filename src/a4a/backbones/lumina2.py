"""Lumina-Image 2.0: one sequence of caption and image, grouped-query attention; reversed time."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from a4a.backbones.attention import SINGLE_FIRST, ImageRows
from a4a.backbones.base import Backbone, Text
from a4a.backbones.prediction import TimestepDensity
from a4a.backbones.published import FLUX_VAE, GEMMA2_2B, PublishedModel
from a4a.backbones.sizes import SizeConditions


class Lumina2(Backbone):
    """The blocks that refine image or text alone, before they meet, are no sites: an image prompt enters beside text.

    A sample's image rows follow its own caption, and padding follows them.
    """

    denoisers = ("Lumina2Transformer2DModel",)
    blocks = ("Lumina2TransformerBlock",)
    site_suffix = ".attn"
    attention = SINGLE_FIRST
    density = TimestepDensity("logit_normal")
    guidance = "separate"
    published: ClassVar[dict[str, PublishedModel]] = {
        "Alpha-VLLM/Lumina-Image-2.0": PublishedModel(
            "Lumina2Pipeline",
            {
                "transformer": ("Lumina2Transformer2DModel", {"cap_feat_dim": 2304}),
                "vae": FLUX_VAE,
                "scheduler": ("FlowMatchEulerDiscreteScheduler", {"shift": 6.0}),
            },
            {"text_encoder": GEMMA2_2B},
        )
    }

    @classmethod
    def site_names(cls, denoiser: nn.Module) -> list[str]:
        return [name for name in super().site_names(denoiser) if name.startswith("layers.")]

    @classmethod
    def image_rows(cls, denoiser: Any, inputs: Mapping[str, Any]) -> ImageRows | None:
        height, width = (side // denoiser.config.patch_size for side in inputs["hidden_states"].shape[-2:])
        return ImageRows(height * width, before=inputs["encoder_attention_mask"].sum(1))

    @property
    def _tokens(self) -> int:
        """Of a prompt, as many as the pipeline takes by default, the system prompt before it included."""
        return self.default("max_sequence_length")

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Text:
        """`states` [prompts, tokens, width] of Gemma, which reads the system prompt first, and `mask` [prompts, tokens]."""
        states, mask, *_ = self.pipe.encode_prompt(list(prompts), False, device=self.device)
        return {"states": states.cpu(), "mask": mask.cpu()}

    @torch.no_grad()
    def no_text(self) -> Text:
        """The empty prompt, without the system prompt."""
        *_, states, mask = self.pipe.encode_prompt([""], device=self.device)
        return {"states": states.cpu(), "mask": mask.cpu()}

    def text_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        return {
            "states": ((self._tokens, self.denoiser.config.cap_feat_dim), None),
            "mask": ((self._tokens,), torch.long),
        }

    def run_denoiser(self, noisy: Tensor, timesteps: Tensor, text: Text, sizes: SizeConditions) -> Tensor:
        """The flow; the denoiser takes time that ends with 1, and predicts the flow from noise to image."""
        with _captions_of_full_length(self.denoiser, noisy.is_meta):
            return -self.denoiser(
                noisy,
                1 - timesteps / 1000,
                encoder_hidden_states=text["states"].to(noisy),
                encoder_attention_mask=text["mask"].to(noisy.device),
            ).sample


@contextmanager
def _captions_of_full_length(denoiser: Any, needed: bool) -> Iterator[None]:
    """On the meta device a mask has no numbers, and the denoiser asks how long each caption is: as long as may be."""
    if not needed:
        yield
        return

    def whole(_module: nn.Module, args: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return args[0], torch.ones(args[1].shape, dtype=torch.long, device="cpu")

    hook = denoiser.rope_embedder.register_forward_pre_hook(whole)
    try:
        yield
    finally:
        hook.remove()

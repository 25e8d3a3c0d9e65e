"""Chroma: FLUX.1 schnell without CLIP and guidance distillation, whose text is masked."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from a4a.backbones.base import Text
from a4a.backbones.flux import STATIC, Flux
from a4a.backbones.prediction import TimestepDensity
from a4a.backbones.published import FLUX_VAE, T5_XXL, PublishedModel
from a4a.backbones.sizes import SizeConditions


class Chroma(Flux):
    """Its pipelines guide by two forward passes.

    Its authors draw time steps by a parabola with its top in the middle, which keeps more of the ends than a
    logit-normal density; uniform is the nearest to it.
    """

    denoisers = ("ChromaTransformer2DModel",)
    blocks = ("ChromaTransformerBlock", "ChromaSingleTransformerBlock")
    density = TimestepDensity()
    published: ClassVar[dict[str, PublishedModel]] = {
        name: PublishedModel(
            "ChromaPipeline",
            {"transformer": ("ChromaTransformer2DModel", {}), "vae": FLUX_VAE, "scheduler": STATIC},
            {"text_encoder": T5_XXL},
        )
        for name in ("lodestones/Chroma1-HD", "lodestones/Chroma1-Base")
    }

    @property
    def _tokens(self) -> int:
        """Of T5, as many as the pipeline takes."""
        tokenizer = self.pipe.tokenizer
        return 512 if tokenizer is None else min(tokenizer.model_max_length, 512)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Text:
        """`states` [prompts, tokens, width] of T5, and its `mask` [prompts, tokens] in the states' dtype."""
        states, _, mask, *_ = self.pipe.encode_prompt(
            list(prompts), device=self.device, do_classifier_free_guidance=False, max_sequence_length=self._tokens
        )
        return {"states": states.cpu(), "mask": mask.cpu()}

    def text_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        return {
            "states": ((self._tokens, self.denoiser.config.joint_attention_dim), None),
            "mask": ((self._tokens,), None),
        }

    def further_inputs(self, text: Text, noisy: Tensor) -> dict[str, Any]:
        """The mask of all rows, with which diffusers' pipeline raises the scores of what is not masked by one."""
        rows = noisy[0, 0].numel() // self.patch_size**2
        return {"attention_mask": F.pad(text["mask"].to(noisy), (0, rows), value=1.0)}

    def run_denoiser(self, noisy: Tensor, timesteps: Tensor, text: Text, sizes: SizeConditions) -> Tensor:
        if not self.denoiser.gradient_checkpointing:
            return super().run_denoiser(noisy, timesteps, text, sizes)
        checkpoint, mask = (
            self.denoiser._gradient_checkpointing_func,
            self.further_inputs(text, noisy)["attention_mask"],
        )
        self.denoiser._gradient_checkpointing_func = partial(_with_mask, checkpoint, mask)
        try:
            return super().run_denoiser(noisy, timesteps, text, sizes)
        finally:
            self.denoiser._gradient_checkpointing_func = checkpoint


def _with_mask(checkpoint: Callable, mask: Tensor, block: nn.Module, *args: Any) -> Any:
    """diffusers leaves the mask away where it checkpoints single blocks, so that the model would be another one."""
    return checkpoint(block, *args, *([mask] if type(block).__name__ == "ChromaSingleTransformerBlock" else []))

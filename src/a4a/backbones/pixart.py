"""PixArt-alpha and -Sigma: transformers with cross-attention to T5."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import PixArtSigmaPAGPipeline, PixArtSigmaPipeline
from torch import Tensor, nn

from a4a.backbones.base import Backbone, Text
from a4a.features import Site


class PixArt(Backbone):
    denoisers = ("PixArtTransformer2DModel",)

    @classmethod
    def find_sites(cls, denoiser: nn.Module) -> tuple[Site, ...]:
        names = [name for name, _ in denoiser.named_modules() if name.endswith(".attn2")]
        last = max(len(names) - 1, 1)
        return tuple(
            Site(name, denoiser.get_submodule(name).to_k.out_features, i / last) for i, name in enumerate(names)
        )  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]

    @property
    def _length(self) -> int:
        """Tokens of a prompt: as many as the pipeline itself takes, 120 for alpha and 300 for Sigma, where its tokenizer has so many."""
        own = inspect.signature(type(self.pipe).encode_prompt).parameters["max_sequence_length"].default  # pyright: ignore[reportAttributeAccessIssue]
        return min(self.pipe.tokenizer.model_max_length, own)  # pyright: ignore[reportAttributeAccessIssue]

    def call_options(self) -> dict[str, Any]:
        """The pipeline has bins of resolutions for some sizes of model alone, and fails for others unless told."""
        sizes = (
            (32, 64, 128, 256) if isinstance(self.pipe, PixArtSigmaPipeline | PixArtSigmaPAGPipeline) else (32, 64, 128)
        )
        return {
            "use_resolution_binning": self.denoiser.config.sample_size in sizes,
            "max_sequence_length": self._length,
        }

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Text:
        states, mask, *_ = self.pipe.encode_prompt(  # pyright: ignore[reportAttributeAccessIssue]
            list(prompts),
            do_classifier_free_guidance=False,
            device=self.device,
            max_sequence_length=self._length,
            clean_caption=False,
        )
        return {"states": states.cpu(), "mask": mask.cpu()}

    def no_text(self) -> Text:
        return self.encode_text([""])

    def text_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        length = self._length if hasattr(self.pipe, "tokenizer") else 120
        return {"states": ((length, self.denoiser.config.caption_channels), None), "mask": ((length,), torch.long)}

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Text) -> Tensor:
        added = {"resolution": None, "aspect_ratio": None}
        if (
            self.denoiser.config.sample_size == 128
        ):  # as the pipeline decides it: only the 1024-pixel models have these embeddings
            factor = self.pipe.vae_scale_factor  # pyright: ignore[reportAttributeAccessIssue]
            height, width = (side * factor for side in noisy.shape[-2:])
            added = {
                "resolution": noisy.new_tensor([[height, width]]).expand(len(noisy), -1),
                "aspect_ratio": noisy.new_tensor([[height / width]]).expand(len(noisy), -1),
            }
        prediction = self.denoiser(
            noisy,
            encoder_hidden_states=text["states"].to(noisy),
            encoder_attention_mask=text["mask"].to(noisy.device),
            timestep=timesteps,
            added_cond_kwargs=added,
        ).sample
        return prediction[:, : noisy.shape[1]]  # the rest is the learned variance, which PixArt's mean loss ignores

"""Z-Image: one sequence of image and text, image rows first; lists of images and prompts; reversed time."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from a4a.backbones.attention import SINGLE_FIRST, ImageRows
from a4a.backbones.base import Backbone, Text
from a4a.backbones.padding import lengths, pad
from a4a.backbones.prediction import TimestepDensity
from a4a.backbones.published import FLUX_VAE, QWEN3_4B, PublishedModel
from a4a.backbones.sizes import SizeConditions
from a4a.errors import InputError
from a4a.image_terms import TokenGrid

PIXELS = 1024
"""Side of the images that the model was trained on, which its configuration does not say."""


def z_image(shift: float) -> PublishedModel:
    """A published model of this family; the models differ in the shift of their time steps alone."""
    return PublishedModel(
        "ZImagePipeline",
        {
            "transformer": ("ZImageTransformer2DModel", {}),
            "vae": FLUX_VAE,
            "scheduler": ("FlowMatchEulerDiscreteScheduler", {"shift": shift}),
        },
        {"text_encoder": QWEN3_4B},
    )


class ZImage(Backbone):
    """The blocks that refine image or text alone, before they meet, are no sites: an image prompt enters beside text.

    The image's rows are padded to a multiple of 32; rows of padding take no image features.
    """

    denoisers = ("ZImageTransformer2DModel",)
    blocks = ("ZImageTransformerBlock",)
    site_suffix = ".attention"
    attention = SINGLE_FIRST
    density = TimestepDensity("logit_normal")
    guidance = "negative_last"
    published: ClassVar[dict[str, PublishedModel]] = {
        "Tongyi-MAI/Z-Image": z_image(6.0),
        "Tongyi-MAI/Z-Image-Turbo": z_image(3.0),
    }

    @classmethod
    def site_names(cls, denoiser: nn.Module) -> list[str]:
        return [name for name in super().site_names(denoiser) if name.startswith("layers.")]

    @classmethod
    def image_rows(cls, denoiser: Any, inputs: Mapping[str, Any]) -> ImageRows | None:
        images = inputs["x"]
        if isinstance(images[0], list):
            raise InputError(
                "Z-Image Omni puts reference images of its own before the drawn image, where it is not known how an "
                "image prompt should enter; use ZImagePipeline."
            )
        patch, frames = inputs.get("patch_size", 2), inputs.get("f_patch_size", 1)
        counts = [(f // frames) * (h // patch) * (w // patch) for _, f, h, w in (image.shape for image in images)]
        if all(count == counts[0] for count in counts):
            return ImageRows(counts[0])
        return ImageRows(torch.tensor(counts, device=images[0].device))

    @classmethod
    def token_grid(cls, denoiser: Any, inputs: Mapping[str, Any]) -> TokenGrid:
        patch, along = inputs.get("patch_size", 2), inputs.get("f_patch_size", 1)
        _, frames, height, width = inputs["x"][0].shape
        return TokenGrid(frames // along, height // patch, width // patch)

    @property
    def _tokens(self) -> int:
        """Of a prompt, as many as the pipeline takes by default."""
        return self.default("max_sequence_length", "encode_prompt")

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Text:
        """`states` [prompts, tokens, width] of Qwen3 and `mask` [prompts, tokens]."""
        texts, _ = self.pipe.encode_prompt(list(prompts), device=self.device, do_classifier_free_guidance=False)
        states, mask = pad(texts, self._tokens)
        return {"states": states.cpu(), "mask": mask.cpu()}

    def text_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        return {
            "states": ((self._tokens, self.denoiser.config.cap_feat_dim), None),
            "mask": ((self._tokens,), torch.long),
        }

    def latent_size(self, pixels: int | None = None) -> int:
        return super().latent_size(pixels or PIXELS)

    def run_denoiser(self, noisy: Tensor, timesteps: Tensor, text: Text, sizes: SizeConditions) -> Tensor:
        """The flow; the denoiser takes time that ends with 1, and predicts the flow from noise to image."""
        texts = [row[:n] for row, n in zip(text["states"].to(noisy), lengths(text["mask"]), strict=True)]
        images = self.denoiser(list(noisy.unsqueeze(2)), 1 - timesteps / 1000, texts).sample
        return -torch.stack(images).squeeze(2)

"""Image encoders: pictures to the embeddings that adapters take."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

from a4a.errors import InputError, first_line
from a4a.images import to_pil
from a4a.places import model_place


def clip_processor(name: str, folder: dict[str, Any], side: Any) -> CLIPImageProcessorPil:
    """The preprocessing of a model that lies there; published adapters ship the model without one: CLIP's own at the model's size."""
    try:
        return CLIPImageProcessorPil.from_pretrained(name, **folder)
    except OSError:
        return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


class CLIPImageEncoder:
    """A frozen CLIP vision tower and its preprocessing; pictures to projected embeddings [batch, embed]."""

    def __init__(self, model: CLIPVisionModelWithProjection, processor: CLIPImageProcessorPil):
        self.model = model.eval().requires_grad_(False)
        self.processor = processor

    @classmethod
    def load(cls, path: str | Path, dtype: torch.dtype = torch.float32) -> "CLIPImageEncoder":
        """From a folder or a hub name (`h94/IP-Adapter` keeps ViT-H under `models/image_encoder`: `owner/repo/folder`)."""
        name, folder = model_place(path, "image encoder")
        try:
            model = CLIPVisionModelWithProjection.from_pretrained(name, **folder, dtype=dtype)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} could not be loaded as a CLIP vision model ({first_line(error)}).") from error
        return cls(model, clip_processor(name, folder, model.config.image_size))

    @property
    def embed(self) -> int:
        return self.model.config.projection_dim

    @torch.no_grad()
    def __call__(self, pictures: Tensor | Sequence[Image.Image]) -> Tensor:
        """Pictures as [batch, 3, height, width] in [0, 1], or as PIL images."""
        if isinstance(pictures, Tensor) and pictures.shape[-2:] == (self.processor.crop_size["height"], self.processor.crop_size["width"]):
            mean, std = (pictures.new_tensor(v)[:, None, None] for v in (self.processor.image_mean, self.processor.image_std))
            pixels = ((pictures * 255).round() / 255 - mean) / std  # what the processor does with pictures that fit
        else:
            images = to_pil(pictures) if isinstance(pictures, Tensor) else [p.convert("RGB") for p in pictures]
            pixels = self.processor(images, return_tensors="pt").pixel_values
        return self.model(pixels.to(self.model.device, self.model.dtype)).image_embeds

    def check(self, embed: int, what: str) -> None:
        """Raises InputError where an adapter expects embeddings of another width."""
        check_width(self.embed, embed, what)


def check_width(given: int, embed: int, what: str) -> None:
    """Raises InputError where embeddings of width `given` reach an adapter, called `what`, that takes `embed`."""
    if embed != given:
        raise InputError(
            f"{what} takes image embeddings of width {embed} but this image encoder gives {given}; "
            f"give the encoder that the adapter was trained with (1024: CLIP ViT-H/14, 1280: CLIP ViT-bigG/14)."
        )

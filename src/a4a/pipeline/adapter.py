"""An adapter with its image encoder: from references to image embeddings and to features."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from a4a.adapters.base import ImagePromptAdapter
from a4a.adapters.multi_source import choose_source
from a4a.encoders import CLIPImageEncoder, ImageEncoder
from a4a.errors import InputError
from a4a.features import SiteFeatures

Encoders = ImageEncoder | str | Path | None | Mapping[str, ImageEncoder | str | Path | None]

DEFAULT = "default"
"""Name of an adapter that is given without one."""


class EncodedAdapter:
    """An adapter and its image encoder, which is None where the adapter names none.

    Raises InputError where the encoder gives embeddings of another width.
    """

    def __init__(self, adapter: ImagePromptAdapter, image_encoder: ImageEncoder | str | Path | None = None):
        self.adapter = choose_source(adapter).eval()
        name = self.adapter.image_encoder_path if image_encoder is None else image_encoder
        encoder = CLIPImageEncoder.from_pretrained(name) if isinstance(name, str | Path) else name
        self.image_encoder = encoder.with_output(self.adapter.encoder_output) if encoder is not None else None
        if self.image_encoder is not None:
            self.image_encoder.check(self.adapter.image_embed_dim, type(self.adapter).__name__)

    def to(self, **target: Any) -> None:
        self.adapter.to(**target)
        if self.image_encoder is not None:
            self.image_encoder.to(**target)

    def check_saveable(self) -> None:
        """InputError where the image encoder has no name that could be saved."""
        if self.image_encoder is not None and self.image_encoder.path is None:
            raise InputError("The image encoder was made in memory; save it, and give the pipeline its folder.")

    def save(self, folder: Path) -> None:
        """Save the adapter with the name of its image encoder."""
        self.check_saveable()
        if self.image_encoder is not None and self.image_encoder.path is not None:
            self.adapter.set_image_encoder(self.image_encoder.path)
        self.adapter.save_pretrained(folder)

    def encode(self, images: Sequence[Image.Image], device: torch.device) -> Tensor:
        """Image embeddings, a row for each image: [images, image_embed_dim] or [images, encoder tokens, ...]."""
        if self.image_encoder is None:
            raise InputError(
                f"The adapter does not say where its image encoder is ({self.adapter.image_encoder or 'none named'}); "
                f"give the pipeline image_encoder=, a CLIP vision model with embeddings of width "
                f"{self.adapter.image_embed_dim}, or the call image_prompt_embeds=."
            )
        return self.image_encoder.to(device)(images)

    def check(self, embeds: object) -> Tensor:
        """Embeddings that were given; InputError where they have another shape."""
        pooled = self.adapter.encoder_output == "pooled"
        tokens = "" if pooled else "encoder tokens, "
        expected = f"expected a tensor [references, {tokens}{self.adapter.image_embed_dim}]"
        if not isinstance(embeds, Tensor):
            raise InputError(f"image_prompt_embeds is of type {type(embeds).__name__}; {expected}.")
        if embeds.ndim != (2 if pooled else 3) or embeds.shape[-1] != self.adapter.image_embed_dim:
            raise InputError(f"image_prompt_embeds has shape {list(embeds.shape)}; {expected}.")
        return embeds

    @torch.no_grad()
    def features(self, embeds: Tensor, device: Any) -> tuple[SiteFeatures, SiteFeatures]:
        """Features of each row of embeddings, and one row of "no image". They hold for every step, prompt and seed."""
        self.adapter.to(device)  # only now, since the wrapped pipeline may have moved
        embeds = embeds.to(device, self.adapter.dtype)
        no_image = self.image_encoder.to(device).unconditional() if self.image_encoder is not None else None
        return self.adapter(embeds), self.adapter(self.adapter.unconditional(embeds[:1], no_image))


Adapters = ImagePromptAdapter | Mapping[str, ImagePromptAdapter | EncodedAdapter]


def encoded_adapters(adapter: Adapters, image_encoder: Encoders) -> dict[str, EncodedAdapter]:
    """The adapters of a pipeline by their names, in order; InputError where encoders are given for others."""
    adapters = adapter if isinstance(adapter, Mapping) else {DEFAULT: adapter}
    if not adapters:
        raise InputError("adapter is an empty mapping; give at least one adapter.")
    encoders = image_encoder if isinstance(image_encoder, Mapping) else dict.fromkeys(adapters, image_encoder)
    if unknown := encoders.keys() - adapters.keys():
        raise InputError(f"image_encoder is for {min(unknown)!r}; the adapters are {', '.join(adapters)}.")
    return {
        name: one if isinstance(one, EncodedAdapter) else EncodedAdapter(one, encoders.get(name))
        for name, one in adapters.items()
    }

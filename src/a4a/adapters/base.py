"""What every image-prompt adapter is: image embeddings in, features for its sites out."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from jaxtyping import Float
from torch import Tensor, nn

from a4a.features import Site, SiteFeatures


class ImagePromptAdapter(ModelMixin, ConfigMixin):
    """An adapter, saved and loaded as any diffusers model.

    `sites` are the cross-attention layers that it makes features for, `tokens` the image tokens N at each, `image_embed_dim` the
    width of the image embeddings that it takes and `image_encoder` the name or folder of the encoder that gives them.
    """

    sites: tuple[Site, ...]
    tokens: int
    image_embed_dim: int
    image_encoder: str

    @abstractmethod
    def forward(self, embeds: Float[Tensor, "batch image_embed_dim"]) -> SiteFeatures:
        """Features of one reference per row."""

    def unconditional(self, embeds: Float[Tensor, "batch image_embed_dim"]) -> Float[Tensor, "batch image_embed_dim"]:
        """The embeddings that stand for "no image"; zeros, as the base family of IP-Adapter was trained."""
        return torch.zeros_like(embeds)

    @abstractmethod
    def set_image_encoder(self, name: str) -> None:
        """Records which image encoder the adapter needs; published files do not say."""

    @property
    def image_encoder_path(self) -> str | None:
        """Where the image encoder is; None where no more than its kind is known, as of published files."""
        kind_alone = not self.image_encoder or self.image_encoder.startswith(("CLIP ", "an image encoder"))
        return None if kind_alone else self.image_encoder

    def save_pretrained(self, save_directory: str | Path, is_main_process: bool = True, **options: Any) -> None:
        """As diffusers does, and a model card where the folder has none."""
        from a4a.adapters.model_card import card  # which is about adapters

        super().save_pretrained(save_directory, is_main_process, **options)
        place = Path(save_directory) / "README.md"
        if is_main_process and not place.exists():
            card(self, {}).save(place)

    @abstractmethod
    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by the kind of learning rate they take: `projection`, `mapping`, `adapter`."""


def sites_to_config(sites: Sequence[Site]) -> list[list[Any]]:
    return [[s.name, s.width, s.depth] for s in sites]


def sites_from_config(rows: Sequence[Sequence[Any]]) -> tuple[Site, ...]:
    return tuple(Site(name, width, depth) for name, width, depth in rows)

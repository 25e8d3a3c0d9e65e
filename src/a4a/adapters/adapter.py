"""What every image-prompt adapter is: image embeddings in, features for its sites out."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from jaxtyping import Float
from torch import Tensor, nn

from a4a.features import Site, SiteFeatures


class ImagePromptAdapter(ModelMixin, ConfigMixin):
    """An adapter, saved and loaded as any diffusers model.

    `sites` are the cross-attention layers that it makes features for, `tokens` the image tokens N at each, `embed` the
    width of the image embeddings that it takes and `image_encoder` the name or folder of the encoder that gives them.
    """

    sites: tuple[Site, ...]
    tokens: int
    embed: int
    image_encoder: str

    @abstractmethod
    def forward(self, embeds: Float[Tensor, "batch embed"]) -> SiteFeatures:
        """Features of one reference per row."""

    def unconditional(self, embeds: Float[Tensor, "batch embed"]) -> Float[Tensor, "batch embed"]:
        """The embeddings that stand for "no image"; zeros, as the base family of IP-Adapter was trained."""
        return torch.zeros_like(embeds)

    @abstractmethod
    def name_image_encoder(self, name: str) -> None:
        """Records which image encoder the adapter needs; published files do not say."""

    @abstractmethod
    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by the kind of learning rate they take: `projection`, `mapping`, `adapter`."""


def sites_to_config(sites: Sequence[Site]) -> list[list[Any]]:
    return [[s.name, s.width, s.depth] for s in sites]


def sites_from_config(rows: Sequence[Sequence[Any]]) -> tuple[Site, ...]:
    return tuple(Site(name, width, depth) for name, width, depth in rows)

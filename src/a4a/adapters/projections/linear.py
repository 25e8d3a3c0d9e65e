"""The base family of IP-Adapter (base, light, SDXL): one linear layer from the pooled embedding to N tokens (eq. 4)."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from a4a.adapters.projections.base import ImageProjection


class LinearProjection(ImageProjection):
    """`c = LN(W y)`: an image embedding `y` to N tokens of the text width."""

    family = "base"
    signature = frozenset({"proj.weight", "norm.weight"})
    encoder_output = "pooled"

    def __init__(self, image_embed_dim: int, text_width: int, tokens: int = 4):
        super().__init__(image_embed_dim, text_width, tokens)
        self.proj = nn.Linear(image_embed_dim, tokens * text_width)
        self.norm = nn.LayerNorm(text_width)

    def forward(self, embeds: Float[Tensor, "batch image_embed_dim"]) -> Float[Tensor, "batch tokens text_width"]:
        return self.norm(self.proj(embeds).unflatten(-1, (self.tokens, -1)))

    @classmethod
    def options(cls, tensors: Mapping[str, Tensor], text_width: int) -> dict[str, Any]:
        rows, image_embed_dim = tensors["proj.weight"].shape
        return {"image_embed_dim": image_embed_dim, "text_width": text_width, "tokens": rows // text_width}

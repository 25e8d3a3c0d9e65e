"""IP-Adapter Plus and Plus-Face: a resampler, learned latents that attend to an image encoder's tokens (eq. 4).

The architecture is the perceiver resampler of Flamingo (Alayrac et al. 2022, sec. 3.1.1) as IP-Adapter Plus trains it;
parameters have the names that its published checkpoints have.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from a4a.adapters.projections.base import ImageProjection
from a4a.errors import InputError

HEAD_WIDTH = 64
"""Width of an attention head in every published checkpoint; a file tells only the width of all heads together."""
MAX_DEPTH = 100
"""Published ones have 4 layers; a damaged configuration must not build millions."""


class Resampler(ImageProjection):
    """`tokens` learned latents, refined by layers of attention to [image tokens, latents] and feed-forward networks.

    Args:
        image_embed_dim: width of the image encoder's tokens, CLIP's hidden states before its last layer.
        text_width: width of the condition tokens.
        tokens: N, latents.
        width: of the latents.
        heads: attention heads, each 64 wide.
        depth: layers.
    """

    family = "plus"
    signature = frozenset({"latents", "proj_in.weight", "proj_out.weight", "norm_out.weight"})
    encoder_output = "tokens"

    def __init__(
        self,
        image_embed_dim: int,
        text_width: int,
        tokens: int = 16,
        width: int | None = None,
        heads: int = 12,
        depth: int = 4,
    ):
        super().__init__(image_embed_dim, text_width, tokens)
        if not 0 <= depth <= MAX_DEPTH:
            raise InputError(f"The resampler has {depth} layers; give a number from 0 to {MAX_DEPTH}.")
        if type(heads) is not int or heads < 1:
            raise InputError(f"The resampler has {heads} heads; give a number of at least 1.")
        width = width or text_width
        self.latents = nn.Parameter(torch.randn(1, tokens, width) / width**0.5)
        self.proj_in = nn.Linear(image_embed_dim, width)
        self.layers = nn.ModuleList(
            nn.ModuleList([_Attention(width, heads), _feed_forward(width)]) for _ in range(depth)
        )
        self.proj_out = nn.Linear(width, text_width)
        self.norm_out = nn.LayerNorm(text_width)

    def forward(
        self, embeds: Float[Tensor, "batch encoder_tokens image_embed_dim"]
    ) -> Float[Tensor, "batch tokens text_width"]:
        image = self.proj_in(embeds)
        latents = self.latents.expand(len(embeds), -1, -1)
        for layer in self.layers:
            attention, feed_forward = layer.children()
            latents = latents + attention(image, latents)
            latents = latents + feed_forward(latents)
        return self.norm_out(self.proj_out(latents))

    @classmethod
    def matches(cls, tensors: Mapping[str, Tensor]) -> bool:
        """Not the portrait model with the same keys, which takes ArcFace's embedding (512) instead of tokens."""
        return super().matches(tensors) and tensors["proj_in.weight"].shape[-1:] != (512,)

    @classmethod
    def options(cls, tensors: Mapping[str, Tensor], text_width: int) -> dict[str, Any]:
        _, tokens, width = tensors["latents"].shape
        queries = {name: t for name, t in tensors.items() if name.endswith(".0.to_q.weight")}
        return {
            "image_embed_dim": tensors["proj_in.weight"].shape[1],
            "text_width": text_width,
            "tokens": tokens,
            "width": width,
            "heads": queries["layers.0.0.to_q.weight"].shape[0] // HEAD_WIDTH,
            "depth": len(queries),
        }


class _Attention(nn.Module):
    """Latents attend to the image tokens and to each other."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, heads * HEAD_WIDTH, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * HEAD_WIDTH, bias=False)
        self.to_out = nn.Linear(heads * HEAD_WIDTH, width, bias=False)

    def forward(
        self, image: Float[Tensor, "batch encoder_tokens width"], latents: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch tokens width"]:
        latents = self.norm2(latents)
        context = torch.cat([self.norm1(image), latents], dim=1)
        projected = self.to_q(latents), *self.to_kv(context).chunk(2, dim=-1)
        query, key, value = (t.unflatten(-1, (self.heads, HEAD_WIDTH)).transpose(1, 2) for t in projected)
        return self.to_out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2))


def _feed_forward(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, 4 * width, bias=False),
        nn.GELU(),
        nn.Linear(4 * width, width, bias=False),
    )

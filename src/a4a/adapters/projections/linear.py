"""The base family: one linear layer from the pooled image embedding to N tokens (eq. 4)."""

from jaxtyping import Float
from torch import Tensor, nn


class ImageProjection(nn.Module):
    """The condition encoder E of eq. 4: an image embedding to N tokens of the text width, `c = LN(W y)`."""

    def __init__(self, image_embed_dim: int, tokens: int, text_width: int):
        super().__init__()
        self.tokens = tokens
        self.proj = nn.Linear(image_embed_dim, tokens * text_width)
        self.norm = nn.LayerNorm(text_width)

    def forward(self, embeds: Float[Tensor, "batch image_embed_dim"]) -> Float[Tensor, "batch tokens text"]:
        return self.norm(self.proj(embeds).unflatten(-1, (self.tokens, -1)))

"""The base family: one linear layer from the pooled image embedding to N tokens (eq. 4)."""

from jaxtyping import Float
from torch import Tensor, nn


class ImageProjection(nn.Module):
    """The condition encoder E of eq. 4: an image embedding to N tokens of the text width, `c = LN(W y)`."""

    def __init__(self, embed: int, tokens: int, text_width: int):
        super().__init__()
        self.tokens = tokens
        self.proj = nn.Linear(embed, tokens * text_width)
        self.norm = nn.LayerNorm(text_width)

    def forward(self, embeds: Float[Tensor, "batch embed"]) -> Float[Tensor, "batch tokens text"]:
        return self.norm(self.proj(embeds).unflatten(-1, (self.tokens, -1)))

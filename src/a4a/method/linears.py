"""Linear layers between spaces whose sites have different widths."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

Sharing = Literal["width", "site"]
"""One linear layer per distinct width (the paper's "several linear layers"), or one per site."""


class SiteLinears(nn.Module):
    """A linear layer for every site; `index[i]` is the number of the layer that serves site i."""

    def __init__(self, ins: Sequence[int], outs: Sequence[int], sharing: Sharing):
        super().__init__()
        pairs = list(zip(ins, outs, strict=True))
        distinct = list(dict.fromkeys(pairs))
        self.index = [distinct.index(p) for p in pairs] if sharing == "width" else list(range(len(pairs)))
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in (distinct if sharing == "width" else pairs))

    def forward(self, sites: Sequence[Tensor]) -> list[Tensor]:
        return [self.layers[i](x) for i, x in zip(self.index, sites, strict=True)]

    def each(self) -> list[nn.Linear]:
        """The layers, in order."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

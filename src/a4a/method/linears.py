"""Linear layers between spaces whose sites have different widths."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Sharing = Literal["width", "site"]
"""One linear layer per distinct width (the paper's "several linear layers"), or one per site."""


class LowRankLinear(nn.Module):
    """A linear layer whose weight is a product `up down` of rank r, with a bias.

    At the start `down` takes r orthogonal directions of its input as they are, and `up` is what any linear layer of r
    inputs is, so that outputs are as large as those of a full layer. **Ours**, not the paper's.
    """

    def __init__(self, ins: int, outs: int, rank: int):
        super().__init__()
        self.down, self.up = nn.Linear(ins, rank, bias=False), nn.Linear(rank, outs)
        nn.init.orthogonal_(self.down.weight)

    def forward(self, x: Float[Tensor, "*batch ins"]) -> Float[Tensor, "*batch outs"]:
        return self.up(self.down(x))

    @torch.no_grad()
    def approximate(self, layer: nn.Linear) -> None:
        """Become the nearest layer of this rank: its largest singular values, a root of each in either factor."""
        left, values, right = torch.linalg.svd(layer.weight.float(), full_matrices=False)
        rank = self.down.out_features
        roots = values[:rank].sqrt()
        self.up.weight.copy_(left[:, :rank] * roots)
        self.down.weight.copy_(roots[:, None] * right[:rank])
        self.up.bias.zero_()
        if layer.bias is not None:
            self.up.bias.copy_(layer.bias)


def linear(ins: int, outs: int, rank: int | None = None) -> nn.Linear | LowRankLinear:
    """A linear layer, of at most this rank where that takes fewer parameters than the full one."""
    if rank is None or rank * (ins + outs) >= ins * outs:
        return nn.Linear(ins, outs)
    return LowRankLinear(ins, outs, rank)


class SiteLinears(nn.Module):
    """A linear layer for every site; `index[i]` is the number of the layer that serves site i."""

    def __init__(self, ins: Sequence[int], outs: Sequence[int], sharing: Sharing, rank: int | None = None):
        super().__init__()
        pairs = list(zip(ins, outs, strict=True))
        distinct = list(dict.fromkeys(pairs))
        self.index = [distinct.index(p) for p in pairs] if sharing == "width" else list(range(len(pairs)))
        self.layers = nn.ModuleList(linear(a, b, rank) for a, b in (distinct if sharing == "width" else pairs))

    def forward(self, sites: Sequence[Tensor]) -> list[Tensor]:
        return [self.layers[i](x) for i, x in zip(self.index, sites, strict=True)]

    def each(self) -> list[nn.Linear]:
        """The layers of full rank, in order."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

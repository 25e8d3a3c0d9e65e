"""Alignment (sec. 3.3, eq. 11, 12): rows of the upgraded space, at the widths of the upgraded model's sites."""

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from a4a.errors import InputError
from a4a.method.linears import LowRankLinear, Sharing, SiteLinears


class Alignment(nn.Module):
    """`[k^_1, ..., k^_l^] = Align(K^)`: row i from d_scm to the width of site i.

    With `text_width` all rows first pass one shared layer, to the width of the upgraded model's text states. With
    `rank`, layers have at most this rank where that takes fewer parameters.
    """

    def __init__(
        self,
        d_scm: int,
        widths: Sequence[int],
        sharing: Sharing,
        text_width: int | None = None,
        rank: int | None = None,
    ):
        super().__init__()
        if rank is not None and (type(rank) is not int or rank < 1):
            raise InputError(f"The alignment has rank {rank}; give a number of at least 1, or none for full layers.")
        self.text = nn.Linear(d_scm, text_width) if text_width is not None else nn.Identity()
        self.linears = SiteLinears([text_width or d_scm] * len(widths), widths, sharing, rank)

    def forward(self, mapped: Float[Tensor, "batch sites tokens d_scm"]) -> list[Tensor]:
        return self.linears(self.text(mapped).unbind(1))

    def parameters_not_behind(self, sites: Collection[int]) -> list[nn.Parameter]:
        """Parameters that the features of these sites do not depend on."""
        used = {self.linears.index[i] for i in sites}
        return [p for i, layer in enumerate(self.linears.layers) if i not in used for p in layer.parameters()]

    @torch.no_grad()
    def init_from_text(self, projections: Sequence[nn.Linear], vocabulary: Float[Tensor, "text d_scm"]) -> None:
        """The shared layer becomes `vocabulary`, each site's layer the site's own text projection, or the nearest one of
        its rank.

        To the model, an untrained image token then looks like a text token, the same one at every site. In training all
        sites move the shared layer together. Needs `text_width` and a layer per site. Ours, and
        an ablation: a random start learns faster (`recipes/miniature/ablation-start.yaml`).
        """
        if not isinstance(self.text, nn.Linear):
            raise ValueError("Alignment starts from text projections only where it was made with text_width.")
        self.text.weight.copy_(vocabulary)
        self.text.bias.zero_()
        for layer, projection in zip(self.linears.layers, projections, strict=True):
            if isinstance(layer, LowRankLinear):
                layer.approximate(projection)
            elif isinstance(layer, nn.Linear):
                layer.weight.copy_(projection.weight)
                layer.bias.zero_()
                if projection.bias is not None:
                    layer.bias.copy_(projection.bias)

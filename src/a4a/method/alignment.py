"""Alignment (sec. 3.3, eq. 11, 12): rows of the upgraded space, at the widths of the upgraded model's sites."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from a4a.method.linears import Sharing, SiteLinears


class Alignment(nn.Module):
    """`[k^_1, ..., k^_l^] = Align(K^)`: row i from d_scm to the width of site i.

    With `text_width` all rows pass one more layer first, the same for all, to the width of the upgraded model's text states.
    """

    def __init__(self, d_scm: int, widths: Sequence[int], sharing: Sharing, text_width: int | None = None):
        super().__init__()
        self.text = nn.Linear(d_scm, text_width) if text_width is not None else nn.Identity()
        self.linears = SiteLinears([text_width or d_scm] * len(widths), widths, sharing)

    def forward(self, mapped: Float[Tensor, "batch sites tokens d_scm"]) -> list[Tensor]:
        return self.linears(self.text(mapped).unbind(1))

    @torch.no_grad()
    def init_from_text(self, projections: Sequence[nn.Linear], vocabulary: Float[Tensor, "text d_scm"]) -> None:
        """The layer for all becomes `vocabulary`, each site's layer the site's own text projection.

        An untrained image token then looks to the model like a text token, and like the same one at every site; what
        token it is to be, all sites teach the one layer together. Needs `text_width` and a layer per site. Ours, and an
        ablation: a random start learns faster (`recipes/miniature/ablation-start.yaml`).
        """
        self.text.weight.copy_(vocabulary)  # pyright: ignore[reportArgumentType, reportCallIssue]
        self.text.bias.zero_()  # pyright: ignore[reportCallIssue]
        for layer, text in zip(self.linears.layers, projections, strict=True):
            layer.weight.copy_(text.weight)  # pyright: ignore[reportArgumentType, reportCallIssue]
            layer.bias.copy_(text.bias) if text.bias is not None else layer.bias.zero_()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]

"""Alignment (sec. 3.3, eq. 11, 12): rows of the upgraded space, at the widths of the upgraded model's sites."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from a4a.method.linears import Sharing, SiteLinears


class Alignment(nn.Module):
    """`[k^_1, ..., k^_l^] = Align(K^)`: row i from d_scm to the width of site i."""

    def __init__(self, d_scm: int, widths: Sequence[int], sharing: Sharing):
        super().__init__()
        self.linears = SiteLinears([d_scm] * len(widths), widths, sharing)

    def forward(self, mapped: Float[Tensor, "batch sites tokens d_scm"]) -> list[Tensor]:
        return self.linears(mapped.unbind(1))

    @torch.no_grad()
    def start_as_text(self, projections: Sequence[nn.Linear], vocabulary: Float[Tensor, "text d_scm"]) -> None:
        """Each site's layer becomes the site's own text projection after one map, the same for all, to the text space.

        An untrained image token then looks to the model like a text token, and like the same one at every site. Needs
        a layer per site. **Ours**, not the paper's.
        """
        for layer, text in zip(self.linears.layers, projections, strict=True):
            layer.weight.copy_(text.weight.to(vocabulary) @ vocabulary)  # pyright: ignore[reportArgumentType, reportCallIssue, reportAttributeAccessIssue]
            layer.bias.copy_(text.bias) if text.bias is not None else layer.bias.zero_()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]

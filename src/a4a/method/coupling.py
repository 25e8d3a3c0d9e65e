"""Coupling Space Projection (sec. 3.2, eq. 7, 8): features of all base sites, in one space."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn

from a4a.method.linears import Sharing, SiteLinears


def unrounded(device: torch.device) -> AbstractContextManager:
    """Leaves autocast, which rounds to 16 bits (on the meta device there is none)."""
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()


class CouplingSpaceProjection(nn.Module):
    """Base features of widths d_1 .. d_l, each to width d_scm, stacked: `K = Proj([k_1, ..., k_l])`.

    Never in autocast: begun as a pseudo-inverse, it multiplies what is rounded by the condition number of the source's layers.
    """

    def __init__(self, widths: Sequence[int], d_scm: int, sharing: Sharing):
        super().__init__()
        self.linears = SiteLinears(widths, [d_scm] * len(widths), sharing)

    def forward(self, sites: Sequence[Float[Tensor, "batch tokens _"]]) -> Float[Tensor, "batch sites tokens d_scm"]:
        with unrounded(sites[0].device):
            return torch.stack(self.linears(sites), dim=1)

    @torch.no_grad()
    def init_from_source(
        self, makers: Sequence[nn.Linear], space: Float[Tensor, "d_scm text"], mean: Float[Tensor, " text"]
    ) -> None:
        """Each site's layer undoes what made its features of the condition, `k_i = W_i c`, as far as can be: `space (c - mean)`.

        All base sites then say the same in the coupling space, and mixing them loses nothing. Needs a layer per site.
        **Ours**, not the paper's.
        """
        for layer, maker in zip(self.linears.layers, makers, strict=True):
            layer.weight.copy_(space @ torch.linalg.pinv(maker.weight))  # pyright: ignore[reportArgumentType, reportCallIssue]
            layer.bias.copy_(-layer.weight @ (maker.weight @ mean))  # pyright: ignore[reportCallIssue, reportArgumentType, reportOperatorIssue]

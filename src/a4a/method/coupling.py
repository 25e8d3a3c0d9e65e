"""Coupling Space Projection (sec. 3.2, eq. 7, 8): features of all base sites, in one space."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn

from a4a.method.linears import Sharing, SiteLinears


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Compute in the tensors' own precision, not in autocast's 16 bits (the meta device has no autocast)."""
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()


class CouplingSpaceProjection(nn.Module):
    """Base features of widths d_1 .. d_l, each to width d_scm, stacked: `K = Proj([k_1, ..., k_l])`.

    Never in autocast: where it starts as a pseudo-inverse, it multiplies rounding errors by the condition number of
    the source's layers.
    """

    def __init__(self, widths: Sequence[int], d_scm: int, sharing: Sharing):
        super().__init__()
        self.linears = SiteLinears(widths, [d_scm] * len(widths), sharing)

    def forward(self, sites: Sequence[Float[Tensor, "batch tokens _"]]) -> Float[Tensor, "batch sites tokens d_scm"]:
        with without_autocast(sites[0].device):
            return torch.stack(self.linears(sites), dim=1)

    @torch.no_grad()
    def init_from_source(
        self, layers: Sequence[nn.Linear], space: Float[Tensor, "d_scm text"], mean: Float[Tensor, " text"]
    ) -> None:
        """Each site's layer inverts, as far as it can, the source's `k_i = W_i c` and gives `space (c - mean)`.

        All base sites then carry the same content in the coupling space, and mixing them loses nothing. Needs a layer
        per site. **Ours**, not the paper's.

        Args:
            layers: the source's layers `W_i`, one for each site.
            space: from the condition to the coupling space.
            mean: of the condition.
        """
        for projection, layer in zip(self.linears.each(), layers, strict=True):
            projection.weight.copy_(space @ torch.linalg.pinv(layer.weight))
            projection.bias.copy_(-projection.weight @ (layer.weight @ mean))

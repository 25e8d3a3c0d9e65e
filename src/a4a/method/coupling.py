"""Coupling Space Projection (sec. 3.2, eq. 7, 8): features of all base sites, in one space."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from threading import RLock

import torch
from jaxtyping import Float
from torch import Tensor, nn

from a4a.method.linears import Sharing, SiteLinears

_PRECISION = RLock()
"""Held while PyTorch's precision of matrix products, which is that of the whole process, differs from the user's."""
REDUCED = ("tf32", "bf16")
"""Precisions in which PyTorch may multiply float32 matrices, by the names of `fp32_precision`."""


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in the tensors' own precision: neither in autocast's 16 bits nor in TF32, whatever the process has set.

    (The meta device has no autocast.)
    """
    autocast = torch.amp.is_autocast_available(device.type)
    with _PRECISION, torch.autocast(device.type, enabled=False) if autocast else nullcontext():
        backends = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]  # pyright: ignore[reportAttributeAccessIssue]
        before = [backend.fp32_precision for backend in backends]
        reduced = [(backend, value) for backend, value in zip(backends, before, strict=True) if value in REDUCED]
        try:
            for backend, _ in reduced:
                backend.fp32_precision = "ieee"
            yield
        finally:
            for backend, value in reduced:
                backend.fp32_precision = value


class CouplingSpaceProjection(nn.Module):
    """Base features of widths d_1 .. d_l, each to width d_scm, stacked: `K = Proj([k_1, ..., k_l])`.

    Always in full precision: where it starts as a pseudo-inverse, it multiplies rounding errors by the condition number
    of the source's layers.
    """

    def __init__(self, widths: Sequence[int], d_scm: int, sharing: Sharing):
        super().__init__()
        self.linears = SiteLinears(widths, [d_scm] * len(widths), sharing)

    def forward(self, sites: Sequence[Float[Tensor, "batch tokens _"]]) -> Float[Tensor, "batch sites tokens d_scm"]:
        with full_precision(sites[0].device):
            return torch.stack(self.linears(sites), dim=1)

    @torch.no_grad()
    def init_from_source(
        self,
        layers: Sequence[nn.Linear],
        space: Float[Tensor, "d_scm text"],
        mean: Float[Tensor, " text"],
        rtol: float | None = None,
    ) -> None:
        """Each site's layer inverts the source's `k_i = W_i c`: it gives `space P_i (c - mean)`.

        `P_i` projects on the directions of `c` that `W_i` passes on: all where the site is at least as wide as `c`, else
        as many as it is wide (320 or 640 of 768 at SD1.5's outer sites). Wide sites then carry the same content in the
        coupling space, narrow ones a part of it at the same place, and mixing them adds like to like. Needs a layer per
        site. **Ours**, not the paper's.

        Args:
            layers: the source's layers `W_i`, one for each site.
            space: from the condition to the coupling space.
            mean: of the condition.
            rtol: singular values of `W_i` below this part of its largest are left out; by default those that float32
                cannot tell from zero.
        """
        for projection, layer in zip(self.linears.each(), layers, strict=True):
            projection.weight.copy_(space @ torch.linalg.pinv(layer.weight, rtol=rtol))
            projection.bias.copy_(-projection.weight @ (layer.weight @ mean))

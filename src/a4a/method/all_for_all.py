"""Figure 1: from features of all base sites to features of all upgraded sites (A4A, CVPR 2025, sec. 3.2, 3.3).

Exactly as in the paper: `residual=False, warm_start=False, sharing="width"`, started at random (`A4A.from_source`
without `text`, no `A4A.init_projection`). Where a default differs, its argument says how and why; docs/method.md has the
figures.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from a4a.features import Site, SiteFeatures
from a4a.method.alignment import Alignment
from a4a.method.coupling import CouplingSpaceProjection
from a4a.method.linears import Sharing
from a4a.method.mapping import Connectivity, UpgradedSpaceMapping


class AllForAll(nn.Module):
    """Keys by one chain of projection, mapping and alignment, values by another of the same structure.

    Args:
        base, upgraded: sites of the base and of the upgraded model.
        tokens: N.
        d_scm: width of the coupling space; the least common multiple of the base widths where None.
        rounds: R, repetitions of eq. 9.
        inner: d_im; d_scm where None.
        heads: of the mapping's attention.
        residual: around attention and FFN of a round. The paper's equations have none; without, a round forgets what
            it does not attend to.
        sharing: linear layers of projection and alignment per distinct "width" (the paper) or per "site".
        warm_start: latents start as a depth-matched mixture of the base features (see `UpgradedSpaceMapping`).
        text_width: of the upgraded model's text states, through which alignment then goes (see `Alignment`).
        alignment_rank: of each linear layer of the alignment, where that takes fewer parameters than a full one (see
            `LowRankLinear`); full where None.
        connectivity: base sites that an upgraded site sees: "all_to_all" (the paper), or "layer_by_layer" only the one
            nearest in depth, as an ablation.
    """

    def __init__(
        self,
        base: Sequence[Site],
        upgraded: Sequence[Site],
        tokens: int,
        *,
        d_scm: int | None = None,
        rounds: int = 2,
        inner: int | None = None,
        heads: int = 8,
        residual: bool = True,
        sharing: Sharing = "site",
        warm_start: bool = True,
        connectivity: Connectivity = "all_to_all",
        text_width: int | None = None,
        alignment_rank: int | None = None,
    ):
        super().__init__()
        widths = [s.width for s in base]
        self.d_scm = d_scm = d_scm or math.lcm(*widths)

        def chain() -> nn.ModuleList:
            return nn.ModuleList(
                [
                    CouplingSpaceProjection(widths, d_scm, sharing),
                    UpgradedSpaceMapping(
                        [s.depth for s in base],
                        [s.depth for s in upgraded],
                        tokens,
                        d_scm,
                        rounds,
                        inner or d_scm,
                        heads,
                        residual,
                        warm_start,
                        connectivity,
                    ),
                    Alignment(d_scm, [s.width for s in upgraded], sharing, text_width, alignment_rank),
                ]
            )

        self.keys, self.values = chain(), chain()

    def forward(self, features: SiteFeatures) -> SiteFeatures:
        project_k, map_k, align_k = self.keys
        project_v, map_v, align_v = self.values
        keys = align_k(map_k(project_k(features.keys)))
        values = align_v(map_v(project_v(features.values)))
        return SiteFeatures(tuple(keys), tuple(values))

    def init_alignment(self, text: tuple[Sequence[nn.Linear], Sequence[nn.Linear]]) -> None:
        """Start alignment from the upgraded model's own text projections, for keys and for values."""
        vocabulary = torch.randn(text[0][0].in_features, self.d_scm) / self.d_scm**0.5
        for alignment, projections in zip(self.alignments, text, strict=True):
            alignment.init_from_text(projections, vocabulary)

    def share(self, other: "AllForAll") -> None:
        """Use the mapping and the alignment of another one of the same sizes, and keep the own projection."""
        for chain, shared in ((self.keys, other.keys), (self.values, other.values)):
            chain[1], chain[2] = shared[1], shared[2]

    @property
    def projections(self) -> tuple[CouplingSpaceProjection, CouplingSpaceProjection]:
        return cast(CouplingSpaceProjection, self.keys[0]), cast(CouplingSpaceProjection, self.values[0])

    @property
    def mappings(self) -> tuple[nn.Module, nn.Module]:
        return self.keys[1], self.values[1]

    @property
    def alignments(self) -> tuple[Alignment, Alignment]:
        return cast(Alignment, self.keys[2]), cast(Alignment, self.values[2])

"""Figure 1: features of all base sites to features of all upgraded sites (A4A, CVPR 2025, sec. 3.2, 3.3).

The letter of the paper is `residual=False, warm_start=False, sharing="width"`, begun at random (`A4A.from_source` without `text`,
no `A4A.couple`). What the defaults do otherwise, and why, stands beside each argument; the README has figures.
"""

import math
from collections.abc import Sequence

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
        residual: around attention and FFN of a round. The letter has none; without, a round forgets what it does not attend to.
        sharing: linear layers of projection and alignment per distinct "width" (the letter) or per "site".
        warm_start: latents begin as a depth-matched mixture of the base features (see `UpgradedSpaceMapping`).
        text_width: of the upgraded model's text states, by which alignment goes then (see `Alignment`).
        reach: what an upgraded site sees of the base: "all" sites (the paper) or only the "nearest" in depth, as an ablation.
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
    ):
        super().__init__()
        widths = [s.width for s in base]
        d_scm = d_scm or math.lcm(*widths)

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
                    Alignment(d_scm, [s.width for s in upgraded], sharing, text_width),
                ]
            )

        self.keys, self.values = chain(), chain()

    def forward(self, features: SiteFeatures) -> SiteFeatures:
        project_k, map_k, align_k = self.keys
        project_v, map_v, align_v = self.values
        keys = align_k(map_k(project_k(features.keys)))
        values = align_v(map_v(project_v(features.values)))
        return SiteFeatures(tuple(keys), tuple(values))

    @property
    def projections(self) -> tuple[CouplingSpaceProjection, CouplingSpaceProjection]:
        return self.keys[0], self.values[0]  # pyright: ignore[reportReturnType]

    @property
    def mappings(self) -> tuple[nn.Module, nn.Module]:
        return self.keys[1], self.values[1]

    @property
    def alignments(self) -> tuple[Alignment, Alignment]:
        return self.keys[2], self.values[2]  # pyright: ignore[reportReturnType]

"""A4A: an adapter of other sites, and the all-for-all mapping of its features to these."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn

from a4a.adapters.base import ImagePromptAdapter, sites_from_config, sites_to_config
from a4a.adapters.ip_adapter import IPAdapter
from a4a.errors import InputError
from a4a.features import Site, SiteFeatures
from a4a.method import AllForAll
from a4a.method.coupling import unrounded
from a4a.method.linears import Sharing
from a4a.method.mapping import Connectivity


class A4A(ImagePromptAdapter):
    """The transferred adapter: `source` makes features for the base model's sites, `mapping` those of the upgraded model.

    The base model itself is never needed. Saved, the folder holds the source adapter's weights too, since they may have
    been fine-tuned.

    Args:
        base: configuration of the source adapter.
        sites: of the upgraded model.
        d_scm, rounds, inner, heads, residual, sharing, warm_start, reach, text_width: see `AllForAll`.
        coupling: False maps the condition tokens `c` themselves instead of the features that the source makes of them.
        base_sites: use so many of the source's sites, evenly over the depth; all where None.
    """

    @register_to_config
    def __init__(
        self,
        base: dict[str, Any],
        sites: list[list[Any]],
        d_scm: int | None = None,
        rounds: int = 2,
        inner: int | None = None,
        heads: int = 8,
        residual: bool = True,
        sharing: Sharing = "site",
        warm_start: bool = True,
        connectivity: Connectivity = "all_to_all",
        coupling: bool = True,
        base_sites: int | None = None,
        text_width: int | None = None,
    ):
        super().__init__()
        self.source = IPAdapter(**{k: v for k, v in base.items() if not k.startswith("_")})
        self.sites = sites_from_config(sites)
        self.image_embed_dim, self.tokens, self.image_encoder = (
            self.source.image_embed_dim,
            self.source.tokens,
            self.source.image_encoder,
        )
        self.coupling, self.used = coupling, _evenly(self.source.sites, base_sites)
        self.mapping = AllForAll(
            [self.source.sites[i] for i in self.used] if coupling else [Site("condition", self.source.text_width, 0.5)],
            self.sites,
            self.tokens,
            d_scm=d_scm or math.lcm(*(s.width for s in self.source.sites)),
            rounds=rounds,
            inner=inner,
            heads=heads,
            residual=residual,
            sharing=sharing,
            warm_start=warm_start,
            connectivity=connectivity,
            text_width=text_width,
        )

    @classmethod
    def from_source(
        cls,
        source: IPAdapter,
        sites: Sequence[Site],
        text: tuple[Sequence[nn.Linear], Sequence[nn.Linear]] | None = None,
        **options: Any,
    ) -> "A4A":
        """An untrained transfer of `source` to `sites`.

        With `text`, the upgraded model's own key and value projections at the sites, alignment starts from them (needs
        `sharing="site"`); without, it starts at random as in the paper.
        """
        base = {
            name: value for name, value in source.config.items() if not name.startswith("_")
        }  # not the folder it came from
        text_width = text[0][0].in_features if text is not None else None
        adapter = cls(base, sites_to_config(sites), text_width=text_width, **options)
        adapter.source.load_state_dict(source.state_dict())
        if text is not None:
            d_scm = adapter.mapping.alignments[0].text.in_features
            vocabulary = torch.randn(text_width, d_scm) / d_scm**0.5  # pyright: ignore[reportOperatorIssue, reportArgumentType, reportCallIssue]
            for alignment, projections in zip(adapter.mapping.alignments, text, strict=True):
                alignment.init_from_text(projections, vocabulary)
        return adapter

    @torch.no_grad()
    def init_projection(self, embeds: Float[Tensor, "references image_embed_dim"]) -> None:
        """Begin the projection with what a few thousand references say: the condition of each, whitened over them all.

        A trained condition spends most of its variance on a few directions; what else it knows of a reference is then
        faint in the features, and learned last. Whitened, the coupling space begins with every direction as loud as any
        other, and with the same content at every base site. Needs `sharing="site"` and the features of the source
        (`coupling`). **Ours**, not the paper's.
        """
        condition = self.source.image_proj(embeds).flatten(0, 1)
        variance, directions = torch.linalg.eigh(condition.T.cov())
        loud = directions * variance.clamp(min=1e-3 * float(variance[-1])).rsqrt()
        d_scm = self.mapping.projections[0].linears.layers[0].out_features
        turned = nn.init.orthogonal_(torch.empty(int(d_scm), len(variance)), generator=torch.Generator().manual_seed(0))  # pyright: ignore[reportArgumentType]
        space = turned.to(embeds.device) @ loud.T
        for projection, makers in zip(self.mapping.projections, (self.source.to_k, self.source.to_v), strict=True):
            projection.init_from_source([makers[i] for i in self.used], space, condition.mean(0))  # pyright: ignore[reportArgumentType]

    def forward(self, embeds: Float[Tensor, "batch image_embed_dim"]) -> SiteFeatures:
        with unrounded(embeds.device):  # what the projection undoes
            features = self._of_the_source(embeds.to(self.dtype))
        return self.mapping(features)

    def _of_the_source(self, embeds: Float[Tensor, "batch image_embed_dim"]) -> SiteFeatures:
        """What is mapped: the features of the sites that are used, or the condition itself."""
        if not self.coupling:
            condition = self.source.image_proj(embeds)
            return SiteFeatures((condition,), (condition,))
        features = self.source(embeds)
        return SiteFeatures(tuple(features.keys[i] for i in self.used), tuple(features.values[i] for i in self.used))

    def unconditional(self, embeds: Float[Tensor, "batch image_embed_dim"]) -> Float[Tensor, "batch image_embed_dim"]:
        return self.source.unconditional(embeds)

    def set_image_encoder(self, name: str) -> None:
        self.source.set_image_encoder(name)
        self.image_encoder = name
        self.register_to_config(base={**self.config["base"], "image_encoder": name})

    def train_source(self, mode: bool) -> None:
        """Lets what is used of the source be trained too, or keeps all of it frozen."""
        self.source.requires_grad_(False)
        used = [
            maker
            for makers in (self.source.to_k, self.source.to_v)
            for i, maker in enumerate(makers)
            if self.coupling and i in self.used
        ]
        for module in (self.source.image_proj, *used):
            module.requires_grad_(mode)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        mapping = {id(p) for m in self.mapping.mappings for p in m.parameters()}
        return {
            "projection": [p for p in self.mapping.parameters() if id(p) not in mapping],
            "mapping": [p for p in self.mapping.parameters() if id(p) in mapping],
            "adapter": list(self.source.parameters()),
        }


def _evenly(sites: Sequence[Site], count: int | None) -> list[int]:
    """Indices of `count` sites, evenly spaced in the order of execution."""
    order = sorted(range(len(sites)), key=lambda i: sites[i].depth)
    if count is None:
        return list(range(len(sites)))
    if not 1 <= count <= len(sites):
        raise InputError(
            f"base_sites is {count} but the source adapter has {len(sites)} sites; give a number from 1 to {len(sites)}."
        )
    chosen = {order[round((i + 0.5) * len(sites) / count - 0.5)] for i in range(count)}
    return sorted(chosen)

"""A4A: a source adapter, and the all-for-all mapping of its features to the upgraded model's sites."""

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn

from a4a.adapters.base import (
    ImagePromptAdapter,
    Linears,
    adapter_from_config,
    adapter_to_config,
    sites_from_config,
    sites_to_config,
)
from a4a.adapters.whitening import Whitened, whiten
from a4a.errors import InputError
from a4a.features import Site, SiteFeatures
from a4a.method import AllForAll
from a4a.method.coupling import full_precision
from a4a.method.linears import Sharing
from a4a.method.mapping import Connectivity


class A4A(ImagePromptAdapter):
    """The transferred adapter: `source` makes features for the base model's sites, `mapping` the upgraded model's.

    The source may be any adapter, another A4A too. The base model itself is never needed. A saved folder holds the
    source's weights as well, since they may have been fine-tuned.

    Its weights stay in float32 whatever the precision of the pipeline (`to`, `half`, `torch_dtype`): the projection
    inverts the source's layers, and rounded to bfloat16 it makes features wrong by more than half of what tells
    references apart (`benchmarks/projection_start.py`). The features are cast where they are injected.

    Args:
        base: class name and configuration of the source adapter.
        sites: of the upgraded model.
        d_scm, rounds, inner, heads, residual, sharing, warm_start, connectivity, text_width, alignment_rank: see
            `AllForAll`.
        coupling: False maps the condition tokens `c` themselves, instead of the features that the source makes of them.
        base_sites: how many of the source's sites to use, evenly over the depth; by default all.
        tokens: N at the upgraded sites, a multiple of the source's, which then repeats its own as often; by default the
            source's. (Attention over tokens that are all repeated equally often is attention over the tokens.)
    """

    kind = "A4A, a transferred adapter"

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
        alignment_rank: int | None = None,
        tokens: int | None = None,
    ):
        super().__init__()
        self.source = adapter_from_config(base)
        self.sites = sites_from_config(sites)
        self.tokens, self.image_encoder = _multiple(self.source.tokens, tokens), self.source.image_encoder
        self.encoder_output, self.image_embed_dim = self.source.encoder_output, self.source.image_embed_dim
        self.coupling, self.base_site_indices = coupling, _evenly(self.source.sites, base_sites)
        mapped = [self.source.sites[i] for i in self.base_site_indices]
        if not coupling:
            mapped = [Site("condition", self.source.image_projection().text_width, 0.5)]
        self.mapping = AllForAll(
            mapped,
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
            alignment_rank=alignment_rank,
        )

    @classmethod
    def from_source(
        cls,
        source: ImagePromptAdapter,
        sites: Sequence[Site],
        text: tuple[Linears, Linears] | None = None,
        **options: Any,
    ) -> "A4A":
        """An untrained transfer of `source` to `sites`.

        Args:
            source: copied, not shared.
            sites: of the upgraded model.
            text: the upgraded model's own key and value projections at the sites. Alignment then starts from them
                (needs `sharing="site"`); without, it starts at random as in the paper.
            options: the constructor's other arguments.
        """
        text_width = text[0][0].in_features if text is not None else None
        adapter = cls(adapter_to_config(source), sites_to_config(sites), text_width=text_width, **options)
        adapter.source.load_state_dict(source.state_dict())
        if text is not None:
            adapter.mapping.init_alignment(text)
        return adapter

    @torch.no_grad()
    def init_projection(
        self,
        embeds: Float[Tensor, "references ..."],
        rtol: float | None = None,
        like: Whitened | None = None,
    ) -> Whitened:
        """Start the coupling space projection as the condition of each reference, whitened over a few thousand of them.

        A trained condition spends most of its variance on a few directions; whatever else it knows of a reference is
        then faint in the features, and is learned last. Whitened, all directions start with equal variance, and a site
        carries as many of them as it is wide (`CouplingSpaceProjection.init_from_source`, where `rtol` is explained).
        Needs `sharing="site"`, `coupling`, and a source with a condition encoder and linear keys and values. **Ours**,
        not the paper's.

        Args:
            embeds: of the references.
            rtol: see `CouplingSpaceProjection.init_from_source`.
            like: what another source makes of the same references: its directions are followed, so that a reference
                lies at about the same place of the coupling space, whichever source it comes from.

        Returns: the whitened condition.
        """
        whitened = whiten(self.source.image_projection()(embeds), like)
        generator = torch.Generator().manual_seed(0)
        width = whitened.directions.shape[1]
        rotation = nn.init.orthogonal_(torch.empty(self.mapping.d_scm, width), generator=generator)
        space = rotation.to(embeds.device) @ whitened.directions.T
        for projection, layers in zip(self.mapping.projections, self.source.key_value_layers(), strict=True):
            projection.init_from_source([layers[i] for i in self.base_site_indices], space, whitened.mean, rtol)
        return whitened

    def forward(self, embeds: Float[Tensor, "batch ..."]) -> SiteFeatures:
        with full_precision(embeds.device):  # the projection is a pseudo-inverse of the source's layers
            features = self._source_features(embeds.to(self.dtype))
        return self.mapping(features)

    def _source_features(self, embeds: Float[Tensor, "batch ..."]) -> SiteFeatures:
        """What is mapped: the source's features at the sites in use, or its condition itself."""
        repeats = self.tokens // self.source.tokens
        if not self.coupling:
            condition = self.source.image_projection()(embeds).repeat_interleave(repeats, dim=1)
            return SiteFeatures((condition,), (condition,))
        features = self.source(embeds)
        keys, values = (
            [half[i].repeat_interleave(repeats, dim=1) for i in self.base_site_indices]
            for half in (features.keys, features.values)
        )
        return SiteFeatures(tuple(keys), tuple(values))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "A4A":
        """What `to`, `half` and `bfloat16` of this module, and of any module that it is a part of, come down to."""
        return super()._apply(partial(but_float32, fn), recurse)

    def set_image_encoder(self, name: str) -> None:
        self.source.set_image_encoder(name)
        self.image_encoder = name
        self.register_to_config(base=adapter_to_config(self.source))

    def train_source(self, mode: bool) -> None:
        self.source.requires_grad_(False)
        for parameter in self._source_parameters():
            parameter.requires_grad_(mode)

    def _source_parameters(self) -> list[nn.Parameter]:
        return self.source.parameters_behind(self.base_site_indices if self.coupling else None)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        mapping = {id(p) for m in self.mapping.mappings for p in m.parameters()}
        return {
            "projection": [p for p in self.mapping.parameters() if id(p) not in mapping],
            "mapping": [p for p in self.mapping.parameters() if id(p) in mapping],
            "adapter": list(self.source.parameters()),
        }

    def parameters_behind(self, sites: Collection[int] | None) -> list[nn.Parameter]:
        if sites is None:
            self._cannot_offer("condition tokens")
        unused = {id(p) for alignment in self.mapping.alignments for p in alignment.parameters_not_behind(sites)}
        return [*self._source_parameters(), *(p for p in self.mapping.parameters() if id(p) not in unused)]

    def facts(self) -> dict[str, Any]:
        source = f"{self.source.kind} for {len(self.source.sites)} sites"
        rank = self.config["alignment_rank"]
        alignment = {"alignment": f"layers of rank {rank}"} if rank else {}
        return {"transferred from": source, **alignment, "precision": "float32 in every pipeline"}

    def origin(self, model: str | None, source: str | None) -> str:
        return f"It was transferred from {f'`{source}`' if source else 'an IP-Adapter'} by A4A."


def but_float32(change: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """Moves a tensor as `change` does, without its cast to 16 bits."""
    changed = change(tensor)
    if changed.dtype not in (torch.float16, torch.bfloat16):
        return changed
    return tensor.to(changed.device, torch.float32)


def _multiple(tokens: int, wanted: int | None) -> int:
    """The number of tokens that is wanted; InputError where it is no multiple of the source's."""
    if wanted is not None and (wanted < tokens or wanted % tokens):
        raise InputError(f"tokens is {wanted} but the source adapter has {tokens}; give a multiple of that.")
    return wanted or tokens


def _evenly(sites: Sequence[Site], count: int | None) -> list[int]:
    """Indices of `count` sites, evenly spaced in the order of execution."""
    if count is None:
        return list(range(len(sites)))
    if not 1 <= count <= len(sites):
        raise InputError(
            f"base_sites is {count} but the source adapter has {len(sites)} sites; "
            f"give a number from 1 to {len(sites)}."
        )
    order = sorted(range(len(sites)), key=lambda i: sites[i].depth)
    return sorted({order[round((i + 0.5) * len(sites) / count - 0.5)] for i in range(count)})

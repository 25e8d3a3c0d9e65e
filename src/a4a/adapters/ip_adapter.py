"""IP-Adapter (Ye et al. 2023), the base family: one linear image projection, one pair of linear layers per site.

Read from a published checkpoint it is the PTA; fresh on the sites of any denoiser it is IP-Adapter*; trained on the
upgraded model it is PTA-UM.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn

from a4a.adapters.base import ImagePromptAdapter, sites_from_config, sites_to_config
from a4a.adapters.projections.linear import ImageProjection
from a4a.features import Site, SiteFeatures


class IPAdapter(ImagePromptAdapter):
    """`k_i = W_k,i c`, `v_i = W_v,i c` (eq. 5, 6)."""

    @register_to_config
    def __init__(
        self, sites: list[list[Any]], image_embed_dim: int, text_width: int, tokens: int = 4, image_encoder: str = ""
    ):
        super().__init__()
        self.sites, self.image_embed_dim, self.tokens, self.image_encoder = (
            sites_from_config(sites),
            image_embed_dim,
            tokens,
            image_encoder,
        )
        self.text_width = text_width
        self.image_proj = ImageProjection(image_embed_dim, tokens, text_width)
        self.to_k = nn.ModuleList(nn.Linear(text_width, s.width, bias=False) for s in self.sites)
        self.to_v = nn.ModuleList(nn.Linear(text_width, s.width, bias=False) for s in self.sites)

    @classmethod
    def from_denoiser(
        cls,
        sites: Sequence[Site],
        text: tuple[Sequence[nn.Linear], Sequence[nn.Linear]],
        image_embed_dim: int,
        tokens: int = 4,
        image_encoder: str = "",
    ) -> "IPAdapter":
        """An untrained adapter for a denoiser whose text keys and values at `sites` are projected by `text`.

        Each site starts from the denoiser's own projection, as IP-Adapter's training does.
        """
        adapter = cls(sites_to_config(sites), image_embed_dim, text[0][0].in_features, tokens, image_encoder)
        with torch.no_grad():
            for mine, theirs in ((adapter.to_k, text[0]), (adapter.to_v, text[1])):
                for layer, source in zip(mine, theirs, strict=True):
                    layer.weight.copy_(source.weight)  # pyright: ignore[reportArgumentType, reportCallIssue]
        return adapter

    def forward(self, embeds: Float[Tensor, "batch image_embed_dim"]) -> SiteFeatures:
        tokens = self.image_proj(embeds)
        return SiteFeatures(tuple(layer(tokens) for layer in self.to_k), tuple(layer(tokens) for layer in self.to_v))

    def set_image_encoder(self, name: str) -> None:
        self.image_encoder = name
        self.register_to_config(image_encoder=name)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"adapter": list(self.parameters())}

"""IP-Adapter (Ye et al. 2023): a projection to condition tokens, and one pair of linear layers per site.

In the paper's words: read from a published checkpoint it is the PTA (pre-trained adapter); trained from scratch on the
upgraded model with as many samples as A4A it is IP-Adapter*; trained there to the end it is PTA-UM.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn

from a4a.adapters.base import ImagePromptAdapter, Linears, sites_from_config, sites_to_config
from a4a.adapters.conditioning import describe_conditions
from a4a.adapters.projections import ImageProjection, make_projection
from a4a.errors import InputError
from a4a.features import Site, SiteFeatures


class IPAdapter(ImagePromptAdapter):
    """`k_i = W_k,i c`, `v_i = W_v,i c` (eq. 5, 6), of the condition tokens `c` (eq. 4).

    Args:
        sites: name, width and depth of each site.
        projection: of the condition encoder, `family` and the arguments of its class (see `projections/`).
        image_encoder: name or folder of the image encoder.
    """

    kind = "IP-Adapter"

    @register_to_config
    def __init__(self, sites: list[list[Any]], projection: dict[str, Any], image_encoder: str = ""):
        super().__init__()
        if not isinstance(image_encoder, str):
            raise InputError(
                f"The configuration's image_encoder is {image_encoder!r}; expected a name or an empty text."
            )
        self.sites, self.image_encoder = sites_from_config(sites), image_encoder
        self.image_proj = make_projection(projection)
        self.tokens, self.text_width = self.image_proj.tokens, self.image_proj.text_width
        self.encoder_output, self.image_embed_dim = self.image_proj.encoder_output, self.image_proj.image_embed_dim
        self.to_k = nn.ModuleList(nn.Linear(self.text_width, s.width, bias=False) for s in self.sites)
        self.to_v = nn.ModuleList(nn.Linear(self.text_width, s.width, bias=False) for s in self.sites)

    @classmethod
    def from_denoiser(
        cls,
        sites: Sequence[Site],
        text: tuple[Linears, Linears],
        projection: Mapping[str, Any],
        image_encoder: str = "",
    ) -> "IPAdapter":
        """An untrained adapter for a denoiser whose text keys and values at `sites` are projected by `text`.

        Each site starts from the denoiser's own projection, as IP-Adapter's training does. `projection` as in the
        constructor; its condition tokens have the width of the text states.
        """
        widths = {"family": "base", "text_width": text[0][0].in_features}
        adapter = cls(sites_to_config(sites), {**widths, **projection}, image_encoder)
        with torch.no_grad():
            for layers, projections in zip(adapter.key_value_layers(), text, strict=True):
                for layer, own in zip(layers, projections, strict=True):
                    layer.weight.copy_(own.weight)
        return adapter

    def forward(self, embeds: Float[Tensor, "batch ..."]) -> SiteFeatures:
        condition = self.image_proj(embeds)
        return SiteFeatures(
            tuple(layer(condition) for layer in self.to_k), tuple(layer(condition) for layer in self.to_v)
        )

    def image_projection(self) -> ImageProjection:
        return self.image_proj

    def key_value_layers(self) -> tuple[Linears, Linears]:
        keys, values = ([layer for layer in part if isinstance(layer, nn.Linear)] for part in (self.to_k, self.to_v))
        return keys, values

    def set_image_encoder(self, name: str) -> None:
        self.image_encoder = name
        self.register_to_config(image_encoder=name)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"adapter": list(self.parameters())}

    def parameters_behind(self, sites: Collection[int] | None) -> list[nn.Parameter]:
        layers = [part[i] for part in self.key_value_layers() for i in sites or ()]
        return [p for module in (self.image_proj, *layers) for p in module.parameters()]

    def facts(self) -> dict[str, Any]:
        weights = [layer.weight for part in self.key_value_layers() for layer in part]
        return {"family": self.image_proj.family, "condition numbers": describe_conditions(weights)}

"""What a recipe of `a4a transfer` says of the adapter and of what is frozen."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from a4a.adapters.a4a import A4A
from a4a.adapters.base import ImagePromptAdapter, sites_to_config
from a4a.adapters.ip_adapter import IPAdapter
from a4a.backbones import Backbone
from a4a.backbones.quantization import to_int8
from a4a.errors import InputError
from a4a.method.linears import Sharing
from a4a.method.mapping import Connectivity
from a4a.training.distributed import shard


@dataclass
class Method:
    """What is trained."""

    kind: Literal["a4a", "ip_adapter"] = "a4a"
    """`a4a`: the source adapter, transferred. `ip_adapter`: IP-Adapter*, from scratch on the upgraded model."""
    keep_projection: bool = False
    """`ip_adapter` only: start from the source's image projection (and freeze nothing); of another width than the model's
    text states, keys and values then start at random."""
    random_init: bool = False
    """`ip_adapter` only: keys and values begin at random, and not as the model's own text projections (IP-Adapter's way)."""
    tokens: int = 4
    """`ip_adapter` only: image tokens N."""
    d_scm: int | None = None
    """Width of the coupling space; by default the least common multiple of the base widths (the paper)."""
    rounds: int = 2
    """R, rounds of the upgraded space mapping."""
    inner: int | None = None
    """d_im, width of the mapping's attention; d_scm by default."""
    heads: int = 8
    """Heads of the mapping's attention."""
    residual: bool = True
    """Residual connections in the mapping; the paper's letter has none."""
    sharing: Sharing = "site"
    """Linear layers of projection and alignment per "site", or per distinct "width" (the paper's letter)."""
    warm_start: bool = True
    """Latents begin as a depth-matched mixture of the base features; at random in the paper."""
    whiten_init: bool = True
    """Projection begins as the source's condition, whitened over training references (needs sharing: site, and coupling);
    at random in the paper."""
    text_init: bool = False
    """Alignment begins as the model's own text projections (needs sharing: site), as an ablation; at random in the paper."""
    connectivity: Connectivity = "all_to_all"
    """Base sites that an upgraded site sees: all (the paper), or the nearest in depth, as an ablation."""
    coupling: bool = True
    """False: map the condition tokens instead of the features that the source makes of them, as an ablation."""
    base_sites: int | None = None
    """Use so many of the source's sites, evenly over its depth; all by default."""

    def build(self, backbone: Backbone, source: IPAdapter | None, image_embed_dim: int) -> ImagePromptAdapter:
        if self.kind == "ip_adapter":
            return self._from_scratch(backbone, source, image_embed_dim)
        if source is None:
            raise InputError(
                "method.kind is a4a but no source adapter is given; set source to the adapter to transfer, or method.kind to ip_adapter."
            )
        for name in ("text_init", "whiten_init"):
            if getattr(self, name) and self.sharing != "site":
                raise InputError(
                    f"method.{name} needs a layer per site but method.sharing is {self.sharing!r}; set method.sharing to site or method.{name} to false."
                )
        if self.whiten_init and not self.coupling:
            raise InputError(
                "method.whiten_init needs the source's features but method.coupling is false; set method.whiten_init to false."
            )
        options: dict[str, Any] = {name: getattr(self, name) for name in _A4A_OPTIONS}
        return A4A.from_source(
            source, backbone.sites, backbone.text_projections() if self.text_init else None, **options
        )

    def _from_scratch(self, backbone: Backbone, source: IPAdapter | None, image_embed_dim: int) -> IPAdapter:
        """The denoiser's own text projections can serve the source's tokens only where its text states are as wide."""
        text = backbone.text_projections()
        width, tokens = text[0][0].in_features, self.tokens
        if self.keep_projection:
            if source is None:
                raise InputError("method.keep_projection is set but no source adapter is given; set source.")
            width, tokens, image_embed_dim = source.text_width, source.tokens, source.image_embed_dim
        if text[0][0].in_features == width and not self.random_init:
            adapter = IPAdapter.from_denoiser(backbone.sites, text, image_embed_dim, tokens)
        else:
            adapter = IPAdapter(sites_to_config(backbone.sites), image_embed_dim, width, tokens)
        if self.keep_projection and source is not None:
            adapter.image_proj.load_state_dict(source.image_proj.state_dict())
        return adapter


_A4A_OPTIONS = (
    "d_scm",
    "rounds",
    "inner",
    "heads",
    "residual",
    "sharing",
    "warm_start",
    "connectivity",
    "coupling",
    "base_sites",
)


@dataclass
class Precision:
    """Number formats of what is frozen, and where it lies."""

    frozen: Literal["float32", "bfloat16", "float16", "int8"] = "float32"
    """Of the denoiser, VAE and encoders; what is trained stays float32. int8: the linear layers of the denoiser's blocks
    in 8 bits, a scale a row, all else in bfloat16."""
    shard: bool = False
    """Spread the denoiser's blocks over the processes, for one that does not fit a GPU (FSDP 2)."""

    def __post_init__(self):
        if self.shard and self.frozen == "int8":
            raise InputError(
                "precision.shard and precision.frozen int8 do not go together; set frozen to bfloat16, or spread to false."
            )

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.frozen == "int8" else getattr(torch, self.frozen)

    def apply(self, backbone: Backbone) -> None:
        """To a denoiser that is frozen and of which nothing is copied any more."""
        if self.frozen == "int8":
            to_int8(backbone.denoiser, backbone.block)
        if self.shard:
            shard(backbone.denoiser, backbone.block)

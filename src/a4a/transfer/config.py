"""The settings of a transfer that concern the adapter (`A4AConfig`, `IPAdapterConfig`) and the frozen models."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch

from a4a.adapters.a4a import A4A
from a4a.adapters.base import ImagePromptAdapter, sites_to_config
from a4a.adapters.conditioning import describe_conditions
from a4a.adapters.ip_adapter import IPAdapter
from a4a.adapters.multi_source import MultiSourceA4A
from a4a.adapters.projections import projection_families
from a4a.backbones import Backbone
from a4a.backbones.quantization import to_int8
from a4a.data.base import EncodedDataset
from a4a.encoders.base import Output
from a4a.errors import InputError
from a4a.method.linears import Sharing
from a4a.method.mapping import Connectivity
from a4a.training.config import TrainingConfig
from a4a.training.denoising import ObjectiveConfig
from a4a.training.distributed import shard, state

Adapter = TypeVar("Adapter", bound=ImagePromptAdapter)

Source = ImagePromptAdapter | Mapping[str, ImagePromptAdapter] | None
"""The adapter that is transferred, or several by name."""
SourceName = Path | str | dict[str, Path] | dict[str, str] | None
"""What a recipe says of it."""

REFERENCES = 4096
"""Reference embeddings that `A4A.init_projection` whitens over."""


def by_name(source: Source) -> Mapping[str, ImagePromptAdapter]:
    """The adapters that are transferred; one alone has an empty name."""
    if source is None:
        return {}
    return source if isinstance(source, Mapping) else {"": source}


@dataclass
class AdapterConfig(ABC, Generic[Adapter]):
    """What is trained, and how it starts. A recipe names one under `method`; without a class_path it is `A4AConfig`."""

    sites: str | None = None
    """Which blocks take image features, for models that leave a choice. FLUX and Chroma: `double` (the default), or
    `all`, with the single blocks."""

    @property
    @abstractmethod
    def uses_source(self) -> bool:
        """Whether layers of the source adapter take the image embeddings, whose width must then match."""

    @abstractmethod
    def encoder_outputs(self, source: Source) -> tuple[Output, ...]:
        """What the adapter will take of the image encoder: its pooled embedding, tokens, or both for two sources."""

    @abstractmethod
    def build(self, backbone: Backbone, source: Source, image_embed_dim: int) -> Adapter:
        """The untrained adapter for a backbone's sites; InputError where it needs a source and there is none."""

    def init_from_data(self, adapter: Adapter, datasets: Mapping[Output, EncodedDataset]) -> None:
        """Start values that depend on the training data, by what the image encoder gives; none by default."""


@dataclass
class A4AConfig(AdapterConfig[A4A | MultiSourceA4A]):
    """A4A: transfer the source adapter (eq. 7 to 12), or several at once."""

    d_scm: int | None = None
    """Width of the coupling space; by default the least common multiple of the base widths (the paper)."""
    rounds: int = 2
    """R, rounds of the upgraded space mapping."""
    inner: int | None = None
    """d_im, width of the mapping's attention; d_scm by default."""
    heads: int = 8
    """Heads of the mapping's attention."""
    residual: bool = True
    """Residual connections in the mapping; the paper's equations have none."""
    sharing: Sharing = "site"
    """Linear layers of projection and alignment per "site", or per distinct "width" (the paper)."""
    warm_start: bool = True
    """Latents start as a depth-matched mixture of the base features; at random in the paper."""
    whiten_init: bool = True
    """Projection starts as the source's condition, whitened over training references (needs sharing "site", and
    coupling); at random in the paper."""
    text_init: bool = False
    """Alignment starts as the model's own text projections (needs sharing "site"), as an ablation; at random in the
    paper."""
    connectivity: Connectivity = "all_to_all"
    """Base sites that an upgraded site sees: all (the paper), or the nearest in depth, as an ablation."""
    coupling: bool = True
    """False: map the condition tokens instead of the features that the source makes of them, as an ablation."""
    base_sites: int | None = None
    """Use so many of the source's sites, evenly over its depth; all by default."""
    alignment_rank: int | None = None
    """Rank of each layer of the alignment, where that takes fewer parameters than a full layer; full by default."""

    def __post_init__(self) -> None:
        for name in ("text_init", "whiten_init"):
            if getattr(self, name) and self.sharing != "site":
                raise InputError(
                    f"method.{name} needs a layer per site but method.sharing is {self.sharing!r}; "
                    f"set method.sharing to site or method.{name} to false."
                )
        if self.whiten_init and not self.coupling:
            raise InputError(
                "method.whiten_init needs the source's features but method.coupling is false; "
                "set method.whiten_init to false."
            )

    @property
    def uses_source(self) -> bool:
        return True

    def encoder_outputs(self, source: Source) -> tuple[Output, ...]:
        return tuple(dict.fromkeys(adapter.encoder_output for adapter in by_name(source).values())) or ("pooled",)

    def build(self, backbone: Backbone, source: Source, image_embed_dim: int) -> A4A | MultiSourceA4A:
        if source is None:
            raise InputError(
                "method is A4AConfig but no source adapter is given; "
                "set source to the adapter to transfer, or method to IPAdapterConfig."
            )
        backbone.choose_sites(self.sites)
        text_projections = backbone.text_projections() if self.text_init else None
        if isinstance(source, Mapping):
            return MultiSourceA4A.from_sources(source, backbone.sites, text_projections, **self._adapter_options())
        return A4A.from_source(source, backbone.sites, text_projections, **self._adapter_options())

    def init_from_data(self, adapter: A4A | MultiSourceA4A, datasets: Mapping[Output, EncodedDataset]) -> None:
        if not self.whiten_init:
            return
        adapters = adapter.adapters if isinstance(adapter, MultiSourceA4A) else {"": adapter}
        for name, each in adapters.items() if state().is_main_process else ():
            weights = [layer.weight for part in each.source.key_value_layers() for layer in part]
            conditions = describe_conditions(weights)
            whose = f"the layers of {name}" if name else "the source's layers"
            print(f"The projection starts from {whose}; condition numbers: {conditions}.")
        embeds: dict[Output, torch.Tensor] = {}
        for output, dataset in datasets.items():
            embeds[output] = dataset.references(REFERENCES)
        if isinstance(adapter, MultiSourceA4A):
            adapter.init_projection(embeds)
        else:
            adapter.init_projection(embeds[adapter.encoder_output])

    def _adapter_options(self) -> dict[str, Any]:
        names = {field.name for field in fields(self)} - {"sites", "text_init", "whiten_init"}
        return {name: getattr(self, name) for name in names}


@dataclass
class IPAdapterConfig(AdapterConfig[IPAdapter]):
    """IP-Adapter*: an adapter trained from scratch on the upgraded model."""

    tokens: int = 4
    """Image tokens N."""
    random_init: bool = False
    """Keys and values start at random, instead of as the model's own text projections (as IP-Adapter does)."""
    family: str = "base"
    """Family of the image projection, as IP-Adapter publishes it."""
    projection: dict[str, int] = field(default_factory=dict)
    """Sizes of the image projection besides its tokens (plus: width, heads, depth); the family's own by default."""
    keep_projection: bool = False
    """Start from the source's image projection, and train it too. If its width differs from the model's text states,
    keys and values start at random."""

    @property
    def uses_source(self) -> bool:
        return self.keep_projection

    def encoder_outputs(self, source: Source) -> tuple[Output, ...]:
        if isinstance(source, Mapping):
            raise InputError(
                f"method is IPAdapterConfig but source names several adapters ({', '.join(source)}); name one, or none."
            )
        if self.keep_projection and source is not None:
            return (source.encoder_output,)
        known = projection_families()
        if self.family not in known:
            raise InputError(f"method.family is {self.family!r}; expected one of {', '.join(known)}.")
        return (known[self.family].encoder_output,)

    def build(self, backbone: Backbone, source: Source, image_embed_dim: int) -> IPAdapter:
        backbone.choose_sites(self.sites)
        if not self.keep_projection:
            text_width = backbone.text_projections()[0][0].in_features
            sizes = {"image_embed_dim": image_embed_dim, "text_width": text_width, "tokens": self.tokens}
            return self._fresh(backbone, {"family": self.family, **sizes, **self.projection})
        if source is None or isinstance(source, Mapping):
            raise InputError("method.keep_projection is set but there is not one source adapter; set source to one.")
        projection = source.image_projection()
        adapter = self._fresh(backbone, projection.config)
        adapter.image_proj.load_state_dict(projection.state_dict())
        return adapter

    def _fresh(self, backbone: Backbone, projection: dict[str, Any]) -> IPAdapter:
        """Keys and values are copied from the text projections where condition tokens are as wide as text states."""
        text_projections = backbone.text_projections()
        same_width = text_projections[0][0].in_features == projection["text_width"]
        if self.random_init or not same_width:
            return IPAdapter(sites_to_config(backbone.sites), projection)
        return IPAdapter.from_denoiser(backbone.sites, text_projections, projection)


@dataclass
class Precision:
    """Precision and sharding of the frozen models."""

    frozen: Literal["float32", "bfloat16", "float16", "int8"] = "float32"
    """Of the denoiser, VAE and encoders; what is trained stays float32. int8: the linear layers of the denoiser's
    blocks in 8 bits with one scale per row, everything else in bfloat16."""
    shard: bool = False
    """Shard the denoiser's blocks over the processes, for a denoiser that does not fit one GPU (FSDP 2)."""

    def __post_init__(self) -> None:
        if self.shard and self.frozen == "int8":
            raise InputError(
                "precision.shard and precision.frozen int8 do not go together; "
                "set precision.frozen to bfloat16, or precision.shard to false."
            )

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.frozen == "int8" else getattr(torch, self.frozen)

    def apply(self, backbone: Backbone) -> None:
        """Quantizes or shards a denoiser. It must be frozen, and nothing may be copied from it afterwards."""
        if self.frozen == "int8":
            to_int8(backbone.denoiser, backbone.blocks)
        if self.shard:
            shard(backbone.denoiser, backbone.blocks)


@dataclass(frozen=True)
class TransferSettings:
    """The settings of `a4a transfer` that decide which models and tensors there are, and so how much memory."""

    model: Path | str
    image_encoder: Path | str
    source: SourceName
    method: AdapterConfig
    objective: ObjectiveConfig
    training: TrainingConfig
    precision: Precision
    init: Path | str | None = None
    """A trained adapter whose weights the run starts from."""

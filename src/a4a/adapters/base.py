"""The contract of image-prompt adapters: image embeddings in, features for attention sites out."""

import importlib
import pkgutil
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar

import torch
from diffusers import ConfigMixin, ModelMixin
from jaxtyping import Float
from torch import Tensor, nn

from a4a.adapters.projections.base import ImageProjection
from a4a.encoders.base import Output
from a4a.errors import InputError
from a4a.features import Site, SiteFeatures

Linears = Sequence[nn.Linear]
Adapter = TypeVar("Adapter", bound="ImagePromptAdapter")


class ImagePromptAdapter(ModelMixin, ConfigMixin):
    """An adapter, saved and loaded as any diffusers model.

    Attributes:
        kind: what it is, in words.
        sites: the attention sites that it makes features for.
        tokens: N, image tokens at each site.
        encoder_output: what it takes of the image encoder, the `pooled` embedding or `tokens`.
        image_embed_dim: width of that embedding, or of each of those tokens.
        image_encoder: name or folder of the image encoder; empty where it is not known.
    """

    kind: ClassVar[str]
    sites: tuple[Site, ...]
    tokens: int
    encoder_output: Output
    image_embed_dim: int
    image_encoder: str

    @abstractmethod
    def forward(self, embeds: Float[Tensor, "batch ..."]) -> SiteFeatures:
        """Features of one reference per row: [batch, image_embed_dim], or [batch, encoder tokens, image_embed_dim]."""

    @abstractmethod
    def set_image_encoder(self, name: str) -> None:
        """Record which image encoder the adapter needs; published files do not say."""

    @abstractmethod
    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by the kind of learning rate they take: `projection`, `mapping`, `adapter`."""

    @abstractmethod
    def parameters_behind(self, sites: Collection[int] | None) -> list[nn.Parameter]:
        """The parameters that the features of these sites depend on; None: those of the condition tokens alone."""

    def unconditional(
        self, embeds: Float[Tensor, "batch ..."], no_image: Float[Tensor, "..."] | None = None
    ) -> Float[Tensor, "batch ..."]:
        """The embeddings that stand for "no image", as many as `embeds`.

        Zeros where the adapter takes pooled embeddings. An adapter of tokens was trained with those of a zero image:
        `no_image` [1, encoder tokens, image_embed_dim], from `ImageEncoder.unconditional()`.
        """
        if self.encoder_output == "pooled":
            return torch.zeros_like(embeds)
        if no_image is None:
            raise InputError(
                "The adapter takes an image encoder's tokens, so guidance needs the tokens of a zero image; "
                "give the image encoder too, or data that were encoded by it."
            )
        return no_image.to(embeds).expand_as(embeds)

    def train_source(self, mode: bool) -> None:
        """Train the source adapter that this one is made of too, or keep it frozen."""

    def image_projection(self) -> ImageProjection:
        """The condition encoder (eq. 4); InputError where the features are not made from condition tokens."""
        self._cannot_offer("condition tokens")

    def key_value_layers(self) -> tuple[Linears, Linears]:
        """A linear layer per site for keys and for values (eq. 5, 6); InputError where the adapter has none."""
        self._cannot_offer("one linear layer per site for keys and values")

    def _cannot_offer(self, what: str) -> NoReturn:
        raise InputError(f"{self.kind} has no {what}, which this setting or format needs; give an IP-Adapter.")

    def facts(self) -> dict[str, Any]:
        """What `a4a inspect` says besides what every adapter has."""
        return {}

    def embeddings(self) -> str:
        """What it takes of the image encoder, in words."""
        return f"{self.encoder_output} embeddings of width {self.image_embed_dim}"

    def usage(self) -> str:
        """Code that must follow its loading, before a pipeline takes it."""
        return ""

    def origin(self, model: str | None, source: str | None) -> str:
        """A sentence for the model card on where the adapter comes from."""
        return f"It was trained from scratch on this model ({self.kind})." if model else f"It is an {self.kind}."

    @property
    def image_encoder_path(self) -> str | None:
        """Where the image encoder is; None where at most its kind is known, as of published files."""
        kind_alone = not self.image_encoder or self.image_encoder.startswith(("CLIP ", "an image encoder"))
        return None if kind_alone else self.image_encoder

    def to(self: Adapter, *args: Any, **kwargs: Any) -> Adapter:
        """As Module.to; stated here since diffusers' decorated method has no usable type."""
        return super().to(*args, **kwargs)  # pyright: ignore[reportCallIssue, reportArgumentType, reportReturnType]

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride] (names resolve as everywhere in a4a)
        cls: type[Adapter], path: str | Path, torch_dtype: torch.dtype | None = None, subfolder: str | None = None
    ) -> Adapter:
        """As `load_adapter`: zoo:NAME, a folder, a published checkpoint, or a hub name; float32 by default."""
        from a4a.adapters.loading import load_adapter  # which imports this module

        name = f"{path}/{subfolder}" if subfolder else path
        adapter = load_adapter(name, torch_dtype)
        if not isinstance(adapter, cls):
            raise InputError(f"{name} is an adapter of the class {type(adapter).__name__}, not {cls.__name__}.")
        return adapter

    @classmethod
    def from_folder(cls: type[Adapter], folder: Path) -> Adapter:
        """Load what `save_pretrained` wrote into a local folder, in float32, without any check."""
        return super().from_pretrained(folder, low_cpu_mem_usage=False)  # buffers that are not saved must be computed

    def save_pretrained(self, save_directory: str | Path, is_main_process: bool = True, **options: Any) -> None:
        """As diffusers does, and a model card where the folder has none."""
        from a4a.adapters.model_card import card  # which imports this module

        super().save_pretrained(save_directory, is_main_process, **options)
        readme = Path(save_directory) / "README.md"
        if is_main_process and not readme.exists():
            card(self, {}).save(readme)


def adapter_classes() -> dict[str, type[ImagePromptAdapter]]:
    """Every kind of adapter in this package by its class name, as `config.json` has it."""
    package = importlib.import_module("a4a.adapters")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return {kind.__name__: kind for kind in ImagePromptAdapter.__subclasses__()}


def adapter_to_config(adapter: ImagePromptAdapter) -> dict[str, Any]:
    """Class name and configuration, from which `adapter_from_config` builds an adapter of the same shapes."""
    own = {name: value for name, value in adapter.config.items() if not name.startswith("_")}
    return {"_class_name": type(adapter).__name__, **own}  # without the folder that it came from


def adapter_from_config(config: Mapping[str, Any]) -> ImagePromptAdapter:
    """An untrained adapter; InputError where the configuration names no kind of adapter."""
    known, name = adapter_classes(), config.get("_class_name")
    if not isinstance(name, str) or name not in known:
        raise InputError(f"The configuration's _class_name is {name!r}; expected one of {', '.join(sorted(known))}.")
    return known[name](**{key: value for key, value in config.items() if not key.startswith("_")})


def sites_to_config(sites: Sequence[Site]) -> list[list[Any]]:
    return [[s.name, s.width, s.depth] for s in sites]


def sites_from_config(rows: Sequence[Sequence[Any]]) -> tuple[Site, ...]:
    """Sites from [name, width, depth] each; InputError where a value is of another type or out of range."""
    for row in rows:
        if len(row) != 3 or not isinstance(row[0], str) or type(row[1]) is not int or row[1] < 1:
            raise InputError(f"A site of the configuration is {row}; expected [name, width, depth].")
        if not isinstance(row[2], int | float) or not 0 <= row[2] <= 1:
            raise InputError(f"The site {row[0]} has the depth {row[2]}; expected a number from 0 to 1.")
    if not rows:
        raise InputError("The configuration has no sites; expected a list of [name, width, depth].")
    return tuple(Site(name, width, depth) for name, width, depth in rows)

"""The contract of condition encoders (eq. 4), one for each source family, and their registry.

A module of this package with a subclass of `ImageProjection` adds a family; nothing else needs to know it.
"""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from a4a.encoders.base import Output
from a4a.errors import InputError


class ImageProjection(nn.Module, ABC):
    """The condition encoder E of eq. 4: image embeddings to N tokens of the text width.

    Class attributes:
        family: its name, as IP-Adapter publishes it.
        signature: names of parameters by which a published checkpoint of the family is recognised.
        encoder_output: what it takes of the image encoder, the `pooled` embedding or `tokens`. The unconditional branch
            follows from it: zeros stand for "no image" where it is pooled, the tokens of a zero image otherwise.

    Args:
        image_embed_dim: width of the pooled embedding or of each token of the image encoder.
        text_width: width of the condition tokens, that of the base model's text states.
        tokens: N, condition tokens of an image.
    """

    families: ClassVar[dict[str, type["ImageProjection"]]] = {}
    family: ClassVar[str]
    signature: ClassVar[frozenset[str]]
    encoder_output: ClassVar[Output]
    config: dict[str, Any]
    """From which `make_projection` made it."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        ImageProjection.families[cls.family] = cls

    def __init__(self, image_embed_dim: int, text_width: int, tokens: int):
        super().__init__()
        self.image_embed_dim, self.text_width, self.tokens = image_embed_dim, text_width, tokens

    @abstractmethod
    def forward(self, embeds: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch tokens text_width"]:
        """Condition tokens of embeddings [batch, image_embed_dim] or [batch, encoder tokens, image_embed_dim]."""

    @classmethod
    def matches(cls, tensors: Mapping[str, Tensor]) -> bool:
        """Whether the `image_proj` half of a published checkpoint is of this family."""
        return cls.signature <= tensors.keys()

    @classmethod
    @abstractmethod
    def options(cls, tensors: Mapping[str, Tensor], text_width: int) -> dict[str, Any]:
        """The constructor's arguments, from the shapes in a published checkpoint that `matches`."""

    def load_published(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the weights of a published checkpoint; by default parameters have the names that they have there."""
        self.load_state_dict(tensors)

    def published_state(self) -> dict[str, Tensor]:
        """The weights as a published checkpoint names them."""
        return self.state_dict()


class UnsupportedFamily(NamedTuple):
    signature: frozenset[str]
    reason: str
    """Why it cannot be read, as a part of a sentence."""


UNSUPPORTED: dict[str, UnsupportedFamily] = {
    "full-face": UnsupportedFamily(
        frozenset({"proj.0.weight", "proj.2.weight", "proj.3.weight"}),
        "its condition encoder, an MLP over all tokens of the image encoder, is not written yet",
    ),
    "FaceID-plus": UnsupportedFamily(
        frozenset({"perceiver_resampler.proj_in.weight"}),
        "it takes a face recogniser's embedding and an image encoder's tokens together, and a LoRA of the base model",
    ),
    "FaceID": UnsupportedFamily(
        frozenset({"proj.0.weight", "proj.2.weight", "norm.weight"}),
        "it takes a face recogniser's embedding, and a LoRA of the base model",
    ),
    "FaceID-portrait-unnorm": UnsupportedFamily(
        frozenset({"latents", "proj_in.weight", "proj_out.weight"}),
        "it takes several embeddings of a face recogniser at once",
    ),
}
"""Published families without a module here, to name them; a signature can be part of an earlier one."""


def projection_families() -> dict[str, type[ImageProjection]]:
    """Every family that has a module in this package, by name."""
    package = importlib.import_module("a4a.adapters.projections")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return ImageProjection.families


def recognise(tensors: Mapping[str, Tensor]) -> tuple[str, type[ImageProjection] | None] | None:
    """Family of the `image_proj` half of a checkpoint, and its projection where there is one; None if it is none."""
    for name, kind in projection_families().items():
        if kind.matches(tensors):
            return name, kind
    return next(((name, None) for name, family in UNSUPPORTED.items() if family.signature <= tensors.keys()), None)


def make_projection(config: Mapping[str, Any]) -> ImageProjection:
    """The projection that an adapter's configuration describes: `family`, and the arguments of its constructor."""
    options = dict(config)
    family, known = options.pop("family", None), projection_families()
    if family not in known:
        raise InputError(
            f"The configuration names the projection family {family!r}; expected one of {', '.join(known)}."
        )
    projection = known[family](**options)
    projection.config = dict(config)
    return projection

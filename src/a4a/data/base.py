"""Training data before encoding: images of one size, captions, and reference-target pairs."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from a4a.backbones import Backbone
from a4a.encoders.clip import CLIPImageEncoder


class EncodedDataset(Protocol):
    """Training samples as latents, text states and reference embeddings."""

    no_text: dict[str, Tensor] | None
    """Encoded empty text, one row; None where the backbone's text encoders are there to make it."""

    def __len__(self) -> int: ...
    def batch(self, indices: Tensor) -> dict[str, Any]: ...
    def references(self, count: int) -> Tensor:
        """Embeddings of at most `count` references, evenly over the samples: [count, image_embed_dim], float32."""
        ...


class TrainingData(ABC):
    """What an adapter is trained on: images that are yet to be encoded, or the output of `a4a prepare`."""

    is_encoded: ClassVar[bool]
    """Whether training needs no VAE, text encoder or image encoder."""
    image_embed_dim: int | None = None
    """Width of the reference embeddings; None where the image encoder decides."""

    def check(self, model: str | Path, image_encoder: str | Path) -> None:  # noqa: B027
        """InputError where the data were encoded by other models than these."""

    @abstractmethod
    def encode(self, backbone: Backbone, image_encoder: CLIPImageEncoder | None, cache: Path) -> EncodedDataset:
        """The samples' encodings, kept in the folder `cache` where they have to be computed."""


class TrainingImages(TrainingData):
    """Images of one size, their captions, and which two make a training sample."""

    is_encoded = False
    captions: Sequence[str]
    pairs: Tensor
    """[samples, 2]: the image that is the reference and the one that is the target."""
    key: str
    """Names the content: another content has another key."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def pixels(self, indices: Tensor) -> Tensor:
        """[n, 3, height, width] in [0, 1]."""

    def encode(self, backbone: Backbone, image_encoder: CLIPImageEncoder | None, cache: Path) -> EncodedDataset:
        from a4a.data.cached import encode  # which is about the classes of this module

        return encode(self, backbone, image_encoder, cache)


def spread_over(length: int, count: int) -> Tensor:
    """Indices of so many rows at most, evenly over a table."""
    return torch.linspace(0, length - 1, min(count, length)).long()


def pairs_of(subjects: list[str | None]) -> Tensor:
    """[pairs, 2], reference and target: (i, i) for a picture alone; for subjects with several, every ordered pair of neighbours."""
    groups: dict[str, list[int]] = {}
    pairs = []
    for i, subject in enumerate(subjects):
        if subject is None:
            pairs.append((i, i))
        else:
            groups.setdefault(subject, []).append(i)
    for members in groups.values():
        pairs += [(a, b) for a, b in zip(members, members[1:] + members[:1], strict=True)]
    return torch.tensor(pairs)

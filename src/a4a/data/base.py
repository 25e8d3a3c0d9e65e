"""Contracts of training data: images that are still to be encoded, and datasets of encodings."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from a4a.backbones import Backbone, SizeConditions, Text
from a4a.encoders.base import ImageEncoder, Output


class TrainingData(ABC):
    """What an adapter is trained on: `TrainingImages`, or an `EncodedDataset` such as `a4a prepare` makes."""

    folder_class: ClassVar[str] = "a4a.data.PreparedDataset"
    """What a path alone stands for in a recipe: `data: runs/my-data`."""
    is_encoded: ClassVar[bool]
    """True: training needs neither VAE nor text or image encoders, only the denoiser."""
    size: int | None = None
    """Side of the images in pixels where it is known; with aspect-ratio buckets, of the square with as many pixels."""
    image_embed_dim: int = 0
    """Width of the image embeddings; 0 where there are none yet."""

    def check(  # noqa: B027 (nothing to check by default)
        self, model: str | Path, image_encoder: str | Path, encoder_output: Output = "pooled"
    ) -> None:
        """InputError where the data were encoded otherwise than training needs.

        Args:
            model: whose VAE and text encoders must have encoded them.
            image_encoder: that must have encoded the references.
            encoder_output: what the adapter takes of it.
        """

    def with_output(self, output: Output) -> "TrainingData":
        """The same data, whose references are embedded as `output`; images are whatever their encoder gives."""
        return self

    @abstractmethod
    def encode(self, backbone: Backbone, image_encoder: ImageEncoder | None, cache: Path) -> "EncodedDataset":
        """The data as encodings; data that are encoded already return themselves and need no image encoder.

        Args:
            backbone: encodes images to latents and captions to text states.
            image_encoder: encodes references; None: leave out their embeddings.
            cache: folder that keeps the encodings for the next run.
        """


class EncodedDataset(TrainingData):
    """Training samples as tensors: latents and text states of the target, image embedding of the reference."""

    is_encoded = True
    buckets: Tensor | None = None
    """[samples], the target's bucket where latents have several shapes; all samples of a batch share one."""
    embed_shape: tuple[int, ...] | None = None
    """Of one image embedding: (image_embed_dim,) or (tokens, image_embed_dim); None where there are none."""
    no_text: Text | None = None
    """One row: the text states that guidance uses where there is no negative prompt, where they are kept."""

    no_image: Tensor | None = None
    """[1, *embed_shape]: the embedding that stands for "no image" in guidance."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, indices: Tensor) -> dict[str, Any]:
        """The samples of these indices.

        `latents` [batch, channels, height, width], `text.NAME` as the backbone encodes it, `embeds`
        [batch, *embed_shape]; `original_size`, `crop_top_left` and `target_size` [batch, 2] of the target, see
        `SizeConditions`.
        """

    def embeddings(self, indices: Tensor) -> Tensor:
        """The embeddings of the references of these samples: [batch, *embed_shape]."""
        return self.batch(indices)["embeds"]

    @abstractmethod
    def references(self, count: int) -> Tensor:
        """Embeddings of at most `count` references, evenly spaced over the samples: [count, *embed_shape], float32."""

    def encode(self, backbone: Backbone, image_encoder: ImageEncoder | None, cache: Path) -> "EncodedDataset":
        return self


class TrainingImages(TrainingData):
    """Images of one size, their captions, and which two of them make a training sample."""

    is_encoded = False
    captions: Sequence[str]
    pairs: Tensor
    """[samples, 2]: index of the reference, index of the target."""
    key: str
    """Identifies the content: other images have another key."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def pixels(self, indices: Tensor) -> Tensor:
        """[n, 3, height, width] in [0, 1]."""

    def sizes(self, indices: Tensor) -> SizeConditions:
        """Of which size these images were before they were resized and cropped; by default, neither was done."""
        height, width = self.pixels(indices[:1]).shape[-2:]
        return SizeConditions.uncropped(len(indices), height, width)

    def encode(self, backbone: Backbone, image_encoder: ImageEncoder | None, cache: Path) -> EncodedDataset:
        from a4a.data.cached import encode_images  # which needs this module

        return encode_images(self, backbone, image_encoder, cache)


def evenly_spaced(length: int, count: int) -> Tensor:
    """At most `count` indices, evenly spaced over `length` rows."""
    return torch.linspace(0, length - 1, min(count, length)).long()


def reference_target_pairs(subjects: Sequence[str | None]) -> Tensor:
    """[pairs, 2], reference and target, of images with these subjects.

    An image without a subject, or alone of its subject, is its own reference: (i, i). Several images of a subject form
    a ring: each is the reference of the next.
    """
    members: dict[str, list[int]] = {}
    pairs = []
    for i, subject in enumerate(subjects):
        if subject is None:
            pairs.append((i, i))
        else:
            members.setdefault(subject, []).append(i)
    for indices in members.values():
        pairs += [(a, b) for a, b in zip(indices, indices[1:] + indices[:1], strict=True)]
    return torch.tensor(pairs)

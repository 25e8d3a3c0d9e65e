"""A few samples of training data, for a run that overfits them."""

from copy import copy
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from a4a.backbones import Backbone
from a4a.data.base import EncodedDataset, TrainingData, TrainingImages, evenly_spaced
from a4a.data.prepared import PreparedDataset
from a4a.encoders.base import ImageEncoder, Output
from a4a.errors import InputError
from a4a.utils.images import to_pil

ENCODED = 512
"""Samples of a folder of images that are encoded: enough references for an adapter's start values."""


Examples = tuple[list[Image.Image], list[str]]
"""Reference and caption of each of a few samples."""


class FewSamples(Protocol):
    """A few samples of training data, which can be shown."""

    total: int
    """Of how many samples they are."""

    def examples(self, backbone: Backbone) -> Examples:
        """Their references, decoded by the backbone where the data have none as images, and their captions."""
        ...


def few_samples(data: TrainingData, samples: int) -> "ImageSubset | PreparedSubset":
    """Evenly spaced samples of training data; InputError for a class of data that cannot be shown."""
    if isinstance(data, TrainingImages):
        return ImageSubset(data, samples)
    if isinstance(data, PreparedDataset):
        return PreparedSubset(data, samples)
    raise InputError(
        f"The samples of {type(data).__name__} cannot be shown; give data of images, or a folder that a4a prepare made."
    )


class EncodedSubset(EncodedDataset):
    """Evenly spaced samples of encoded data; `references`, for start values, are still those of all samples.

    Args:
        dataset: encoded data.
        samples: how many of its samples; all where it has fewer.
    """

    def __init__(self, dataset: EncodedDataset, samples: int):
        self.dataset, self.indices = dataset, evenly_spaced(len(dataset), samples)
        self.size, self.image_embed_dim, self.embed_shape = dataset.size, dataset.image_embed_dim, dataset.embed_shape
        self.no_text, self.no_image = dataset.no_text, dataset.no_image
        self.buckets = None if dataset.buckets is None else dataset.buckets[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def embeddings(self, indices: Tensor) -> Tensor:
        return self.dataset.embeddings(self.indices[indices])

    def check(self, model: str | Path, image_encoder: str | Path, encoder_output: Output = "pooled") -> None:
        self.dataset.check(model, image_encoder, encoder_output)

    def batch(self, indices: Tensor) -> dict[str, Any]:
        return self.dataset.batch(self.indices[indices])

    def references(self, count: int) -> Tensor:
        return self.dataset.references(count)


class PreparedSubset(EncodedSubset):
    """Evenly spaced samples of prepared data, whose references are kept as latents."""

    def __init__(self, dataset: PreparedDataset, samples: int):
        super().__init__(dataset, samples)
        self.prepared, self.total, self.samples = dataset, len(dataset), samples

    def with_output(self, output: Output) -> "PreparedSubset":
        return PreparedSubset(self.prepared.with_output(output), self.samples)

    @torch.no_grad()
    def examples(self, backbone: Backbone) -> Examples:
        rows = self.indices.split(1)
        pixels = [backbone.decode_latents(self.prepared.reference_latents(row)) for row in rows]
        captions = self.prepared.column("text")
        targets = self.prepared.samples[self.indices, 2].tolist()
        return [to_pil(p.float() / 2 + 0.5)[0] for p in pixels], [captions[i] or "" for i in targets]


class ImageSubset(TrainingData):
    """Evenly spaced samples of images; `ENCODED` are encoded, so that start values know more references.

    Args:
        images: training images.
        samples: how many of their samples; all where there are fewer.
    """

    is_encoded = False

    def __init__(self, images: TrainingImages, samples: int):
        self.images, self.samples, self.size = copy(images), samples, images.size
        self.total = len(images.pairs)
        self.images.pairs = images.pairs[evenly_spaced(len(images.pairs), max(samples, ENCODED))]

    def check(self, model: str | Path, image_encoder: str | Path, encoder_output: Output = "pooled") -> None:
        self.images.check(model, image_encoder, encoder_output)

    def encode(self, backbone: Backbone, image_encoder: ImageEncoder | None, cache: Path) -> EncodedDataset:
        return EncodedSubset(self.images.encode(backbone, image_encoder, cache), self.samples)

    def examples(self, backbone: Backbone) -> Examples:
        references, targets = self.images.pairs[evenly_spaced(len(self.images.pairs), self.samples)].unbind(1)
        captions = [str(self.images.captions[i]) for i in targets.tolist()]
        return to_pil(self.images.pixels(references)), captions

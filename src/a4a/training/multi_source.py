"""Eq. 14 for an adapter of several sources: every batch holds rows of all of them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from a4a.adapters.base import ImagePromptAdapter
from a4a.adapters.multi_source import MultiSourceA4A
from a4a.backbones import Backbone, Text
from a4a.encoders.base import Output
from a4a.features import SiteFeatures
from a4a.injection import Injection
from a4a.training.base import Batch
from a4a.training.denoising import Denoising, ObjectiveConfig, drop_images


class MultiSourceDenoising(Denoising):
    """The denoising loss; each source makes the features of an equal share of the batch.

    Shares are of consecutive rows, which are in random order. Where the batch cannot be divided equally, the sources
    that have a row more are drawn at random.

    Args:
        backbone, adapter, config, no_text: as of `Denoising`.
        no_images: the embedding that stands for "no image", one row, by what the image encoder gives.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: MultiSourceA4A,
        config: ObjectiveConfig,
        no_text: Text | None,
        no_images: Mapping[Output, Tensor | None],
    ):
        super().__init__(backbone, adapter, config, no_text)
        self._sources, self._no_images = adapter.adapters, no_images
        self._names = embeds_names(adapter.encoder_outputs)

    def set_condition(
        self, injection: Injection, adapter: ImagePromptAdapter, batch: Batch, without_image: Tensor
    ) -> None:
        parts, end = [], 0
        for source, rows in zip(self._sources.values(), shares(len(without_image), len(self._sources)), strict=True):
            start, end = end, end + rows
            if rows:
                output = source.encoder_output
                embeds = batch[self._names[output]][start:end].float()
                embeds = drop_images(source, embeds, without_image[start:end], self._no_images.get(output))
                parts.append(source(embeds))
        injection.set(SiteFeatures.stack(parts))


def denoising_of(
    adapter: ImagePromptAdapter,
    backbone: Backbone,
    config: ObjectiveConfig,
    no_text: Text | None,
    no_images: Mapping[Output, Tensor | None],
) -> Denoising:
    """The denoising loss of any adapter; `no_images` by what it takes of the image encoder."""
    if isinstance(adapter, MultiSourceA4A):
        return MultiSourceDenoising(backbone, adapter, config, no_text, no_images)
    return Denoising(backbone, adapter, config, no_text, next(iter(no_images.values()), None))


def shares(rows: int, sources: int) -> list[int]:
    """How many rows of a batch each source gets; drawn where they cannot be divided equally."""
    offset = int(torch.randint(sources, (), device="cpu"))
    return [(rows + (i + offset) % sources) // sources for i in range(sources)]


def embeds_names(outputs: Sequence[Output]) -> dict[Output, str]:
    """Names in a batch of the embeddings that sources take: `embeds`, or `embeds.pooled` and `embeds.tokens`."""
    return {output: "embeds" if len(outputs) == 1 else f"embeds.{output}" for output in outputs}

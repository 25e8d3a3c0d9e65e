"""A transfer's models and batches by their shapes alone: on the meta device, or with random numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from a4a.adapters.base import ImagePromptAdapter
from a4a.adapters.meta import embed_shape, load_meta_adapter
from a4a.backbones import Backbone
from a4a.backbones.meta import MetaModel, load_meta_model
from a4a.encoders.base import Output
from a4a.training.denoising import Denoising
from a4a.training.multi_source import denoising_of, embeds_names
from a4a.transfer.config import AdapterConfig, SourceName, TransferSettings, by_name
from a4a.transfer.start import check_init, load_source, source_within
from a4a.utils.hub import resolve_zoo


@dataclass(frozen=True)
class MetaTransfer:
    """The denoiser and adapter of a transfer without weights."""

    settings: TransferSettings
    model: MetaModel
    adapter: ImagePromptAdapter
    embed_shapes: dict[Output, tuple[int, ...]]
    """Of an image's embedding, by what the image encoder gives: (image_embed_dim,), or (tokens, image_embed_dim)."""

    @property
    def embed_shape(self) -> tuple[int, ...]:
        """Of the embedding that the adapter takes; of several sources, the first's."""
        return next(iter(self.embed_shapes.values()))

    def random_batch(self, rows: int, pixels: int | None, device: torch.device | str) -> dict[str, Any]:
        """Random numbers in the shapes of encoded training data, of images of `pixels` (None: the model's own size)."""
        side = self.model.side(pixels)
        return {
            "latents": torch.randn(rows, self.model.channels, side, side, dtype=torch.float16, device=device),
            **{
                name: torch.randn(rows, *self.embed_shapes[output], dtype=torch.float16, device=device)
                for output, name in embeds_names(list(self.embed_shapes)).items()
            },
            **{f"text.{name}": t for name, t in self.random_text(rows, device).items()},
        }

    @contextmanager
    def objective(self) -> Iterator[Denoising]:
        """The training loss on the meta device, attached to the denoiser for as long as the context lasts."""
        settings = replace(self.settings.objective, compile=False)
        no_images = self.no_images("meta")
        loss = denoising_of(self.adapter, self.model.backbone, settings, self.random_text(1, "meta"), no_images)
        try:
            yield loss
        finally:
            loss.detach()

    def no_images(self, device: torch.device | str) -> dict[Output, Tensor | None]:
        """In the shapes of what stands for "no image": [1, *embed_shape]."""
        return {output: torch.zeros(1, *shape, device=device) for output, shape in self.embed_shapes.items()}

    def random_text(self, rows: int, device: torch.device | str) -> dict[str, Tensor]:
        """Random text states; ones where the backbone gives a dtype (attention masks, for example)."""
        states_dtype = self.settings.precision.dtype
        return {
            name: torch.ones(rows, *shape, dtype=dtype, device=device)
            if dtype
            else torch.randn(rows, *shape, dtype=states_dtype, device=device)
            for name, (shape, dtype) in self.model.backbone.text_shapes().items()
        }


def load_meta_transfer(settings: TransferSettings) -> MetaTransfer:
    """Builds denoiser and adapter on the meta device, the denoiser in its precision (but not sharded).

    Takes seconds. No weights are read, but for a source adapter that is not a published one. The adapter to start from
    need not be there yet where the recipe names its source: it has the same shapes.
    """
    model = load_meta_model(settings.model)
    init = settings.init
    if init is not None and settings.source is not None and not Path(resolve_zoo(init)).exists():
        init = None
    adapter, shapes = build_meta_adapter(settings.method, model.backbone, settings.source, settings.image_encoder, init)
    # nn.Module's own `to`: that of diffusers warns of layers to keep in float32, which models here have none of
    nn.Module.to(model.backbone.denoiser, settings.precision.dtype)
    with torch.device("meta"):
        replace(settings.precision, shard=False).apply(model.backbone)
    return MetaTransfer(settings, model, adapter, shapes)


def build_meta_adapter(
    method: AdapterConfig,
    backbone: Backbone,
    source: SourceName,
    image_encoder: Path | str,
    init: Path | str | None = None,
) -> tuple[ImagePromptAdapter, dict[Output, tuple[int, ...]]]:
    """The untrained adapter on the meta device, and the shapes of the image embeddings that it takes.

    InputError where backbone, source, method and the adapter to start from do not go together.
    """
    start = load_meta_adapter(init)
    source_adapter = load_source(source, load_meta_adapter) or source_within(start)
    takers = {adapter.encoder_output: adapter for adapter in by_name(source_adapter).values()}
    shapes: dict[Output, tuple[int, ...]] = {
        output: embed_shape(image_encoder, output, takers.get(output))
        for output in method.encoder_outputs(source_adapter)
    }
    with torch.device("meta"):
        adapter = method.build(backbone, source_adapter, next(iter(shapes.values()))[-1])
    if start is not None and init is not None:
        check_init(init, start, adapter, source, f"a {type(backbone.denoiser).__name__}")
    return adapter, shapes

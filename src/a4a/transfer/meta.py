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
from a4a.training.denoising import Denoising
from a4a.transfer.config import AdapterConfig, TransferSettings
from a4a.transfer.start import check_init, source_within
from a4a.utils.hub import resolve_zoo


@dataclass(frozen=True)
class MetaTransfer:
    """The denoiser and adapter of a transfer without weights."""

    settings: TransferSettings
    model: MetaModel
    adapter: ImagePromptAdapter
    embed_shape: tuple[int, ...]
    """Of an image's embedding: (image_embed_dim,), or (tokens, image_embed_dim) of the image encoder."""

    def random_batch(self, rows: int, pixels: int | None, device: torch.device | str) -> dict[str, Any]:
        """Random numbers in the shapes of encoded training data, of images of `pixels` (None: the model's own size)."""
        side = self.model.side(pixels)
        return {
            "latents": torch.randn(rows, self.model.channels, side, side, dtype=torch.float16, device=device),
            "embeds": torch.randn(rows, *self.embed_shape, dtype=torch.float16, device=device),
            **{f"text.{name}": t for name, t in self.random_text(rows, device).items()},
        }

    @contextmanager
    def objective(self) -> Iterator[Denoising]:
        """The training loss on the meta device, attached to the denoiser for as long as the context lasts."""
        settings = replace(self.settings.objective, compile=False)
        loss = Denoising(
            self.model.backbone, self.adapter, settings, self.random_text(1, "meta"), self.no_image("meta")
        )
        try:
            yield loss
        finally:
            loss.detach()

    def no_image(self, device: torch.device | str) -> Tensor:
        """In the shape of what stands for "no image": [1, *embed_shape]."""
        return torch.zeros(1, *self.embed_shape, device=device)

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
    adapter, shape = build_meta_adapter(settings.method, model.backbone, settings.source, settings.image_encoder, init)
    # nn.Module's own `to`: that of diffusers warns of layers to keep in float32, which models here have none of
    nn.Module.to(model.backbone.denoiser, settings.precision.dtype)
    with torch.device("meta"):
        replace(settings.precision, shard=False).apply(model.backbone)
    return MetaTransfer(settings, model, adapter, shape)


def build_meta_adapter(
    method: AdapterConfig,
    backbone: Backbone,
    source: Path | str | None,
    image_encoder: Path | str,
    init: Path | str | None = None,
) -> tuple[ImagePromptAdapter, tuple[int, ...]]:
    """The untrained adapter on the meta device, and the shape of the image embedding that it takes.

    InputError where backbone, source, method and the adapter to start from do not go together.
    """
    start = load_meta_adapter(init)
    source_adapter = load_meta_adapter(source) if source is not None else source_within(start)
    shape = embed_shape(image_encoder, method.encoder_output(source_adapter), source_adapter)
    with torch.device("meta"):
        adapter = method.build(backbone, source_adapter, shape[-1])
    if start is not None and init is not None:
        check_init(init, start, adapter, source, f"a {type(backbone.denoiser).__name__}")
    return adapter, shape

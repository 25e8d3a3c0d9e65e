"""Adapters and image encoders by their shapes alone, on the meta device."""

from pathlib import Path
from typing import Any

import torch
import transformers

from a4a.adapters.base import ImagePromptAdapter, sites_to_config
from a4a.adapters.formats import execution_depths
from a4a.adapters.ip_adapter import IPAdapter
from a4a.adapters.loading import load_adapter
from a4a.adapters.published import SOURCES
from a4a.encoders.base import Output
from a4a.encoders.published import IMAGE_ENCODERS
from a4a.errors import InputError, first_line
from a4a.features import Site
from a4a.utils.hub import resolve_model
from a4a.utils.modules import meta_parameter_count


def load_meta_adapter(name: str | Path | None) -> ImagePromptAdapter | None:
    """An adapter without its weights. A published one is known by name; any other is read for its shapes."""
    if name is None:
        return None
    if (known := SOURCES.get(str(name))) is None:
        return load_adapter(name).to(torch.device("meta"))
    depths = execution_depths(known.widths)
    sites = [
        Site(str(2 * i + 1), width, depth) for i, (width, depth) in enumerate(zip(known.widths, depths, strict=True))
    ]
    with torch.device("meta"):
        return IPAdapter(sites_to_config(sites), known.projection, known.image_encoder)


def embed_shape(image_encoder: str | Path, output: Output, source: ImagePromptAdapter | None) -> tuple[int, ...]:
    """Shape of an image's embedding: (image_embed_dim,), or (tokens, image_embed_dim) of an encoder's tokens.

    From the published encoders, else the encoder's configuration, else from what the source adapter takes.
    """
    if (known := IMAGE_ENCODERS.get(str(image_encoder))) is not None:
        return (known.image_embed_dim,) if output == "pooled" else (known.tokens, known.hidden_size)
    try:
        config = _vision_config(image_encoder)
    except InputError:
        if output == "pooled" and source is not None:
            return (source.image_embed_dim,)
        raise
    if output == "pooled":
        return (config.projection_dim,)
    return ((config.image_size // config.patch_size) ** 2 + 1, config.hidden_size)


def encoder_size(image_encoder: str | Path) -> int:
    """Parameters of an image encoder: of a published one, else by its configuration."""
    if (known := IMAGE_ENCODERS.get(str(image_encoder))) is not None:
        return known.parameters
    return meta_parameter_count(transformers.CLIPVisionModelWithProjection, _vision_config(image_encoder))


def _vision_config(image_encoder: str | Path) -> Any:
    name, folder = resolve_model(image_encoder, "image encoder")
    try:
        return transformers.CLIPVisionConfig.from_pretrained(name, **folder)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{image_encoder} has no configuration of a CLIP vision model that can be read ({first_line(error)}); "
            f"give a folder or one of {', '.join(IMAGE_ENCODERS)}."
        ) from error

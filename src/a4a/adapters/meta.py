"""Adapters and image encoders by their shapes alone, on the meta device."""

import json
from pathlib import Path

import torch
import transformers

from a4a.adapters import formats
from a4a.adapters.base import sites_to_config
from a4a.adapters.ip_adapter import IPAdapter
from a4a.adapters.published import SOURCES
from a4a.encoders.published import IMAGE_ENCODERS
from a4a.errors import InputError, first_line
from a4a.features import Site
from a4a.utils.hub import resolve_model, resolve_zoo
from a4a.utils.modules import meta_parameter_count


def load_meta_adapter(name: str | Path | None) -> IPAdapter | None:
    """An IP-Adapter without its weights; one that is no published one is read for its shapes."""
    if name is None:
        return None
    if (known := SOURCES.get(str(name))) is None:
        return formats.read(name).to("meta")  # pyright: ignore[reportArgumentType]
    depths = formats.execution_depths(known["widths"])
    sites = [
        Site(str(2 * i + 1), width, depth) for i, (width, depth) in enumerate(zip(known["widths"], depths, strict=True))
    ]
    with torch.device("meta"):
        return IPAdapter(
            sites_to_config(sites), known["image_embed_dim"], known["text_width"], known["tokens"], "CLIP ViT-H/14"
        )


def embed_width(image_encoder: str | Path, source: IPAdapter | None) -> int:
    """Of an encoder's embeddings: published ones, a folder's configuration, else what the source adapter takes."""
    if (known := IMAGE_ENCODERS.get(str(image_encoder))) is not None:
        return known.image_embed_dim
    config = Path(resolve_zoo(image_encoder)) / "config.json"
    if config.is_file():
        return int(json.loads(config.read_text())["projection_dim"])
    if source is not None:
        return source.image_embed_dim
    raise InputError(
        f"How wide the embeddings of {image_encoder} are is not known without loading it; give a folder or one of {', '.join(IMAGE_ENCODERS)}."
    )


def encoder_size(image_encoder: str | Path) -> int:
    """Parameters of an image encoder: of a published one, else by its configuration."""
    if (known := IMAGE_ENCODERS.get(str(image_encoder))) is not None:
        return known.parameters
    place, folder = resolve_model(image_encoder, "image encoder")
    try:
        config = transformers.CLIPVisionConfig.from_pretrained(place, **folder)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{image_encoder} has no configuration of a CLIP vision model that can be read ({first_line(error)})."
        ) from error
    return meta_parameter_count(transformers.CLIPVisionModelWithProjection, config)

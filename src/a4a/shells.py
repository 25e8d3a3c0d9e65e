"""Models by their configuration alone, on the meta device: every shape, no weights, no download for published ones."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DDPMScheduler, DiffusionPipeline
from torch import nn

from a4a.adapters import checkpoint
from a4a.adapters.adapter import sites_to_config
from a4a.adapters.ip_adapter import IPAdapter
from a4a.backbones import Backbone, families
from a4a.backbones.published import IMAGE_ENCODERS, MODELS, SOURCES
from a4a.errors import InputError, first_line
from a4a.features import Site
from a4a.places import model_place, resolve


@dataclass(frozen=True)
class Shell:
    """A backbone around a denoiser without weights."""

    backbone: Backbone
    encoders: dict[str, int]
    """Parameters of text encoders and VAE by their names in the pipeline."""

    @property
    def channels(self) -> int:
        return self.backbone.denoiser.config.in_channels

    def side(self, pixels: int | None) -> int:
        """Of the latents: of pictures of that size, or of the size that the denoiser was trained at."""
        return pixels // self.backbone.pipe.vae_scale_factor if pixels else self.backbone.denoiser.config.sample_size  # pyright: ignore[reportAttributeAccessIssue]


def model_shell(name: str | Path) -> Shell:
    """A published model, a folder, zoo:NAME or a hub name, whose configuration files alone are then fetched."""
    if (known := MODELS.get(str(name))) is not None:
        return Shell(_backbone(known.denoiser, known.config, DDPMScheduler(**_STABLE), 8), known.encoders)
    place, _ = model_place(name, "model")
    try:
        index = DiffusionPipeline.load_config(place)
        part, kind = next((part, entry[1]) for part, entry in index.items() if isinstance(entry, list) and entry[1] in families())  # pyright: ignore[reportAttributeAccessIssue]
        vae = diffusers.AutoencoderKL.load_config(place, subfolder="vae")
        scheduler = DDPMScheduler.from_config(DDPMScheduler.load_config(place, subfolder="scheduler"))  # pyright: ignore[reportArgumentType]
        config = getattr(diffusers, kind).load_config(place, subfolder=part)
        encoders = {"vae": _count(diffusers.AutoencoderKL.from_config, vae)}  # pyright: ignore[reportArgumentType]
        for text, entry in index.items():  # pyright: ignore[reportAttributeAccessIssue]
            if text.startswith("text_encoder") and entry[1]:  # pipelines name those that they were saved without
                made = getattr(transformers, entry[1])
                encoders[text] = _count(made, made.config_class.from_pretrained(place, subfolder=text))
    except StopIteration as error:
        raise InputError(f"{name} has no denoiser that is supported; expected one of {', '.join(sorted(families()))}.") from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name} has no configuration that can be read ({first_line(error)}); give a diffusers pipeline folder or hub name."
        ) from error
    factor = 2 ** (len(vae["block_out_channels"]) - 1)  # pyright: ignore[reportCallIssue, reportArgumentType]
    return Shell(_backbone(kind, config, scheduler, factor), encoders)  # pyright: ignore[reportArgumentType]


def source_shell(name: str | Path | None) -> IPAdapter | None:
    """An IP-Adapter without its weights; one that is no published one is read for its shapes."""
    if name is None:
        return None
    if (known := SOURCES.get(str(name))) is None:
        return checkpoint.read(name).to("meta")  # pyright: ignore[reportArgumentType]
    depths = checkpoint.execution_depths(known["widths"])
    sites = [Site(str(2 * i + 1), width, depth) for i, (width, depth) in enumerate(zip(known["widths"], depths, strict=True))]
    with torch.device("meta"):
        return IPAdapter(sites_to_config(sites), known["embed"], known["text_width"], known["tokens"], "CLIP ViT-H/14")


def embed_width(image_encoder: str | Path, source: IPAdapter | None) -> int:
    """Of an encoder's embeddings: published ones, a folder's configuration, else what the source adapter takes."""
    if (known := IMAGE_ENCODERS.get(str(image_encoder))) is not None:
        return known[0]
    config = Path(resolve(image_encoder)) / "config.json"
    if config.is_file():
        return int(json.loads(config.read_text())["projection_dim"])
    if source is not None:
        return source.embed
    raise InputError(
        f"How wide the embeddings of {image_encoder} are is not known without loading it; give a folder or one of {', '.join(IMAGE_ENCODERS)}."
    )


def encoder_size(image_encoder: str | Path) -> int:
    """Parameters of an image encoder: of a published one, else by its configuration."""
    if (known := IMAGE_ENCODERS.get(str(image_encoder))) is not None:
        return known[1]
    place, folder = model_place(image_encoder, "image encoder")
    try:
        config = transformers.CLIPVisionConfig.from_pretrained(place, **folder)
    except (OSError, ValueError) as error:
        raise InputError(f"{image_encoder} has no configuration of a CLIP vision model that can be read ({first_line(error)}).") from error
    return _count(transformers.CLIPVisionModelWithProjection, config)


def _count(make: Callable[[Any], nn.Module], config: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in make(config).parameters())


_STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def _backbone(kind: str, config: dict[str, Any], scheduler: Any, factor: int) -> Backbone:
    with torch.device("meta"):
        model = getattr(diffusers, kind)
        denoiser = model.from_config(config) if "_class_name" in config else model(**config)
    part = "unet" if kind.startswith("UNet") else "transformer"
    return families()[kind](SimpleNamespace(**{part: denoiser}, scheduler=scheduler, vae_scale_factor=factor))  # pyright: ignore[reportArgumentType]

"""Models by their configuration alone, on the meta device: every shape, no weights, no download for published ones."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DDPMScheduler, DiffusionPipeline

from a4a.backbones import Backbone, families
from a4a.backbones.published import MODELS
from a4a.errors import InputError, first_line
from a4a.utils.hub import resolve_model
from a4a.utils.modules import DENOISER_PARTS, meta_parameter_count


@dataclass(frozen=True)
class MetaModel:
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


def load_meta_model(name: str | Path) -> MetaModel:
    """A published model, a folder, zoo:NAME or a hub name, whose configuration files alone are then fetched."""
    if (known := MODELS.get(str(name))) is not None:
        return MetaModel(_backbone(known.denoiser, known.config, DDPMScheduler(**_STABLE), 8), known.encoders)
    place, _ = resolve_model(name, "model")
    try:
        index = DiffusionPipeline.load_config(place)
        part, kind = next(
            (part, entry[1]) for part, entry in index.items() if isinstance(entry, list) and entry[1] in families()
        )  # pyright: ignore[reportAttributeAccessIssue]
        vae = diffusers.AutoencoderKL.load_config(place, subfolder="vae")
        scheduler = DDPMScheduler.from_config(DDPMScheduler.load_config(place, subfolder="scheduler"))  # pyright: ignore[reportArgumentType]
        config = getattr(diffusers, kind).load_config(place, subfolder=part)
        encoders = {"vae": meta_parameter_count(diffusers.AutoencoderKL.from_config, vae)}  # pyright: ignore[reportArgumentType]
        for text, entry in index.items():  # pyright: ignore[reportAttributeAccessIssue]
            if text.startswith("text_encoder") and entry[1]:  # pipelines name those that they were saved without
                made = getattr(transformers, entry[1])
                encoders[text] = meta_parameter_count(made, made.config_class.from_pretrained(place, subfolder=text))
    except StopIteration as error:
        raise InputError(
            f"{name} has no denoiser that is supported; expected one of {', '.join(sorted(families()))}."
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name} has no configuration that can be read ({first_line(error)}); give a diffusers pipeline folder or hub name."
        ) from error
    factor = 2 ** (len(vae["block_out_channels"]) - 1)  # pyright: ignore[reportCallIssue, reportArgumentType]
    return MetaModel(_backbone(kind, config, scheduler, factor), encoders)  # pyright: ignore[reportArgumentType]


_STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def _backbone(kind: str, config: dict[str, Any], scheduler: Any, factor: int) -> Backbone:
    with torch.device("meta"):
        model = getattr(diffusers, kind)
        denoiser = model.from_config(config) if "_class_name" in config else model(**config)
    part = DENOISER_PARTS[0 if kind.startswith("UNet") else 1]
    return families()[kind](SimpleNamespace(**{part: denoiser}, scheduler=scheduler, vae_scale_factor=factor))  # pyright: ignore[reportArgumentType]

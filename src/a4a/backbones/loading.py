"""Load a diffusers pipeline, whole or in part."""

from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers import DiffusionPipeline

from a4a.backbones.base import denoiser_part
from a4a.errors import InputError, first_line
from a4a.utils.hub import resolve_zoo


def load_pipeline(
    path: str | Path, dtype: torch.dtype = torch.float32, parts: Literal["all", "encoders", "denoiser"] = "all"
) -> DiffusionPipeline:
    """A diffusers pipeline from a folder, a hub name or zoo:NAME.

    `encoders` leaves the denoiser without weights, for encoding data; `denoiser` leaves out VAE and text encoders, for
    training on data that are encoded.
    """
    path = resolve_zoo(path)
    if not Path(path).exists() and (path.startswith((".", "/", "~")) or path.count("/") != 1):
        raise InputError(
            f"There is no model folder {path}; give a diffusers pipeline folder or a hub name such as PixArt-alpha/PixArt-XL-2-1024-MS."
        )
    try:
        pipe = DiffusionPipeline.from_pretrained(path, dtype=dtype, **_instead(path, parts))
    except (OSError, ValueError) as error:
        first = first_line(error)
        raise InputError(
            f"{path} could not be loaded as a diffusers pipeline ({first}); it needs a model_index.json and the folders that it names."
        ) from error
    pipe.set_progress_bar_config(disable=True)
    if parts == "denoiser":
        pipe.register_modules(vae=None)
    return pipe


def _instead(path: str, parts: str) -> dict[str, Any]:
    """What stands for the parts that are not wanted: nothing, or a shell on the meta device where pipelines read its configuration."""
    if parts == "all":
        return {}
    named = {
        name: value
        for name, value in DiffusionPipeline.load_config(path).items()
        if isinstance(value, list) and value[0]
    }  # pyright: ignore[reportAttributeAccessIssue]
    denoiser = denoiser_part(named)
    hollow = denoiser if parts == "encoders" else "vae"
    kind = getattr(diffusers, named[hollow][1])
    with init_empty_weights():
        meta_model = {hollow: kind.from_config(kind.load_config(path, subfolder=hollow))}
    return (
        meta_model
        if parts == "encoders"
        else {**{name: None for name in named if name not in (denoiser, "scheduler")}, **meta_model}
    )

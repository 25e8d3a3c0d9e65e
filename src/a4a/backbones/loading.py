"""Load a diffusers pipeline, whole or in part."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers import DiffusionPipeline

from a4a.backbones.base import denoiser_part
from a4a.errors import InputError, first_line
from a4a.utils.hub import is_local, resolve_zoo

SAFETY_CHECKER = "safety_checker"


@dataclass(frozen=True)
class PipelineConfig:
    """The contents of a pipeline's model_index.json."""

    pipeline: str
    """Class of the pipeline in diffusers."""
    components: dict[str, str]
    """Class names of the components that the pipeline was saved with, by their names."""


def load_pipeline(
    path: str | Path,
    dtype: torch.dtype = torch.float32,
    parts: Literal["all", "unfiltered", "encoders", "denoiser"] = "all",
    upcast_vae: bool = False,
    **options: Any,
) -> DiffusionPipeline:
    """A diffusers pipeline from a folder, a hub name or zoo:NAME.

    Args:
        path: folder, hub name or zoo:NAME.
        dtype: of the weights.
        parts: `all`, or `unfiltered`: without the safety checker that SD1.5 comes with, which returns a black image for
            what it takes for unsafe, and so would change scores and what is trained. `encoders` also leaves the
            denoiser without weights, for encoding data; `denoiser` also leaves out VAE and text encoders, for training
            on encoded data.
        upcast_vae: leave the VAE in float32 where its configuration asks for that (`force_upcast`), for encoding images:
            SDXL's overflows in float16.
        options: those of `DiffusionPipeline.from_pretrained`.

    Raises InputError where there is no pipeline that can be read.
    """
    path = os.path.expanduser(resolve_zoo(path))
    if not Path(path).exists() and (is_local(path) or path.count("/") != 1):
        raise InputError(
            f"There is no model folder {path}; give a diffusers pipeline folder or a hub name such as "
            f"PixArt-alpha/PixArt-XL-2-1024-MS."
        )
    try:
        dtypes = {"default": dtype, "vae": torch.float32} if upcast_vae else dtype
        replacements = _replacements(path, parts)
        # the base class does not know which components its subclasses can do without, and would load those, too
        kind: Any = getattr(diffusers, pipeline_config(path).pipeline, None) if replacements else None
        pipe: Any = (kind or DiffusionPipeline).from_pretrained(path, dtype=dtypes, **replacements, **options)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} could not be loaded as a diffusers pipeline ({first_line(error)}); "
            f"it needs a model_index.json and the folders that it names."
        ) from error
    if upcast_vae and not pipe.vae.config.get("force_upcast"):
        torch.nn.Module.to(pipe.vae, dtype=dtype)
    if parts == "denoiser":
        pipe.register_modules(vae=None)
    return pipe


def pipeline_config(path: str) -> PipelineConfig:
    """The configuration of a saved pipeline; OSError or ValueError where there is none."""
    index: Any = DiffusionPipeline.load_config(path)
    components = {name: value[1] for name, value in index.items() if isinstance(value, list) and value[0]}
    return PipelineConfig(index["_class_name"], components)


def _replacements(path: str, parts: str) -> dict[str, Any]:
    """Components to load a pipeline with instead of its own: None, or a model without weights.

    Pipelines read the configurations of denoiser and VAE when they are made, so these two cannot be None.
    """
    if parts == "all":
        return {}
    components = pipeline_config(path).components
    denoiser = denoiser_part(components)
    no_filter: dict[str, Any] = (
        {SAFETY_CHECKER: None, "requires_safety_checker": False} if SAFETY_CHECKER in components else {}
    )
    if parts == "unfiltered":
        return no_filter
    if parts == "encoders":
        return no_filter | {denoiser: empty_model(path, denoiser, components[denoiser])}
    left_out: dict[str, Any] = {name: None for name in components if name not in (denoiser, "scheduler")}
    return no_filter | left_out | {"vae": empty_model(path, "vae", components["vae"])}


def empty_model(path: str | Path, name: str, kind: str) -> torch.nn.Module:
    """A component of a saved pipeline by its configuration, without memory for its weights.

    Its class need not be `kind`, the published one: diffusers has since split Transformer2DModel, by which PixArt was
    published, and makes the class that took its place.

    Raises InputError where diffusers has no such class.
    """
    model = diffusers_class(kind, path)
    with init_empty_weights():
        return model.from_config(model.load_config(path, subfolder=name))


def diffusers_class(kind: str, path: str | Path) -> Any:
    """A class of diffusers by its name in the configuration of `path`; InputError where there is none."""
    if (found := getattr(diffusers, kind, None)) is None:
        raise InputError(
            f"{path} names the class {kind}, which diffusers {diffusers.__version__} does not have; "
            f"give a model that diffusers loads without code of its own."
        )
    return found

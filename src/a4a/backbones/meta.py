"""Models by their configuration alone, on the meta device: every shape, no weights, no download for published ones."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from torch import nn

from a4a.backbones.base import Backbone, backbone_for, denoiser_part, families
from a4a.backbones.loading import diffusers_class, pipeline_config
from a4a.backbones.published import Component, PublishedModel
from a4a.errors import InputError, first_line
from a4a.utils.hub import resolve_model
from a4a.utils.modules import meta_parameter_count, parameter_count


@dataclass(frozen=True)
class MetaModel:
    """A backbone around a denoiser without weights."""

    backbone: Backbone
    encoders: dict[str, int]
    """Parameters of text encoders and VAE by their names in the pipeline."""

    @property
    def channels(self) -> int:
        return self.backbone.latent_channels

    def side(self, pixels: int | None) -> int:
        """Side of the latents of square images of so many pixels; by default of those the model was trained on."""
        return self.backbone.latent_size(pixels)


def load_meta_model(name: str | Path) -> MetaModel:
    """A published model, a folder, zoo:NAME or a hub name, whose configuration files alone are then fetched.

    Raises InputError where there is no configuration that can be read, or no denoiser that is supported.
    """
    if (known := published_models().get(str(name))) is not None:
        return _meta_model(known)
    path, _ = resolve_model(name, "model")
    try:
        return _meta_model(read_published(path))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name} has no configuration that can be read ({first_line(error)}); "
            f"give a diffusers pipeline folder or hub name."
        ) from error


def published_models() -> dict[str, PublishedModel]:
    """The published models of all families, by hub name."""
    return {name: model for family in set(families().values()) for name, model in family.published.items()}


def read_published(path: str) -> PublishedModel:
    """The same description for any other pipeline, read from its configuration files."""
    config = pipeline_config(path)
    denoiser = denoiser_part(config.components)
    components = {
        name: (kind, diffusers_class(kind, path).load_config(path, subfolder=name))
        for name, kind in config.components.items()
        if name in (denoiser, "transformer_2", "vae", "scheduler")
    }
    text_encoders = {
        name: _count_text_encoder(kind, path, name)
        for name, kind in config.components.items()
        if name.startswith("text_encoder")
    }
    return PublishedModel(config.pipeline, components, text_encoders)


def meta_pipeline(pipeline: str, components: Mapping[str, Component]) -> Any:
    """A diffusers pipeline whose models are on the meta device; whatever `components` does not name is None."""
    kind = diffusers_class(pipeline, "The model")
    parameters = inspect.signature(kind.__init__).parameters
    parts: dict[str, Any] = {
        n: None for n, p in parameters.items() if n != "self" and p.default is inspect.Parameter.empty
    }
    if "requires_safety_checker" in parameters:
        parts["requires_safety_checker"] = False  # or it warns that there is none
    for name, (model, config) in components.items():
        with torch.device("meta" if name != "scheduler" else "cpu"):  # the scheduler's values are needed
            parts[name] = getattr(diffusers, model).from_config(dict(config))
    return kind(**parts)


def _meta_model(model: PublishedModel) -> MetaModel:
    pipe: DiffusionPipeline = meta_pipeline(model.pipeline, model.components)
    models = {n: p for n, p in pipe.components.items() if isinstance(p, nn.Module) and n in model.components}
    denoiser = denoiser_part(pipe)
    encoders = {name: parameter_count(part) for name, part in models.items() if name != denoiser}
    pipe.register_modules(**dict.fromkeys(encoders))  # so that the pipeline's device is the denoiser's
    return MetaModel(backbone_for(pipe), model.text_encoders | encoders)


def _count_text_encoder(kind: str, path: str, name: str) -> int:
    model = getattr(transformers, kind)
    return meta_parameter_count(model, model.config_class.from_pretrained(path, subfolder=name))

"""Pipelines and adapters that were loaded already, the last few of each."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from diffusers import DiffusionPipeline

from a4a.adapters.loading import encoder_of, load_adapter
from a4a.adapters.multi_source import choose_source
from a4a.backbones import load_pipeline
from a4a.pipeline import ImagePromptPipeline
from a4a.utils.modules import default_device
from a4a.web.app.catalogue import AdapterChoice, ModelChoice

KEPT_MODELS = 8
KEPT_ADAPTERS = 16
Value = TypeVar("Value")


class Models:
    """Loads a model or an adapter when it is first used. Not for several threads: the drawing thread alone calls it."""

    def __init__(self) -> None:
        self._pipelines: OrderedDict[str, DiffusionPipeline] = OrderedDict()
        self._prompted: OrderedDict[tuple[str, AdapterChoice], ImagePromptPipeline] = OrderedDict()

    def pipeline(self, model: ModelChoice, adapter: AdapterChoice) -> ImagePromptPipeline:
        """A model with an adapter, on the GPU in half precision if there is one."""
        return _kept(self._prompted, (model.path, adapter), lambda: self._load(model, adapter), KEPT_ADAPTERS)

    def _load(self, model: ModelChoice, choice: AdapterChoice) -> ImagePromptPipeline:
        adapter = choose_source(load_adapter(choice.path), choice.source)
        encoder = encoder_of(adapter, choice.path, choice.image_encoder)
        pipe = _kept(self._pipelines, model.path, lambda: _load_pipeline(model), KEPT_MODELS)
        return ImagePromptPipeline(pipe, adapter, encoder.to(default_device()))


def _load_pipeline(model: ModelChoice) -> DiffusionPipeline:
    device = default_device()
    pipe: Any = load_pipeline(model.path, dtype=torch.float16 if device.type == "cuda" else torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def _kept(values: OrderedDict[Any, Value], key: Any, make: Callable[[], Value], most: int) -> Value:
    """The value of a key, made where it is missing; the one that was not used for longest gives way."""
    if key not in values:
        values[key] = make()
    values.move_to_end(key)
    if len(values) > most:
        values.popitem(last=False)
    return values[key]

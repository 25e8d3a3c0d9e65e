"""`init`: a run that starts from the weights of a trained adapter. Optimizer, schedule and data are all new."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from a4a.adapters.a4a import A4A
from a4a.adapters.base import ImagePromptAdapter, adapter_to_config
from a4a.adapters.loading import load_adapter
from a4a.adapters.multi_source import MultiSourceA4A, choose_source
from a4a.errors import InputError
from a4a.transfer.config import Source, SourceName, TransferSettings, by_name

COMPARED_OTHERWISE = {"_class_name", "sites", "base", "bases", "image_encoder"}
"""Settings in an adapter's configuration that are not compared by their value."""


def load_init_and_source(settings: TransferSettings) -> tuple[ImagePromptAdapter | None, Source]:
    """The adapter that a run starts from, and its source or sources; None where the settings have none."""
    init = load_adapter(settings.init) if settings.init is not None else None
    return init, load_source(settings.source, load_adapter) or source_within(init)


def load_source(name: SourceName, load: Callable[[Path | str], ImagePromptAdapter | None]) -> Source:
    """What a recipe's `source` names: an adapter, or several by name. InputError where it names one in a group."""
    if name is None:
        return None
    if not isinstance(name, dict):
        return _one_source(load(name))
    if len(name) < 2:
        raise InputError("source is a group of adapters by name but has fewer than two; give one as source alone.")
    loaded = {key: _one_source(load(path)) for key, path in name.items()}
    return {key: adapter for key, adapter in loaded.items() if adapter is not None}


def _one_source(adapter: ImagePromptAdapter | None) -> ImagePromptAdapter | None:
    """InputError for an adapter that itself has several sources."""
    return choose_source(adapter) if adapter is not None else None


def source_within(init: ImagePromptAdapter | None) -> Source:
    """The source of a run that starts from `init` and names none: an A4A brings its own."""
    if isinstance(init, MultiSourceA4A):
        return {name: adapter.source for name, adapter in init.adapters.items()}
    return init.source if isinstance(init, A4A) else init


def describe_source(name: SourceName) -> str | None:
    """What a recipe's `source` names, in one line."""
    return ", ".join(map(str, name.values())) if isinstance(name, dict) else None if name is None else str(name)


def check_init(
    name: Path | str, init: ImagePromptAdapter, adapter: ImagePromptAdapter, source: SourceName, model: Path | str
) -> None:
    """InputError, one sentence, where the weights of `init` do not fit `adapter`, by their configurations alone.

    Args:
        name: of `init`.
        adapter: as the recipe describes it.
        source, model: their names in the recipe.
    """
    if type(init) is not type(adapter):
        raise InputError(
            f"init is {name}, of the class {type(init).__name__}, but the method trains {type(adapter).__name__}; "
            "give an adapter that was trained by the same method, or set method to fit it."
        )
    before, now = _sources(init), _sources(adapter)
    if before.keys() != now.keys() or any(_shapes(before[key]) != _shapes(now[key]) for key in now):
        raise _other_source(name, source)
    found, expected = ([site.width for site in a.sites] for a in (init, adapter))
    if found != expected:
        raise InputError(
            f"init is {name}, an adapter for another model than {model}: {_sites(found)}, not {_sites(expected)}; "
            "give an adapter for this model."
        )
    before, now = _settings(init), _settings(adapter)
    for key in now:
        if None not in (before.get(key), now[key]) and before[key] != now[key]:  # None: a size, compared below
            raise InputError(
                f"init is {name}, which was trained with {key} {before[key]}, but the method has {key} {now[key]}; "
                "set them alike."
            )
    shapes, needed = _shapes(init), _shapes(adapter)
    for key in [*needed, *shapes]:
        if shapes.get(key) != needed.get(key):
            raise InputError(
                f"init is {name}, whose {key} is {_shape(shapes.get(key))}, but the method makes it "
                f"{_shape(needed.get(key))}; set the method's options as they were when it was trained."
            )


def start_from(
    name: Path | str, init: ImagePromptAdapter, adapter: ImagePromptAdapter, source: SourceName, model: Path | str
) -> None:
    """Loads the weights of `init` into `adapter`; InputError as by `check_init`, and where the source has others."""
    check_init(name, init, adapter, source, model)
    for key, own in _sources(adapter).items():
        weights = own.state_dict()
        if not all(torch.equal(t, weights[k].to(t)) for k, t in _sources(init)[key].state_dict().items()):
            raise _other_source(name, source)
    adapter.load_state_dict(init.state_dict())


def _sources(adapter: ImagePromptAdapter) -> Mapping[str, ImagePromptAdapter]:
    """The sources within an adapter by name; none of an IP-Adapter."""
    within = source_within(adapter)
    return {} if within is adapter else by_name(within)


def _other_source(name: Path | str, source: SourceName) -> InputError:
    return InputError(
        f"init is {name}, which was made from another source than {describe_source(source)}, or has fine-tuned it; "
        "leave out source to go on with its own."
    )


def _settings(adapter: ImagePromptAdapter) -> dict[str, Any]:
    """What the adapter's configuration says besides its sites and its source."""
    config = {key: value for key, value in adapter_to_config(adapter).items() if key not in COMPARED_OTHERWISE}
    projection = config.pop("projection", {})
    return config | projection


def _shapes(adapter: ImagePromptAdapter) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in adapter.state_dict().items()}


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))


def _sites(widths: list[int]) -> str:
    """`32 sites of widths 1152`."""
    return f"{len(widths)} sites of widths {', '.join(map(str, dict.fromkeys(widths)))}"

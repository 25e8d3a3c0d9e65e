"""`init`: a run that starts from the weights of a trained adapter. Optimizer, schedule and data are all new."""

from pathlib import Path
from typing import Any

import torch

from a4a.adapters.a4a import A4A
from a4a.adapters.base import ImagePromptAdapter, adapter_to_config
from a4a.adapters.loading import load_adapter
from a4a.errors import InputError
from a4a.transfer.config import TransferSettings

Name = Path | str | None
COMPARED_OTHERWISE = {"_class_name", "sites", "base", "image_encoder"}
"""Settings in an adapter's configuration that are not compared by their value."""


def load_init_and_source(
    settings: TransferSettings,
) -> tuple[ImagePromptAdapter | None, ImagePromptAdapter | None]:
    """The adapter that a run starts from, and its source; None where the settings have none."""
    init = load_adapter(settings.init) if settings.init is not None else None
    return init, load_adapter(settings.source) if settings.source is not None else source_within(init)


def source_within(init: ImagePromptAdapter | None) -> ImagePromptAdapter | None:
    """The source of a run that starts from `init` and names none: an A4A brings its own."""
    return init.source if isinstance(init, A4A) else init


def check_init(
    name: Path | str, init: ImagePromptAdapter, adapter: ImagePromptAdapter, source: Name, model: Path | str
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
    if isinstance(init, A4A) and isinstance(adapter, A4A) and _shapes(init.source) != _shapes(adapter.source):
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
    name: Path | str, init: ImagePromptAdapter, adapter: ImagePromptAdapter, source: Name, model: Path | str
) -> None:
    """Loads the weights of `init` into `adapter`; InputError as by `check_init`, and where the source has others."""
    check_init(name, init, adapter, source, model)
    if isinstance(init, A4A) and isinstance(adapter, A4A):
        weights = adapter.source.state_dict()
        if not all(torch.equal(t, weights[key].to(t)) for key, t in init.source.state_dict().items()):
            raise _other_source(name, source)
    adapter.load_state_dict(init.state_dict())


def _other_source(name: Path | str, source: Name) -> InputError:
    return InputError(
        f"init is {name}, which was made from another source than {source}, or has fine-tuned it; "
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

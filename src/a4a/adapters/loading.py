"""An adapter by the name that people give: a folder that a4a saved, here or on the hub, or a published checkpoint."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
from safetensors import SafetensorError, safe_open

from a4a.adapters import formats
from a4a.adapters.base import ImagePromptAdapter, adapter_classes, adapter_from_config
from a4a.adapters.model_card import card
from a4a.adapters.multi_source import choose_source
from a4a.encoders.base import ImageEncoder
from a4a.encoders.clip import CLIPImageEncoder
from a4a.errors import InputError, first_line
from a4a.utils.files import atomic_write
from a4a.utils.hub import MODEL_WEIGHTS, resolve_model, resolve_zoo


def load_adapter(path: str | Path, torch_dtype: torch.dtype | None = None) -> ImagePromptAdapter:
    """Load any adapter; `A4A.from_pretrained` and `IPAdapter.from_pretrained` do the same and check the kind.

    Args:
        path: zoo:NAME, a folder that a4a saved, a published checkpoint, or a hub name of either (`owner/repo`,
            `owner/repo/folder`, `owner/repo/file`).
        torch_dtype: of the weights; float32 by default, and always for an A4A.

    Raises InputError, one sentence, for anything that is no adapter.
    """
    config = find_config(path, "config.json")
    adapter = formats.read(path) if config is None else _load_saved(path, config)
    return adapter.to(dtype=torch_dtype) if torch_dtype is not None else adapter


def find_config(name: str | Path, *files: str) -> Path | None:
    """The first of the configuration `files` that a model has.

    `name` is a folder, zoo:NAME, or `owner/repo` or `owner/repo/folder` on the hub.

    None where something is here without such a file, and for the name of a checkpoint; InputError where there is
    nothing here and the hub has no such file.
    """
    local, reason = Path(resolve_zoo(name)).expanduser(), ""
    if local.exists() or local.suffix in formats.SUFFIXES:
        return next((local / file for file in files if (local / file).is_file()), None)
    repo, folder = resolve_model(name, "adapter or model")
    for file in files:
        try:
            return Path(hf_hub_download(repo, file, **folder))
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            reason = first_line(error)
            if not isinstance(error, EntryNotFoundError):
                break  # no such repository or no connection: another file would not be found either
    raise InputError(
        f"There is no {name} here, and the hub gave no {' or '.join(files)} of that name ({reason}); "
        f"check the name or the connection."
    )


def _load_saved(path: str | Path, config_file: Path) -> ImagePromptAdapter:
    """An adapter from a folder that a4a saved; its configuration is checked against the weights' shapes first."""
    config = read_config(config_file)
    folder = _whole_folder(path, config_file)
    shapes = _weight_shapes(folder)
    _check_sizes(config, shapes, config_file)
    try:
        with torch.device("meta"):
            expected = {name: tuple(t.shape) for name, t in adapter_from_config(config).state_dict().items()}
    except Exception as error:  # a wrong value raises whatever the layers make of it
        raise InputError(f"{config_file} describes no adapter ({first_line(error)}); restore it.") from error
    if difference := _first_difference(expected, shapes):
        raise InputError(f"The weights in {folder} do not fit their config.json: {difference}; restore the folder.")
    try:
        return adapter_classes()[config["_class_name"]].from_folder(folder)
    except Exception as error:  # of diffusers, of safetensors, and of layers on values that a meta tensor lets pass
        raise InputError(
            f"The adapter folder {path} is incomplete or corrupted ({first_line(error)}); copy or train it again."
        ) from error


def read_config(file: Path) -> dict[str, Any]:
    """The configuration of a saved adapter; InputError where it is none."""
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} is not valid JSON; restore the folder from where it came.") from error
    kind, known = config.get("_class_name") if isinstance(config, dict) else None, adapter_classes()
    if not isinstance(kind, str) or kind not in known:
        raise InputError(
            f"{file} describes a {kind}, not an adapter; expected _class_name to be one of {', '.join(sorted(known))}."
        )
    return config


def _whole_folder(path: str | Path, config_file: Path) -> Path:
    """The folder with configuration and weights; a folder on the hub is downloaded."""
    repo, folder = resolve_model(path, "adapter")
    if Path(repo).is_dir():
        return config_file.parent
    inside = f"{folder['subfolder']}/" if folder else ""
    try:
        downloaded = snapshot_download(repo, allow_patterns=[f"{inside}config.json", f"{inside}{MODEL_WEIGHTS}"])
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise InputError(f"The hub did not give the weights of {path} ({first_line(error)}); try again.") from error
    return Path(downloaded) / inside


def _weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor in the folder's weights, from the files' headers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob(MODEL_WEIGHTS)):
        try:
            with safe_open(file, "pt") as tensors:
                shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"The adapter folder {folder} is incomplete or corrupted: {file.name} cannot be read "
                f"({first_line(error)}); copy or train it again."
            ) from error
    if not shapes:
        raise InputError(
            f"The adapter folder {folder} is incomplete or corrupted: it has no {MODEL_WEIGHTS}; copy or train it again."
        )
    return shapes


def _check_sizes(config: Any, shapes: dict[str, tuple[int, ...]], file: Path) -> None:
    """InputError where a size is larger than all weights together, before anything is built of that size."""
    limit = sum(map(math.prod, shapes.values()))
    values = [config]
    while values:
        value = values.pop()
        if isinstance(value, dict | list):
            values += value.values() if isinstance(value, dict) else value
        elif isinstance(value, int | float) and not abs(value) <= limit:
            raise InputError(
                f"{file} has the size {value}, but all weights of its folder are {limit:,} numbers; restore it."
            )


def _first_difference(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> str | None:
    for name in [*expected, *found]:
        if expected.get(name) != found.get(name):
            return f"{name} is {_shape(found.get(name))}, expected {_shape(expected.get(name))}"
    return None


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))


def encoder_of(adapter: ImagePromptAdapter, name: str, image_encoder: str | None = None) -> ImageEncoder:
    """The image encoder that is given, or else the one that the adapter names; InputError where it names none."""
    adapter = choose_source(adapter)
    encoder = image_encoder or adapter.image_encoder_path
    if encoder is None:
        raise InputError(
            f"The adapter {name} does not name its image encoder ({adapter.image_encoder or 'nothing recorded'}); "
            f"give image_encoder, a CLIP vision model whose {adapter.encoder_output} embeddings have width "
            f"{adapter.image_embed_dim}."
        )
    return CLIPImageEncoder.from_pretrained(encoder, output=adapter.encoder_output)


def save_with_card(adapter: ImagePromptAdapter, folder: Path, facts: dict[str, Any]) -> None:
    """Write the folder whole or not at all. `facts`: see `card`."""
    with atomic_write(folder) as temporary:
        temporary.mkdir(parents=True)
        write_with_card(adapter, temporary, facts)


def write_with_card(adapter: ImagePromptAdapter, folder: Path, facts: dict[str, Any]) -> None:
    """Write into an empty folder."""
    card(adapter, facts).save(folder / "README.md")
    adapter.save_pretrained(folder)

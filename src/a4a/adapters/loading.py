"""An adapter from whatever a person points at: a folder that a4a saved, here or on the hub, or a published checkpoint."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError

from a4a.adapters import formats
from a4a.adapters.a4a import A4A
from a4a.adapters.base import ImagePromptAdapter
from a4a.adapters.ip_adapter import IPAdapter
from a4a.adapters.model_card import card
from a4a.encoders.clip import CLIPImageEncoder
from a4a.errors import InputError, first_line
from a4a.utils.files import atomic_write
from a4a.utils.hub import resolve_model, resolve_zoo

KINDS: dict[str, type[ImagePromptAdapter]] = {"A4A": A4A, "IPAdapter": IPAdapter}


def load_adapter(path: str | Path) -> ImagePromptAdapter:
    """Raises InputError, one sentence, for anything that is no adapter."""
    config = described(path, "config.json")
    if config is None:
        return formats.read(path)
    try:
        kind = json.loads(config.read_text()).get("_class_name")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{config} is not valid JSON; restore the folder from where it came.") from error
    if kind not in KINDS:
        raise InputError(
            f"{config} describes a {kind}, not an adapter; expected _class_name to be one of {', '.join(KINDS)}."
        )
    place, folder = resolve_model(path, "adapter")
    try:
        return KINDS[kind].from_pretrained(place, **folder, low_cpu_mem_usage=False)  # pyright: ignore[reportReturnType]
    except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
        raise InputError(
            f"The adapter folder {path} is incomplete or corrupted ({first_line(error)}); copy or train it again."
        ) from error


def described(name: str | Path, *files: str) -> Path | None:
    """The first of `files` in a folder, in zoo:NAME, or in `owner/repo` or `owner/repo/folder` on the hub.

    None where something is here without such a file, and for the name of a checkpoint; InputError where the hub gives none.
    """
    local, reason = Path(resolve_zoo(name)).expanduser(), ""
    if local.exists() or local.suffix in formats.SUFFIXES:
        return next((local / file for file in files if (local / file).is_file()), None)
    place, folder = resolve_model(name, "adapter or model")
    for file in files:
        try:
            return Path(hf_hub_download(place, file, **folder))
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            reason = first_line(error)
    raise InputError(
        f"There is no {name} here, and the hub gave no {' or '.join(files)} of that name ({reason}); check the name or the connection."
    )


def encoder_of(adapter: ImagePromptAdapter, name: str, image_encoder: str | None = None) -> CLIPImageEncoder:
    """The image encoder that is given, or else the one that the adapter names; InputError where it names none."""
    encoder = image_encoder or adapter.image_encoder_path
    if encoder is None:
        raise InputError(
            f"The adapter {name} does not name its image encoder ({adapter.image_encoder or 'nothing recorded'}); give image_encoder, "
            f"a CLIP vision model with embeddings of width {adapter.image_embed_dim}."
        )
    return CLIPImageEncoder.from_pretrained(encoder)


def save_with_card(adapter: ImagePromptAdapter, folder: Path, facts: dict[str, Any]) -> None:
    """Writes the folder whole or not at all. `facts`: model, source, samples."""
    with atomic_write(folder) as beside:
        beside.mkdir(parents=True)
        adapter.save_pretrained(beside)
        card(adapter, facts).save(beside / "README.md")

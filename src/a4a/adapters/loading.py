"""An adapter from whatever a person points at: a folder that a4a saved, or a published checkpoint."""

import json
from pathlib import Path

from safetensors import SafetensorError

from a4a.adapters import checkpoint
from a4a.adapters.a4a import A4A
from a4a.adapters.adapter import ImagePromptAdapter
from a4a.adapters.encoders import CLIPImageEncoder
from a4a.adapters.ip_adapter import IPAdapter
from a4a.errors import InputError, first_line
from a4a.places import resolve

KINDS: dict[str, type[ImagePromptAdapter]] = {"A4A": A4A, "IPAdapter": IPAdapter}


def load_adapter(path: str | Path) -> ImagePromptAdapter:
    """Raises InputError, one sentence, for anything that is no adapter."""
    path = resolve(path)
    config = Path(path) / "config.json"
    if not config.is_file():
        return checkpoint.read(path)
    try:
        kind = json.loads(config.read_text()).get("_class_name")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{config} is not valid JSON; restore the folder from where it came.") from error
    if kind not in KINDS:
        raise InputError(f"{config} describes a {kind}, not an adapter; expected _class_name to be one of {', '.join(KINDS)}.")
    try:
        return KINDS[kind].from_pretrained(path, low_cpu_mem_usage=False)  # pyright: ignore[reportReturnType]
    except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
        raise InputError(f"The adapter folder {path} is incomplete or corrupted ({first_line(error)}); copy or train it again.") from error


def encoder_of(adapter: ImagePromptAdapter, name: str, image_encoder: str | None = None) -> CLIPImageEncoder:
    """The image encoder that is given, or else the one that the adapter names; InputError where it names none."""
    encoder = image_encoder or adapter.image_encoder
    if not encoder or encoder.startswith(("CLIP ", "an image encoder")):
        raise InputError(
            f"The adapter {name} does not name its image encoder ({encoder or 'nothing recorded'}); give image_encoder, "
            f"a CLIP vision model with embeddings of width {adapter.embed}."
        )
    return CLIPImageEncoder.load(encoder)

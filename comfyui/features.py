"""What the nodes hand on: an adapter with its image encoder, and the features of image prompts, which can be saved."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from a4a import ImagePromptAdapter, InputError, Site, SiteFeatures, load_adapter
from a4a.adapters.base import sites_from_config, sites_to_config
from a4a.adapters.loading import encoder_of
from a4a.adapters.multi_source import choose_source
from a4a.encoders import ImageEncoder
from a4a.utils.files import atomic_write
from a4a.utils.images import to_pil

HALVES, KINDS = ("prompt", "negative"), ("keys", "values")


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter for one model, and the image encoder that it takes."""

    adapter: ImagePromptAdapter
    image_encoder: ImageEncoder


@dataclass(frozen=True)
class ImagePrompts:
    """Features of image prompts for the sites of one model."""

    sites: tuple[Site, ...]
    features: SiteFeatures
    negative: SiteFeatures
    """What guidance sees where it sees the negative prompt; as many rows."""


def load(name: str, image_encoder: str = "", source: str = "") -> LoadedAdapter:
    """An adapter by the name that `a4a.load_adapter` takes, on the CPU.

    Args:
        name: a folder, a file, zoo:NAME or a hub name.
        image_encoder: a folder or a hub name; by default the one that the adapter names.
        source: which of its sources an adapter of several is used with.
    """
    adapter = choose_source(load_adapter(name), source or None).eval()
    return LoadedAdapter(adapter, encoder_of(adapter, name, image_encoder or None))


@torch.no_grad()
def encode(loaded: LoadedAdapter, images: Tensor, device: torch.device | str = "cpu") -> ImagePrompts:
    """Features of each image, computed on `device`, on the CPU.

    Args:
        loaded: the adapter.
        images: as ComfyUI has them: [images, height, width, 3] in [0, 1].
        device: where adapter and encoder run; afterwards they are back on the CPU.
    """
    adapter, encoder = loaded.adapter.to(device), loaded.image_encoder.to(device)
    try:
        embeds = encoder(to_pil(images[..., :3].movedim(-1, 1))).to(device, adapter.dtype)
        nothing = adapter.unconditional(embeds[:1], encoder.unconditional())
        features, negative = (adapter(e).to("cpu") for e in (embeds, nothing))
    finally:
        adapter.to("cpu")
        encoder.to("cpu")
    return ImagePrompts(adapter.sites, features, negative.map(lambda t: t.expand(len(embeds), -1, -1)))


def save(prompts: ImagePrompts, file: Path) -> None:
    """Write features into a safetensors file, whole or not at all."""
    halves = zip(HALVES, (prompts.features, prompts.negative), strict=True)
    tensors = {
        f"{half}.{kind}.{i}": t.contiguous()
        for half, features in halves
        for kind, parts in zip(KINDS, (features.keys, features.values), strict=True)
        for i, t in enumerate(parts)
    }
    with atomic_write(file) as temporary:
        save_file(tensors, temporary, {"a4a.sites": json.dumps(sites_to_config(prompts.sites))})


def read(file: Path) -> ImagePrompts:
    """Features that `save` wrote; InputError where the file holds none."""
    try:
        with safe_open(file, "pt") as tensors:
            sites = sites_from_config(json.loads(tensors.metadata()["a4a.sites"]))
            prompt, negative = (
                SiteFeatures(
                    *(tuple(tensors.get_tensor(f"{half}.{kind}.{i}") for i in range(len(sites))) for kind in KINDS)
                )
                for half in HALVES
            )
    except FileNotFoundError as error:
        raise InputError(f"There is no file {file}; save features first.") from error
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} holds no features that a4a's node has saved; give a file of its own.") from error
    prompt.check(sites, str(file))
    return ImagePrompts(sites, prompt, negative)

"""What the nodes hand on: an adapter with its image encoder, and the features of image prompts, which can be saved."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from a4a import InputError, Site, SiteFeatures, load_adapter
from a4a.adapters.base import sites_from_config, sites_to_config
from a4a.adapters.loading import encoder_of
from a4a.adapters.multi_source import choose_source
from a4a.pipeline import ImagePrompt
from a4a.pipeline.adapter import EncodedAdapter
from a4a.pipeline.image_prompt import COMBINATIONS, combined
from a4a.utils.files import atomic_write
from a4a.utils.images import to_pil

BATCH = "batch"
WAYS = (*COMBINATIONS, BATCH)
"""What several references are: one image prompt, in one of a4a's ways, or one for each image of a batch."""
SITES, KINDS, SIDES = "a4a.sites", ("keys", "values"), ("prompt", "negative")
"""Names inside a file of features."""


@dataclass(frozen=True)
class Tokens:
    """Image keys and values of one side of guidance."""

    features: SiteFeatures
    """One row for all images of a batch, or one for each."""
    counts: Tensor | None = None
    """[rows, tokens]: how many times each token counts; once by default."""

    def to(self, device: Any) -> Self:
        counts = None if self.counts is None else self.counts.to(device)
        return type(self)(self.features.to(device), counts)


@dataclass(frozen=True)
class ImagePrompts:
    """Image prompts for the sites of one model."""

    sites: tuple[Site, ...]
    prompt: Tokens
    negative: Tokens
    """What guidance sees where it sees the negative prompt."""


def load(name: str, image_encoder: str = "", source: str = "") -> EncodedAdapter:
    """An adapter and its image encoder, on the CPU.

    Args:
        name: of the adapter, as `a4a.load_adapter` takes it: a folder, a file, zoo:NAME or a hub name.
        image_encoder: a folder or a hub name; by default the one that the adapter names.
        source: which of its sources an adapter of several is used with.
    """
    adapter = choose_source(load_adapter(name), source or None)
    return EncodedAdapter(adapter, encoder_of(adapter, name, image_encoder or None))


@torch.no_grad()
def encode(
    adapter: EncodedAdapter,
    images: Sequence[Tensor],
    weights: str = "",
    combine: str = "concat",
    negative: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> ImagePrompts:
    """Image prompts of reference images.

    Args:
        adapter: for the model that will draw.
        images: as ComfyUI has them, batches [images, height, width, 3] in [0, 1] of any sizes.
        weights: of the images, separated by commas; nothing, or one number for all.
        combine: one of `WAYS`.
        negative: an image that the picture should not be like; several count alike.
        device: where adapter and encoder run; they and the features are on the CPU afterwards.
    """
    device = torch.device(device)
    try:
        embeds = torch.cat([_embeds(adapter, batch, device) for batch in images])
        numbers = _numbers(weights)
        if combine == BATCH:
            if numbers is not None:
                raise InputError(
                    f"The weights are {weights!r}, but images of a batch are not weighted; leave them out."
                )
            prompt, no_image = adapter.features(embeds, device)
            tokens = Tokens(prompt)
        else:
            given = ImagePrompt(embeds=embeds, weights=1.0 if numbers is None else numbers, combine=combine)
            tokens, no_image = _as_one(given, adapter, device)
        nothing = Tokens(no_image)
        if negative is not None:
            nothing = _as_one(ImagePrompt(embeds=_embeds(adapter, negative, device)), adapter, device)[0]
        return ImagePrompts(adapter.adapter.sites, tokens.to("cpu"), nothing.to("cpu"))
    finally:
        adapter.to(device="cpu")


def _embeds(adapter: EncodedAdapter, images: Tensor, device: torch.device) -> Tensor:
    """Image embeddings of a batch as ComfyUI has it, without transparency."""
    return adapter.encode(to_pil(images[..., :3].movedim(-1, 1)), device)


def _as_one(prompt: ImagePrompt, adapter: EncodedAdapter, device: torch.device) -> tuple[Tokens, SiteFeatures]:
    """All references of an image prompt as one row, and the features of "no image"."""
    embeds: Any = prompt.embeds
    weights = prompt.weights_for(len(embeds))
    features, no_image = adapter.features(combined(embeds, weights, prompt.combine), device)
    counts = prompt.counts_for(len(embeds), features.tokens)
    return Tokens(features.map(lambda t: t.flatten(0, 1)[None]), counts), no_image


def _numbers(text: str) -> list[float] | float | None:
    """Numbers separated by commas; None for an empty text."""
    try:
        numbers = [float(part) for part in text.split(",")] if text.strip() else None
    except ValueError as error:
        raise InputError(f"The weights are {text!r}; expected numbers separated by commas, such as 1, 0.5.") from error
    return numbers[0] if numbers is not None and len(numbers) == 1 else numbers


def save(prompts: ImagePrompts, file: Path) -> None:
    """Write image prompts into a safetensors file, whole or not at all."""
    tensors = {}
    for name, side in zip(SIDES, (prompts.prompt, prompts.negative), strict=True):
        for kind, parts in zip(KINDS, (side.features.keys, side.features.values), strict=True):
            tensors |= {f"{name}.{kind}.{i}": t.contiguous() for i, t in enumerate(parts)}
        if side.counts is not None:
            tensors[f"{name}.counts"] = side.counts
    with atomic_write(file) as temporary:
        save_file(tensors, temporary, {SITES: json.dumps(sites_to_config(prompts.sites))})


def read(file: Path) -> ImagePrompts:
    """Image prompts that `save` wrote; InputError where the file holds none."""
    try:
        with safe_open(file, "pt") as tensors:
            sites = sites_from_config(json.loads(tensors.metadata()[SITES]))
            prompt, negative = (_side(name, tensors, len(sites)) for name in SIDES)
    except FileNotFoundError as error:
        raise InputError(f"There is no file {file}; save image prompts first.") from error
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} holds no image prompts that a4a's node has saved; give a file of its own.") from error
    for side in (prompt, negative):
        side.features.check(sites, str(file))
    return ImagePrompts(sites, prompt, negative)


def _side(name: str, tensors: Any, sites: int) -> Tokens:
    parts = [tuple(tensors.get_tensor(f"{name}.{kind}.{i}") for i in range(sites)) for kind in KINDS]
    counts = f"{name}.counts"
    return Tokens(SiteFeatures(*parts), tensors.get_tensor(counts) if counts in tensors.keys() else None)  # noqa: SIM118

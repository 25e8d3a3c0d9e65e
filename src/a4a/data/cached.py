"""Encodings of training images, computed once and kept on disk: latents, image embeddings and text states.

A cache file's name contains a hash of the images (or captions) and of the model's weights, so encodings of other data
or by another model are never reused by mistake.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from a4a.backbones import Backbone, SizeConditions, Text
from a4a.data.base import EncodedDataset, TrainingImages, evenly_spaced
from a4a.encoders.base import ImageEncoder
from a4a.utils.files import atomic_write
from a4a.utils.fingerprint import model_fingerprint

BATCH = 64
"""Images or captions encoded at a time."""
VAE_PIXELS = BATCH * 256**2 // 2
"""Pixels in one batch of the VAE, whose memory grows with them: 32 images of 256 x 256, 2 of 1024 x 1024."""


class CachedDataset(EncodedDataset):
    """Training samples from encodings in memory.

    Args:
        latents: [targets, channels, height, width].
        embeds: [references, *embed_shape], or None.
        text: text states of each distinct caption, [captions, ...].
        caption_rows: [targets], row of each target's caption in `text`.
        pairs: [samples, 2], row of the reference in `embeds`, row of the target in `latents`.
        sizes: of the targets.
        no_image: [1, *embed_shape], the embedding that stands for "no image".
    """

    def __init__(
        self,
        latents: Tensor,
        embeds: Tensor | None,
        text: Text,
        caption_rows: Tensor,
        pairs: Tensor,
        sizes: SizeConditions,
        no_image: Tensor | None = None,
    ):
        self.latents, self.embeds, self.text, self.caption_rows, self.pairs = latents, embeds, text, caption_rows, pairs
        self.sizes, self.no_image = sizes, no_image
        if embeds is not None:
            self.embed_shape, self.image_embed_dim = tuple(embeds.shape[1:]), embeds.shape[-1]

    def __len__(self) -> int:
        return len(self.pairs)

    def references(self, count: int) -> Tensor:
        return self.embeddings(evenly_spaced(len(self), count)).float()

    def embeddings(self, indices: Tensor) -> Tensor:
        if self.embeds is None:
            raise ValueError("The images were encoded without an image encoder, so there are no embeddings.")
        return self.embeds[self.pairs[indices, 0]]

    def batch(self, indices: Tensor) -> dict[str, Any]:
        target = self.pairs[indices, 1]
        caption = self.caption_rows[target]
        batch = {"latents": self.latents[target], **self.sizes.rows(target)}
        batch |= {f"text.{name}": t[caption] for name, t in self.text.items()}
        if self.embeds is not None:
            batch["embeds"] = self.embeddings(indices)
        return batch


@torch.no_grad()
def encode_images(
    images: TrainingImages, backbone: Backbone, image_encoder: ImageEncoder | None, folder: Path
) -> CachedDataset:
    """Encodes targets with the backbone's VAE and text encoders, references with `image_encoder` (None: not at all)."""
    (references, reference), (targets, target) = (
        column.unique(return_inverse=True) for column in images.pairs.unbind(1)
    )
    height, width = images.pixels(targets[:1]).shape[-2:]
    vae_batch = min(max(VAE_PIXELS // (height * width), 1), BATCH)
    latents = _encode_pixels(
        images,
        targets,
        lambda p: backbone.encode_pixels(p * 2 - 1),
        vae_batch,
        folder,
        "latents",
        model_fingerprint(backbone.pipe.vae),
    )
    embeds = no_image = None
    if image_encoder is not None:
        no_image = image_encoder.unconditional().to("cpu", torch.float16)
        embeds = _encode_pixels(images, references, image_encoder, BATCH, folder, "embeds", _encoder_key(image_encoder))
    text, caption_rows = _encode_captions([images.captions[int(i)] for i in targets], backbone, folder)
    pairs = torch.stack([reference, target], 1)
    return CachedDataset(latents, embeds, text, caption_rows, pairs, images.sizes(targets), no_image)


def _encode_pixels(
    images: TrainingImages,
    rows: Tensor,
    encoder: Callable[[Tensor], Tensor],
    batch: int,
    folder: Path,
    name: str,
    fingerprint: str,
) -> Tensor:
    """Encodings of these rows of the images, float16, from the cache where they are there."""

    def compute() -> Text:
        torch.manual_seed(0)  # latents are samples of a posterior
        parts = [
            encoder(images.pixels(part)).to("cpu", torch.float16)
            for part in tqdm(rows.split(batch), desc=f"encoding {name}", leave=False)
        ]
        return {name: torch.cat(parts).contiguous()}  # images read from files have their channels last

    selection = hashlib.sha256(rows.numpy().tobytes()).hexdigest()
    return _cached(folder / f"{name}-{_hash(images.key, selection, fingerprint)}.safetensors", compute)[name]


def _encode_captions(captions: Sequence[str], backbone: Backbone, folder: Path) -> tuple[Text, Tensor]:
    """Text states of each distinct caption, floats as float16, and for each of `captions` its row in them."""
    distinct = sorted(set(captions))

    def compute() -> Text:
        parts = []
        for i in tqdm(range(0, len(distinct), BATCH), desc="encoding text", leave=False):
            states = backbone.encode_text(distinct[i : i + BATCH])
            parts.append({name: t.half() if t.is_floating_point() else t for name, t in states.items()})
        return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}

    encoders = [
        model_fingerprint(part)
        for name, part in sorted(backbone.pipe.components.items())
        if name.startswith("text_encoder") and part is not None
    ]
    key = _hash(json.dumps(distinct), repr(backbone.text_shapes()), *encoders)
    row = {caption: i for i, caption in enumerate(distinct)}
    return _cached(folder / f"text-{key}.safetensors", compute), torch.tensor([row[c] for c in captions])


def _encoder_key(image_encoder: ImageEncoder) -> str:
    """The weights, and what they give where that is not the pooled embedding."""
    fingerprint = image_encoder.fingerprint()
    return fingerprint if image_encoder.output == "pooled" else f"{fingerprint} {image_encoder.output}"


def _cached(path: Path, compute: Callable[[], Text]) -> Text:
    if not path.exists():
        tensors = compute()
        with atomic_write(path) as temporary:
            save_file(tensors, temporary)
    return load_file(path)


def _hash(*parts: str) -> str:
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]

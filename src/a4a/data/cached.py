"""Frozen things run once: pictures as latents and image embeddings, captions as text states, kept on disk.

A cache file is named by what made it (the pictures, the model's weights), so another model or data set never finds it.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from a4a.backbones import Backbone
from a4a.data.base import TrainingImages, spread_over
from a4a.encoders.clip import CLIPImageEncoder
from a4a.utils.files import atomic_write
from a4a.utils.fingerprint import fingerprint

BATCH = 64
"""Pictures or texts at a time; of pictures that go through the VAE, whose memory grows with their pixels, that many of 256 x 256."""


class Encoded:
    """Training samples from encodings: latents and caption of the target, image embedding of the reference."""

    def __init__(self, latents: Tensor, embeds: Tensor | None, text: dict[str, Tensor], line: Tensor, pairs: Tensor):
        self.latents, self.embeds, self.text, self.line, self.pairs = latents, embeds, text, line, pairs
        self.no_text: dict[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def references(self, count: int) -> Tensor:
        """Embeddings of so many references at most, evenly over the table: [count, image_embed_dim], float32."""
        assert self.embeds is not None
        return self.embeds[self.pairs[spread_over(len(self), count), 0]].float()

    def batch(self, indices: Tensor) -> dict[str, Any]:
        reference, target = self.pairs[indices].unbind(1)
        line = self.line[target]
        batch = {"latents": self.latents[target], **{f"text.{name}": t[line] for name, t in self.text.items()}}
        if self.embeds is not None:
            batch["embeds"] = self.embeds[reference]
        return batch


@torch.no_grad()
def encode(
    pictures: TrainingImages, backbone: Backbone, image_encoder: CLIPImageEncoder | None, folder: Path
) -> Encoded:
    """Latents by the backbone's VAE, text by its encoders, embeddings by `image_encoder` (None: no embeddings)."""
    vae = backbone.pipe.vae  # pyright: ignore[reportAttributeAccessIssue]
    (references, reference), (targets, target) = (
        column.unique(return_inverse=True) for column in pictures.pairs.unbind(1)
    )

    def over(rows: Tensor, name: str, model: nn.Module, function: Callable[[Tensor], Tensor], batch: int) -> Tensor:
        def make() -> dict[str, Tensor]:
            torch.manual_seed(0)  # latents are samples of a posterior
            parts = [
                function(pictures.pixels(r)).to("cpu", torch.float16)
                for r in tqdm(rows.split(batch), desc=f"encoding {name}", leave=False)
            ]
            return {name: torch.cat(parts).contiguous()}  # channels come last where pictures were read from files

        chosen = hashlib.sha256(rows.numpy().tobytes()).hexdigest()
        return _cached(folder / f"{name}-{_hash(pictures.key, chosen, fingerprint(model))}.safetensors", make)[name]

    height, width = pictures.pixels(targets[:1]).shape[-2:]
    fitting = min(max(BATCH * 256**2 // (height * width), 1), BATCH)
    latents = over(targets, "latents", vae, lambda p: backbone.encode_pixels(p * 2 - 1), fitting)
    embeds = None if image_encoder is None else over(references, "embeds", image_encoder.model, image_encoder, BATCH)

    captions = [pictures.captions[int(i)] for i in targets]
    lines = sorted(set(captions))

    def states() -> dict[str, Tensor]:
        parts = []
        for i in tqdm(range(0, len(lines), BATCH), desc="encoding text", leave=False):
            encoded = backbone.encode_text(lines[i : i + BATCH])
            parts.append({name: t.half() if t.is_floating_point() else t for name, t in encoded.items()})
        return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}

    readers = [
        fingerprint(part)
        for name, part in sorted(backbone.pipe.components.items())
        if name.startswith("text_encoder") and part is not None
    ]
    text = _cached(
        folder / f"text-{_hash(json.dumps(lines), repr(backbone.text_shapes()), *readers)}.safetensors", states
    )
    number = {line: i for i, line in enumerate(lines)}
    line = torch.tensor([number[c] for c in captions])
    return Encoded(latents, embeds, text, line, torch.stack([reference, target], 1))


def _cached(path: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    if not path.exists():
        tensors = make()
        with atomic_write(path) as beside:
            save_file(tensors, beside)
    return load_file(path)


def _hash(*parts: str) -> str:
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]

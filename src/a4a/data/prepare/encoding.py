"""From upright pictures and their captions to the numbers that training reads."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from a4a.backbones import Backbone, backbone_for, load_pipeline
from a4a.encoders.arcface import ArcFace
from a4a.encoders.base import ImageEncoder
from a4a.encoders.clip import CLIPImageEncoder
from a4a.errors import InputError
from a4a.utils.fingerprint import model_fingerprint
from a4a.utils.images import to_tensor
from a4a.utils.modules import DENOISER_PARTS

FACES = "arcface"
"""Name of ArcFace's embeddings among those of the image encoders."""


@dataclass
class Encode:
    """The models that training takes its data from."""

    model: Path
    """The upgraded model, whose VAE and text encoders make latents and text states: a diffusers pipeline folder or hub name."""
    image_encoders: dict[str, Path] = field(default_factory=dict)
    """CLIP vision models by names of your choice, such as {clip: h94/IP-Adapter/models/image_encoder}."""
    arcface: Path | None = None
    """InsightFace's antelopev2, for embeddings of the largest face."""
    batch: int = 8
    """Pictures at a time."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the models; what they give is kept in float16."""

    def __post_init__(self):
        if FACES in self.image_encoders:
            raise InputError(
                f"encode.image_encoders names one {FACES!r}, which is kept for encode.arcface; choose another name."
            )


class Encoders:
    """The models; loaded when first asked."""

    def __init__(self, settings: Encode):
        self.settings = settings

    @cached_property
    def backbone(self) -> Backbone:
        pipe = load_pipeline(self.settings.model, getattr(torch, self.settings.precision), parts="encoders")
        for name, part in pipe.components.items():
            if isinstance(part, torch.nn.Module) and name not in DENOISER_PARTS:
                part.to("cuda" if torch.cuda.is_available() else "cpu")
        return backbone_for(pipe)

    @cached_property
    def images(self) -> dict[str, ImageEncoder]:
        """By name, what turns pictures into embeddings [pictures, width]."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = getattr(torch, self.settings.precision)
        found: dict[str, ImageEncoder] = {
            name: CLIPImageEncoder.from_pretrained(path, dtype).to(device)
            for name, path in self.settings.image_encoders.items()
        }
        return {**found, FACES: ArcFace(self.settings.arcface)} if self.settings.arcface is not None else found

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Of the weights of every model; of ArcFace, which are its files, its settings."""
        parts = {
            n: p
            for n, p in self.backbone.pipe.components.items()
            if isinstance(p, torch.nn.Module) and n not in DENOISER_PARTS
        }
        own = {f"model.{name}": model_fingerprint(part) for name, part in sorted(parts.items())}
        return own | {name: encoder.fingerprint() for name, encoder in self.images.items() if name != FACES}

    @torch.no_grad()
    def latents(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Samples of the VAE's posterior, scaled as the denoiser sees them, [pictures, channels, height, width]."""
        latents = self.backbone.encode_pixels(to_tensor(pictures) * 2 - 1)
        if not latents.isfinite().all():
            raise InputError(
                f"The VAE of {self.settings.model} gives numbers that are not finite in {self.settings.precision}; set encode.precision to float32."
            )
        return half(latents)

    def text(self, lines: Sequence[str]) -> dict[str, Tensor]:
        """As the backbone encodes it; a row a line."""
        parts = [
            self.backbone.encode_text(lines[i : i + self.settings.batch])
            for i in range(0, len(lines), self.settings.batch)
        ]
        return {name: half(torch.cat([part[name] for part in parts])) for name in parts[0]}

    def no_text(self) -> dict[str, Tensor]:
        return {name: half(t).contiguous() for name, t in self.backbone.no_text().items()}

    def embeds(self, pictures: Sequence[Image.Image]) -> dict[str, Tensor]:
        return {name: half(encoder(pictures)) for name, encoder in self.images.items()}


def half(tensor: Tensor) -> Tensor:
    return tensor.to("cpu", torch.float16) if tensor.is_floating_point() else tensor.cpu()


def arrays(tensor: Tensor) -> list[np.ndarray]:
    """A tensor's rows."""
    return list(np.ascontiguousarray(tensor.numpy()))

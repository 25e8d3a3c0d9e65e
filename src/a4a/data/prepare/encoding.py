"""The encoders of `a4a prepare`: from upright images and captions to the tensors that training reads."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from a4a.backbones import Backbone, backbone_for, load_pipeline
from a4a.encoders.arcface import ArcFace
from a4a.encoders.base import ImageEncoder
from a4a.encoders.clip import CLIPImageEncoder
from a4a.errors import InputError
from a4a.utils.fingerprint import model_fingerprint
from a4a.utils.images import to_tensor
from a4a.utils.modules import DENOISER_PARTS, default_device

ARCFACE = "arcface"
"""Name of ArcFace's embeddings among those of the image encoders."""


@dataclass
class EncodeConfig:
    """The models that encode images and captions."""

    model: Path
    """The upgraded model, whose VAE and text encoders make latents and text states: a diffusers folder or hub name."""
    image_encoders: dict[str, Path] = field(default_factory=dict)
    """CLIP vision models by names of your choice, such as {clip: h94/IP-Adapter/models/image_encoder}."""
    token_encoders: dict[str, Path] = field(default_factory=dict)
    """CLIP vision models of which the tokens of all patches are kept, not one embedding, as IP-Adapter Plus needs."""
    arcface: Path | None = None
    """InsightFace's antelopev2, for embeddings of the largest face."""
    batch: int = 8
    """Images at a time."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the models; a VAE stays in float32 where its configuration has force_upcast, as SDXL's and
    PixArt's do. Encodings are stored in float16."""

    def __post_init__(self):
        if ARCFACE in (*self.image_encoders, *self.token_encoders):
            raise InputError(f"An image encoder is named {ARCFACE!r}, which is kept for encode.arcface; rename it.")
        if both := sorted(self.image_encoders.keys() & self.token_encoders.keys()):
            raise InputError(
                f"encode.image_encoders and encode.token_encoders both have the name {both[0]!r}; rename one."
            )


class Encoders:
    """VAE, text encoders and image encoders; each is loaded when first used."""

    def __init__(self, settings: EncodeConfig):
        self.settings = settings
        self.dtype: torch.dtype = getattr(torch, settings.precision)

    @cached_property
    def backbone(self) -> Backbone:
        backbone = backbone_for(load_pipeline(self.settings.model, self.dtype, "encoders", upcast_vae=True))
        for part in _encoder_modules(backbone).values():
            part.to(default_device())
        return backbone

    @cached_property
    def image_encoders(self) -> dict[str, ImageEncoder]:
        """All image encoders by name, ArcFace among them."""
        encoders: dict[str, ImageEncoder] = {
            name: CLIPImageEncoder.from_pretrained(path, self.dtype).to(default_device())
            for name, path in self.settings.image_encoders.items()
        }
        for name, path in self.settings.token_encoders.items():
            encoder = CLIPImageEncoder.from_pretrained(path, self.dtype).to(default_device())
            encoders[name] = encoder.with_output("tokens")
        if self.settings.arcface is not None:
            encoders[ARCFACE] = ArcFace(self.settings.arcface)
        return encoders

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Hashes of the weights of every model. ArcFace's files are hashed with the settings instead."""
        modules = {f"model.{name}": part for name, part in sorted(_encoder_modules(self.backbone).items())}
        fingerprints = {name: model_fingerprint(module) for name, module in modules.items()}
        encoders = {name: encoder for name, encoder in self.image_encoders.items() if name != ARCFACE}
        return fingerprints | {name: encoder.fingerprint() for name, encoder in encoders.items()}

    @torch.no_grad()
    def latents(self, images: Sequence[Image.Image]) -> Tensor:
        """Samples of the VAE's posterior, scaled as the denoiser expects them: [images, channels, height, width]."""
        return half(self.backbone.encode_pixels(to_tensor(images) * 2 - 1))

    def text(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Text states as the backbone encodes them, one row per caption."""
        batch = self.settings.batch
        parts = [self.backbone.encode_text(captions[i : i + batch]) for i in range(0, len(captions), batch)]
        return {name: half(torch.cat([part[name] for part in parts])) for name in parts[0]}

    def no_text(self) -> dict[str, Tensor]:
        """One row: the text states that guidance uses where there is no negative prompt."""
        return {name: half(t).contiguous() for name, t in self.backbone.no_text().items()}

    def no_image(self) -> dict[str, Tensor]:
        """By image encoder, the embedding that stands for "no image" in guidance, one row."""
        return {name: half(encoder.unconditional()).contiguous() for name, encoder in self.image_encoders.items()}

    def embeddings(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """By image encoder, [images, image_embed_dim] or [images, tokens, image_embed_dim]."""
        return {name: half(encoder(images)) for name, encoder in self.image_encoders.items()}


def _encoder_modules(backbone: Backbone) -> dict[str, nn.Module]:
    """The modules of the pipeline but the denoiser."""
    return {
        name: part
        for name, part in backbone.pipe.components.items()
        if isinstance(part, nn.Module) and name not in DENOISER_PARTS
    }


def half(tensor: Tensor) -> Tensor:
    """On the CPU, floats as float16."""
    return tensor.to("cpu", torch.float16) if tensor.is_floating_point() else tensor.cpu()


def rows_as_arrays(tensor: Tensor) -> list[np.ndarray]:
    return list(np.ascontiguousarray(tensor.numpy()))

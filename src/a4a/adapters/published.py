"""The IP-Adapters of h94/IP-Adapter that can be transferred, whose shapes are known without a download."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PublishedAdapter:
    """Shapes of a published IP-Adapter.

    Attributes:
        widths: of every site, in the file's order.
        projection: family and sizes of its condition encoder.
        image_encoder: the kind that it takes.
    """

    widths: list[int]
    projection: dict[str, Any]
    image_encoder: str


SD15_WIDTHS = [320] * 2 + [640] * 2 + [1280] * 2 + [1280] * 3 + [640] * 3 + [320] * 3 + [1280]
SDXL_WIDTHS = [640] * 4 + [1280] * 20 + [1280] * 30 + [640] * 6 + [1280] * 10
SD15_TEXT, SDXL_TEXT = 768, 2048
"""Widths of the text states."""
VIT_H, VIT_G = "CLIP ViT-H/14", "CLIP ViT-bigG/14"


def _base(widths: list[int], text_width: int, image_encoder: str = VIT_H) -> PublishedAdapter:
    image_embed_dim = {VIT_H: 1024, VIT_G: 1280}[image_encoder]
    sizes = {"family": "base", "image_embed_dim": image_embed_dim, "text_width": text_width, "tokens": 4}
    return PublishedAdapter(widths, sizes, image_encoder)


def _plus(widths: list[int], text_width: int, width: int) -> PublishedAdapter:
    sizes = {"family": "plus", "image_embed_dim": 1280, "text_width": text_width, "tokens": 16, "depth": 4}
    return PublishedAdapter(widths, {**sizes, "width": width, "heads": width // 64}, VIT_H)


_FILES = {
    "models/ip-adapter_sd15": _base(SD15_WIDTHS, SD15_TEXT),
    "models/ip-adapter_sd15_light": _base(SD15_WIDTHS, SD15_TEXT),
    "models/ip-adapter_sd15_light_v11": _base(SD15_WIDTHS, SD15_TEXT),
    "models/ip-adapter_sd15_vit-G": _base(SD15_WIDTHS, SD15_TEXT, VIT_G),
    "models/ip-adapter-plus_sd15": _plus(SD15_WIDTHS, SD15_TEXT, 768),
    "models/ip-adapter-plus-face_sd15": _plus(SD15_WIDTHS, SD15_TEXT, 768),
    "sdxl_models/ip-adapter_sdxl": _base(SDXL_WIDTHS, SDXL_TEXT, VIT_G),
    "sdxl_models/ip-adapter_sdxl_vit-h": _base(SDXL_WIDTHS, SDXL_TEXT),
    "sdxl_models/ip-adapter-plus_sdxl_vit-h": _plus(SDXL_WIDTHS, SDXL_TEXT, 1280),
    "sdxl_models/ip-adapter-plus-face_sdxl_vit-h": _plus(SDXL_WIDTHS, SDXL_TEXT, 1280),
}

SOURCES = {
    f"h94/IP-Adapter/{file}{suffix}": adapter for file, adapter in _FILES.items() for suffix in (".safetensors", ".bin")
}
"""By hub name. ip-adapter-full-face_sd15 is not among them: its family cannot be read yet."""

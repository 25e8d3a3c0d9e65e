"""Published IP-Adapters whose shapes are known without a download."""

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
SOURCES = {
    "h94/IP-Adapter/models/ip-adapter_sd15.safetensors": PublishedAdapter(
        SD15_WIDTHS,
        {"family": "base", "image_embed_dim": 1024, "text_width": 768, "tokens": 4},
        "CLIP ViT-H/14",
    ),
}

"""Published image encoders, whose sizes are known without a download."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedEncoder:
    """Sizes of a CLIP vision model."""

    name: str
    image_embed_dim: int
    """Width of the projected, pooled embedding."""
    hidden_size: int
    """Width of each token."""
    tokens: int
    """Patches and the class token."""
    parameters: int


IMAGE_ENCODERS = {
    "h94/IP-Adapter/models/image_encoder": PublishedEncoder("CLIP ViT-H/14", 1024, 1280, 257, 632_076_800),
    "h94/IP-Adapter/sdxl_models/image_encoder": PublishedEncoder("CLIP ViT-bigG/14", 1280, 1664, 257, 1_844_907_776),
}

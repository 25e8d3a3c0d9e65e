"""Published image encoders, whose sizes are known without a download."""

from dataclasses import dataclass

from a4a.encoders.base import Output


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


def encoder_name(output: Output, image_embed_dim: int) -> str:
    """The published image encoder whose pooled embeddings or tokens are so wide, in words."""
    for encoder in IMAGE_ENCODERS.values():
        if image_embed_dim == (encoder.image_embed_dim if output == "pooled" else encoder.hidden_size):
            return encoder.name
    return f"an image encoder with {'embeddings' if output == 'pooled' else 'tokens'} of width {image_embed_dim}"

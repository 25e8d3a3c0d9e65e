"""The contract of image encoders."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from PIL import Image
from torch import Tensor

from a4a.errors import InputError


def check_width(given: int, image_embed_dim: int, what: str) -> None:
    """Raises InputError where embeddings of width `given` reach an adapter, called `what`, that takes `image_embed_dim`."""
    if image_embed_dim != given:
        raise InputError(
            f"{what} takes image embeddings of width {image_embed_dim} but this image encoder gives {given}; "
            f"give the encoder that the adapter was trained with (1024: CLIP ViT-H/14, 1280: CLIP ViT-bigG/14)."
        )


@runtime_checkable
class ImageEncoder(Protocol):
    """A frozen model that turns pictures into vectors."""

    key: str
    """What it is and where it was loaded from: encoders of one key give the same vectors."""

    def encode(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Unit vectors [pictures, width]; a row of NaN for a picture in which there is nothing to encode (no face)."""
        ...

"""Pictures at the sizes that a denoiser is trained at, in one or more views."""

import hashlib
import random
from dataclasses import dataclass

from diffusers.training_utils import find_nearest_bucket, generate_aspect_ratio_buckets
from PIL import Image, ImageOps

from a4a.errors import InputError


@dataclass
class Crop:
    """What of a picture is encoded."""

    size: int = 512
    """Side in pixels; with buckets, of the square that has as many pixels."""
    buckets: bool = False
    """Keep the shape of a picture as nearly as one of diffusers' aspect ratios does, instead of a square."""
    divisibility: int = 64
    """What the sides of a bucket are multiples of, in pixels."""
    views: int = 1
    """Crops of a picture: the middle, and so many less one of four fifths or more of its sides elsewhere."""
    flips: bool = False
    """Encode every view mirrored too."""

    def __post_init__(self):
        for name, least in (("size", 8), ("divisibility", 1), ("views", 1)):
            if (value := getattr(self, name)) < least:
                raise InputError(f"crop.{name} is {value}; expected at least {least}.")

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each bucket."""
        if not self.buckets:
            return [(self.size, self.size)]
        return [(int(h), int(w)) for h, w in generate_aspect_ratio_buckets(self.size, self.divisibility)]

    def bucket(self, image: Image.Image) -> int:
        return find_nearest_bucket(image.height, image.width, self.sizes) if self.buckets else 0  # pyright: ignore[reportReturnType]

    def __call__(self, image: Image.Image, name: str) -> list[Image.Image]:
        """All views at the size of the picture's bucket; each is followed by its mirror image. `name` decides where they lie."""
        height, width = self.sizes[self.bucket(image)]
        views = [ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)]
        for number in range(1, self.views):
            chance = random.Random(hashlib.sha256(f"{name} {number}".encode()).digest())
            scale = chance.uniform(0.8, 1) * min(image.width / width, image.height / height)
            left, top = chance.uniform(0, image.width - scale * width), chance.uniform(0, image.height - scale * height)
            box = (left, top, min(left + scale * width, image.width), min(top + scale * height, image.height))
            views.append(image.resize((width, height), Image.Resampling.LANCZOS, box=box))
        return [v for view in views for v in ((view, ImageOps.mirror(view)) if self.flips else (view,))]

"""Images at the sizes that a denoiser is trained at, in one or more views (crops and mirror images)."""

import hashlib
import random
from dataclasses import dataclass

from diffusers.training_utils import find_nearest_bucket, generate_aspect_ratio_buckets
from PIL import Image, ImageOps

from a4a.errors import InputError


@dataclass
class Crop:
    """At what size, and in which views, an image is encoded."""

    size: int = 512
    """Side in pixels; with buckets, of the square that has as many pixels."""
    buckets: bool = False
    """Keep an image's shape as nearly as one of diffusers' aspect-ratio buckets does, instead of a square."""
    divisibility: int = 64
    """The sides of a bucket are multiples of this, in pixels."""
    views: int = 1
    """Crops of an image: the middle one, and views - 1 at other places, with 0.8 to 1 of its sides."""
    flips: bool = False
    """Encode the mirror image of every view too."""

    def __post_init__(self):
        for name, minimum in (("size", 8), ("divisibility", 1), ("views", 1)):
            if (value := getattr(self, name)) < minimum:
                raise InputError(f"crop.{name} is {value}; expected at least {minimum}.")

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each bucket."""
        if not self.buckets:
            return [(self.size, self.size)]
        return [(int(h), int(w)) for h, w in generate_aspect_ratio_buckets(self.size, self.divisibility)]

    def bucket(self, image: Image.Image) -> int:
        """Number of the size in `sizes` that fits the image's shape best."""
        if not self.buckets:
            return 0
        return int(find_nearest_bucket(image.height, image.width, self.sizes) or 0)

    def __call__(self, image: Image.Image, name: str) -> list[Image.Image]:
        """All views at the size of the image's bucket, each followed by its mirror image with `flips`.

        `name` seeds where the crops lie, so an image has the same views in every run.
        """
        height, width = self.sizes[self.bucket(image)]
        views = [ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)]
        for number in range(1, self.views):
            rng = random.Random(hashlib.sha256(f"{name} {number}".encode()).digest())
            scale = rng.uniform(0.8, 1) * min(image.width / width, image.height / height)
            left, top = rng.uniform(0, image.width - scale * width), rng.uniform(0, image.height - scale * height)
            box = (left, top, min(left + scale * width, image.width), min(top + scale * height, image.height))
            views.append(image.resize((width, height), Image.Resampling.LANCZOS, box=box))
        return [v for view in views for v in ((view, ImageOps.mirror(view)) if self.flips else (view,))]

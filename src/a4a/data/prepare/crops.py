"""Images at the sizes that a denoiser is trained at, in one or more views (crops and mirror images)."""

import hashlib
import random
from dataclasses import dataclass

from diffusers.training_utils import find_nearest_bucket, generate_aspect_ratio_buckets
from PIL import Image, ImageOps

from a4a.errors import InputError


def middle_crop(image_width: int, image_height: int, width: int, height: int) -> tuple[float, float, float]:
    """The largest crop of this shape: image pixels for each of its own, then its left and top in the image."""
    scale = min(image_width / width, image_height / height)
    return scale, (image_width - scale * width) / 2, (image_height - scale * height) / 2


@dataclass
class View:
    """A crop of an image, or the mirror image of one, and its size conditions, see `SizeConditions`."""

    image: Image.Image
    original_size: tuple[int, int]
    """(height, width) of the image before it was resized."""
    crop_top_left: tuple[int, int]
    """(top, left) in the resized image."""

    @property
    def target_size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.image.height, self.image.width


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
    enlarge: bool = False
    """Enlarge images that are smaller than the crop; SDXL and PixArt-alpha are told their true original size. By
    default they are left out, and no view is magnified."""

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

    def too_small(self, image: Image.Image) -> str | None:
        """Why an image is left out, where it would have to be enlarged and must not be."""
        height, width = self.sizes[self.bucket(image)]
        if self.enlarge or (image.width >= width and image.height >= height):
            return None
        return f"small: {image.width} x {image.height} pixels, for a crop of {width} x {height}"

    def around(self, box: tuple[int, int, int, int], width: int, height: int) -> tuple[int, int, int, int]:
        """A box (left, top, right, bottom) of a photo with as much around it as the crop needs and the photo has.

        So the crop, a square without buckets, shows all that is in the box, and shows it larger only where the photo is
        smaller than the crop.
        """
        left, top, right, bottom = box
        across, down = max(right - left, self.size), max(bottom - top, self.size)
        if not self.buckets:
            across = down = max(across, down)
        across, down = min(across, width), min(down, height)
        left = min(max((left + right - across) // 2, 0), width - across)
        top = min(max((top + bottom - down) // 2, 0), height - down)
        return left, top, left + across, top + down

    def __call__(self, image: Image.Image, name: str) -> list[View]:
        """All views at the size of the image's bucket, each followed by its mirror image with `flips`.

        `name` seeds where the crops lie, so an image has the same views in every run.
        """
        height, width = self.sizes[self.bucket(image)]
        scale, left, top = middle_crop(image.width, image.height, width, height)
        views = self._views(image, width, height, scale, left, top)
        for number in range(1, self.views):
            rng = random.Random(hashlib.sha256(f"{name} {number}".encode()).digest())
            part = rng.uniform(0.8 if self.enlarge else max(0.8, 1 / scale), 1) * scale
            left, top = rng.uniform(0, image.width - part * width), rng.uniform(0, image.height - part * height)
            views += self._views(image, width, height, part, left, top)
        return views

    def _views(self, image: Image.Image, width: int, height: int, scale: float, left: float, top: float) -> list[View]:
        """The crop from (left, top) on of `scale` pixels for each of its own, and its mirror image with `flips`."""
        box = (left, top, min(left + scale * width, image.width), min(top + scale * height, image.height))
        crop = image.resize((width, height), Image.Resampling.LANCZOS, box=box)
        original, row, column = (image.height, image.width), round(top / scale), round(left / scale)
        views = [View(crop, original, (row, column))]
        if self.flips:  # as diffusers' training does: mirrored first, then cropped
            views.append(View(ImageOps.mirror(crop), original, (row, round(image.width / scale) - width - column)))
        return views

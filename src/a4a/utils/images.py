"""Open images, convert them to and from tensors, lay them out in a grid."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers.utils import make_image_grid
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from a4a.errors import InputError, first_line

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def open_image(path: Path | str) -> Image.Image:
    """An image file as an upright RGB image; InputError where there is none that can be read."""
    try:
        with Image.open(path) as image:
            return rgb(ImageOps.exif_transpose(image))[0]
    except FileNotFoundError as error:
        raise InputError(f"There is no image {path}; give a PNG or JPEG file.") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path} is no image that can be read ({first_line(error)}); give a PNG or JPEG file."
        ) from error


def rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """An image of any mode in RGB, and what had to be changed, in words.

    Transparent parts become white. Raises ValueError where the pixels have no known range.
    """
    if image.mode.startswith("I"):  # Pillow's own conversion would make all but the darkest 256 of 65,536 greys white
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB"), ["16 bits made 8"]
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers of no known range")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema()[0] != 255:
            white = Image.new("RGBA", rgba.size, "white")
            return Image.alpha_composite(white, rgba).convert("RGB"), ["transparent, laid on white"]
    return image.convert("RGB"), ["CMYK made RGB"] if image.mode == "CMYK" else []


def to_pil(pixels: Tensor) -> list[Image.Image]:
    """Images of pixels [images, 3, height, width] in [0, 1]."""
    arrays = (pixels.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in arrays]


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """Pixels [images, 3, height, width] in [0, 1] of images of one size."""
    pixels = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def grid(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """One image of rows of equal length, with every image cropped to the size of the last one of the first row."""
    size = rows[0][-1].size
    images = [image if image.size == size else ImageOps.fit(image, size) for row in rows for image in row]
    return make_image_grid(images, rows=len(rows), cols=len(rows[0]))

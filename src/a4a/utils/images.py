"""Pictures in and out."""

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
    """An upright RGB picture; InputError where there is none to be read."""
    try:
        with Image.open(path) as image:
            return rgb(ImageOps.exif_transpose(image))[0]
    except FileNotFoundError as error:
        raise InputError(f"There is no picture {path}; give a PNG or JPEG file.") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path} is no picture that can be read ({first_line(error)}); give a PNG or JPEG file."
        ) from error


def rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """A picture as it is seen, in RGB, and what was done to it; ValueError where its numbers have no known range."""
    if image.mode.startswith("I"):  # Pillow's own conversion would make all but the darkest 256 of 65,536 greys white
        grey = np.asarray(image).astype(np.int64)
        return Image.fromarray((np.clip(grey, 0, 65535) // 257).astype(np.uint8)).convert("RGB"), ["16 bits made 8"]
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers of no known range")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        seen = image.convert("RGBA")
        if seen.getchannel("A").getextrema()[0] != 255:
            return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB"), [
                "transparent, laid on white"
            ]
    return image.convert("RGB"), ["CMYK made RGB"] if image.mode == "CMYK" else []


def to_pil(pictures: Tensor) -> list[Image.Image]:
    """[n, 3, height, width] in [0, 1]."""
    arrays = (pictures.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(a) for a in arrays]


def to_tensor(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size as [n, 3, height, width] in [0, 1]."""
    return (
        torch.from_numpy(np.stack([np.asarray(p.convert("RGB")) for p in pictures])).permute(0, 3, 1, 2).float() / 255
    )


def grid(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Rows of equal length, every picture at the size of the last of the first row."""
    size = rows[0][-1].size
    images = [i if i.size == size else ImageOps.fit(i, size) for row in rows for i in row]
    return make_image_grid(images, rows=len(rows), cols=len(rows[0]))

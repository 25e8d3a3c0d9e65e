"""Decoding and checking images: what is repaired, what is left out and why, and which images look the same."""

import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from a4a.data.prepare.crops import Crop
from a4a.data.sources.base import ImageRecord, Source
from a4a.utils.images import rgb

CheckResult = dict[str, Any]
"""What the check finds of an image, as JSON: `id`, and either `left_out` with the reason, or `width`, `height`, `hash`,
`colours` and, where something had to be repaired, `repaired`."""

EXIF_ORIENTATION = 0x0112
COLOUR_TOLERANCE = 8
"""Of 255; images of one hash whose 4 x 4 colours differ by more are different: flat images all have the same hash."""


class RejectedImage(Exception):
    """An image that is left out; the message says why."""


@dataclass
class CheckConfig:
    """Which images are left out, besides those that cannot be read."""

    minimum: int = 64
    """Shortest side in pixels; smaller images are left out as tiny."""
    duplicates: bool = True
    """Leave out all but the first of images that look the same."""
    distance: int = 2
    """Bits out of 64 in which the perceptual hashes of one image, saved twice, may differ."""


def decode_image(
    data: bytes, box: tuple[float, float, float, float] | None = None, crop: Crop | None = None
) -> tuple[Image.Image, list[str]]:
    """An upright RGB image, and what had to be repaired.

    With a `box` (see `ImageRecord`) it is that part of the image, and what the `crop` needs around it.

    RejectedImage with the reason where there is none.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:
            return _upright_rgb(image, box, crop)
    except RejectedImage:
        raise
    except Image.DecompressionBombError as error:
        raise RejectedImage(f"broken: {error}") from error
    except Exception as error:  # Pillow raises nearly anything on a broken file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        reason = "no image that Pillow knows" if "cannot identify" in reason else reason
        raise RejectedImage(f"broken: {reason}") from error


def _upright_rgb(
    image: Image.Image, box: tuple[float, float, float, float] | None, crop: Crop | None
) -> tuple[Image.Image, list[str]]:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # cameras store a second view or a depth map in MPO files
        raise RejectedImage(f"animated: {frames} frames")
    image.load()
    is_rotated = image.getexif().get(EXIF_ORIENTATION, 1) not in (0, 1)
    repaired = []
    if box is not None:
        left, top, right, bottom = (round(f * side) for f, side in zip(box, image.size * 2, strict=True))
        pixels = left, top, max(right, left + 1), max(bottom, top + 1)
        image = image.crop(crop.around(pixels, *image.size) if crop is not None else pixels)
    if is_rotated:
        repaired.append("turned upright as its EXIF says")
        image = ImageOps.exif_transpose(image)
    image, conversions = rgb(image)
    return image, repaired + conversions


def open_record(source: Source, record: ImageRecord, crop: Crop) -> tuple[Image.Image, list[str]]:
    """A source's image, decoded, and what was repaired.

    RejectedImage where it cannot be read, and where it is smaller than the crop.
    """
    try:
        data = source.read(record)
    except FileNotFoundError as error:
        raise RejectedImage("missing") from error
    except OSError as error:
        raise RejectedImage(f"cannot be read: {error}") from error
    image, repaired = decode_image(data, record.box, crop)
    if (reason := crop.too_small(image)) is not None:
        raise RejectedImage(reason)
    return image, repaired


def check_image(source: Source, record: ImageRecord, check: CheckConfig, crop: Crop) -> CheckResult:
    """Reads an image, and tells why it is left out, or its size, hash and colours."""
    try:
        image, repaired = open_record(source, record, crop)
        if min(image.size) < check.minimum:
            raise RejectedImage(f"tiny: {image.width} x {image.height} pixels")
    except RejectedImage as reason:
        return {"id": record.id, "left_out": str(reason)}
    result = {
        "id": record.id,
        "width": image.width,
        "height": image.height,
        "hash": _difference_hash(image),
        "colours": image.resize((4, 4), Image.Resampling.BOX).tobytes().hex(),
    }
    return {**result, "repaired": repaired} if repaired else result


def _difference_hash(image: Image.Image) -> str:
    """64 bits in hex: whether each pixel of the image at 9 x 8 is brighter than its left neighbour."""
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX)).astype(int)
    return np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes().hex()


def find_duplicates(results: Iterable[CheckResult], distance: int) -> dict[str, str]:
    """For each image that looks like an earlier one, the id of that one.

    Images look the same when their hashes differ in at most `distance` bits and their colours by little. The 64 bits
    are dealt out to `distance` + 1 groups: hashes that are so close agree in at least one group, so each image is
    compared only with those that share one (the pigeonhole principle).
    """
    groups = distance + 1
    masks = [sum(1 << bit for bit in range(group, 64, groups)) for group in range(groups)]
    buckets: list[dict[int, list[tuple[int, np.ndarray, str]]]] = [{} for _ in masks]
    duplicate_of = {}
    for result in results:
        if "left_out" in result:
            continue
        bits = int(result["hash"], 16)
        colours = np.frombuffer(bytes.fromhex(result["colours"]), np.uint8).astype(int)
        candidates = (c for mask, bucket in zip(masks, buckets, strict=True) for c in bucket.get(bits & mask, ()))
        first = next(
            (
                name
                for other_bits, other_colours, name in candidates
                if (bits ^ other_bits).bit_count() <= distance
                and np.abs(colours - other_colours).max() <= COLOUR_TOLERANCE
            ),
            None,
        )
        if first is not None:
            duplicate_of[result["id"]] = first
            continue
        for mask, bucket in zip(masks, buckets, strict=True):
            bucket.setdefault(bits & mask, []).append((bits, colours, result["id"]))
    return duplicate_of

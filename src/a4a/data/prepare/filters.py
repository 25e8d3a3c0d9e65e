"""From a file to an upright RGB picture or to the reason why there is none, and which pictures are the same."""

import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from a4a.data.sources.base import ImageRecord, Source
from a4a.utils.images import rgb

Record = dict[str, Any]
"""What a check says of a picture, for JSON: its `id`, and `left_out` with the reason, or `width`, `height`, `hash`,
`colours` and, where something had to be done to it, `mended`."""


class RejectedImage(Exception):
    """A picture that is left out; the message says why."""


@dataclass
class Check:
    """Which pictures are left out besides those that cannot be read."""

    minimum: int = 64
    """Shortest side in pixels that is not tiny."""
    duplicates: bool = True
    """Leave out all but the first of pictures that look the same."""
    distance: int = 2
    """Bits out of 64 in which the perceptual hashes of the same picture, saved twice, may differ."""


def decode_image(data: bytes, box: tuple[float, float, float, float] | None = None) -> tuple[Image.Image, list[str]]:
    """An RGB picture as it is meant to be seen, and what was done to it; Unusable with the reason where there is none."""
    repaired = []
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:
            if (
                frames := getattr(image, "n_frames", 1)
            ) > 1 and image.format != "MPO":  # cameras keep a second view or a depth map in those
                raise RejectedImage(f"animated: {frames} frames")
            image.load()
            turned = image.getexif().get(0x0112, 1) not in (0, 1)
            if box is not None:
                left, top, right, bottom = (round(f * side) for f, side in zip(box, image.size * 2, strict=True))
                image = image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
            if turned:
                repaired.append("turned upright as its EXIF says")
                image = ImageOps.exif_transpose(image)
            image, made = rgb(image)
            return image, repaired + made
    except RejectedImage:
        raise
    except Image.DecompressionBombError as error:
        raise RejectedImage(f"broken: {error}") from error
    except Exception as error:  # a broken file makes Pillow raise nearly anything
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RejectedImage(
            "broken: no picture that Pillow knows" if "cannot identify" in said else f"broken: {said}"
        ) from error


def opened(source: Source, item: ImageRecord) -> tuple[Image.Image, list[str]]:
    """An item's picture; Unusable where it is none or cannot be read."""
    try:
        data = source.read(item)
    except FileNotFoundError as error:
        raise RejectedImage("missing") from error
    except OSError as error:
        raise RejectedImage(f"cannot be read: {error}") from error
    return decode_image(data, item.box)


def inspect(source: Source, item: ImageRecord, check: Check) -> Record:
    try:
        image, repaired = opened(source, item)
        if min(image.size) < check.minimum:
            raise RejectedImage(f"tiny: {image.width} x {image.height} pixels")
    except RejectedImage as reason:
        return {"id": item.id, "left_out": str(reason)}
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX)).astype(int)
    bits = np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes()
    record = {"id": item.id, "width": image.width, "height": image.height, "hash": bits.hex()}
    record["colours"] = image.resize((4, 4), Image.Resampling.BOX).tobytes().hex()
    return {**record, "repaired": repaired} if repaired else record


def duplicates(records: Iterable[Record], distance: int) -> dict[str, str]:
    """Each picture that looks like an earlier one, and that one, by their ids.

    Alike are difference hashes within `distance` bits, and 4 x 4 colours within 8 of 255 so that flat pictures differ too.
    Hashes so near agree in one of `distance` + 1 interleaved parts, so few are compared.
    """
    parts = distance + 1
    masks = [sum(1 << bit for bit in range(part, 64, parts)) for part in range(parts)]
    kept: list[dict[int, list[tuple[int, np.ndarray, str]]]] = [{} for _ in masks]
    same = {}
    for record in records:
        if "left_out" in record:
            continue
        bits = int(record["hash"], 16)
        colours = np.frombuffer(bytes.fromhex(record["colours"]), np.uint8).astype(int)
        near = (other for mask, table in zip(masks, kept, strict=True) for other in table.get(bits & mask, ()))
        first = next(
            (name for b, c, name in near if (bits ^ b).bit_count() <= distance and np.abs(colours - c).max() <= 8), None
        )
        if first is not None:
            same[record["id"]] = first
            continue
        for mask, table in zip(masks, kept, strict=True):
            table.setdefault(bits & mask, []).append((bits, colours, record["id"]))
    return same

"""Reference images in every form that people have them in: PIL, path, URL, NumPy array, pixel tensor."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import load_image
from PIL import Image, ImageOps
from torch import Tensor

from a4a.errors import InputError, first_line
from a4a.utils.images import open_image, rgb, to_pil

Reference = Image.Image | str | Path | np.ndarray | Tensor
References = Reference | Sequence[Reference]

_FORMS = "a PIL image, a path, a URL, an array [height, width, 3] or a tensor [3, height, width]"


def load_references(image_prompt: References) -> list[Image.Image]:
    """All references of an image prompt, upright and in RGB.

    Args:
        image_prompt: a PIL image, a path, an `http(s)` URL, a NumPy array [height, width, 3] of uint8 or of floats in
            [0, 1], a float tensor [3, height, width] or [images, 3, height, width] in [0, 1], or a list of these.

    Raises InputError, one sentence, for anything else, for a file or URL that gives no image, and for an empty list.
    """
    if not isinstance(image_prompt, list | tuple):
        return _images(image_prompt)
    if not image_prompt:
        raise InputError("image_prompt is an empty list; give at least one reference.")
    return [image for item in image_prompt for image in _images(item)]


def load_mask(mask: Reference) -> Tensor:
    """A mask as [height, width] in [0, 1]; white is 1. A PIL image, a path, an array or a tensor [height, width].

    Raises InputError, one sentence, for anything else.
    """
    if isinstance(mask, str | Path):
        mask = open_image(mask)
    if isinstance(mask, Image.Image):
        mask = np.asarray(mask.convert("L"))
    weights: Any = torch.from_numpy(np.array(mask)) if isinstance(mask, np.ndarray) else mask
    if not isinstance(weights, Tensor) or weights.ndim != 2 or not weights.numel():
        found = f"of shape {list(weights.shape)}" if isinstance(weights, Tensor) else f"a {type(mask).__name__}"
        raise InputError(f"The mask is {found}; expected a PIL image, a path, or an array or tensor [height, width].")
    weights = weights.float() / 255 if weights.dtype == torch.uint8 else weights.float()
    low, high = (float(value) for value in weights.aminmax())
    if not (low >= 0 and high <= 1):  # also where they are NaN
        raise InputError(f"The mask has values from {low:g} to {high:g}; expected numbers in [0, 1].")
    return weights


def _images(reference: object) -> list[Image.Image]:
    if isinstance(reference, Image.Image):
        return [_upright_rgb(reference)]
    if isinstance(reference, str | Path):
        return [_open(reference)]
    if isinstance(reference, np.ndarray):
        return to_pil(_pixels_of_array(reference))
    if isinstance(reference, Tensor):
        return to_pil(_pixels_of_tensor(reference))
    raise InputError(f"image_prompt is of type {type(reference).__name__}; expected {_FORMS}, or a list of these.")


def _upright_rgb(image: Image.Image) -> Image.Image:
    try:
        return rgb(ImageOps.exif_transpose(image))[0]
    except (OSError, ValueError) as error:  # a truncated file, or pixels of no known range
        raise InputError(f"image_prompt is no image that can be read ({first_line(error)}).") from error


def _open(name: str | Path) -> Image.Image:
    if not str(name).startswith(("http://", "https://")):
        return open_image(name)
    try:
        return _upright_rgb(load_image(str(name), lambda image: image))  # without diffusers' own conversion to RGB
    except (OSError, ValueError) as error:  # requests' errors and PIL's are both OSErrors
        raise InputError(
            f"image_prompt {name} could not be downloaded as an image ({first_line(error)}); check the address."
        ) from error


def _pixels_of_array(array: np.ndarray) -> Tensor:
    """[height, width, 3] as pixels [1, 3, height, width] in [0, 1]."""
    if array.ndim != 3 or array.shape[-1] != 3 or not array.size:
        raise InputError(f"image_prompt is an array of shape {array.shape}; expected {_FORMS}.")
    if array.dtype == np.uint8:
        array = array.astype(np.float32) / 255
    return _checked(torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)[None], str(array.dtype))


def _pixels_of_tensor(tensor: Tensor) -> Tensor:
    """[3, height, width] or [images, 3, height, width] as the latter."""
    if tensor.ndim == 2:
        raise InputError(
            f"image_prompt is a tensor of shape {list(tensor.shape)}, which is no image; "
            f"give image embeddings as image_prompt_embeds."
        )
    if tensor.ndim not in (3, 4) or tensor.shape[-3] != 3 or not tensor.numel():
        raise InputError(
            f"image_prompt is a tensor of shape {list(tensor.shape)}; "
            f"expected [3, height, width] or [images, 3, height, width]."
        )
    return _checked(tensor[None] if tensor.ndim == 3 else tensor, str(tensor.dtype).removeprefix("torch."))


def _checked(pixels: Tensor, dtype: str) -> Tensor:
    """Pixels as float32; InputError where their range is not [0, 1]."""
    if not pixels.is_floating_point():
        raise InputError(f"image_prompt has pixels of type {dtype}; expected floats in [0, 1].")
    low, high = (float(value) for value in pixels.aminmax())
    if not (low >= 0 and high <= 1):  # also where they are NaN
        raise InputError(f"image_prompt has pixels from {low:g} to {high:g}; expected floats in [0, 1].")
    return pixels.float()

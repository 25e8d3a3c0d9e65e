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
ImagePrompt = Reference | Sequence[Reference]

_FORMS = "a PIL image, a path, a URL, an array [height, width, 3] or a tensor [3, height, width]"


def load_references(image_prompt: ImagePrompt) -> list[Image.Image]:
    """All images of an image prompt, upright and in RGB.

    Args:
        image_prompt: a PIL image, a path, an `http(s)` URL, a NumPy array [height, width, 3] of uint8 or of floats in
            [0, 1], a float tensor [3, height, width] or [images, 3, height, width] in [0, 1], or a list of these.

    Raises InputError, one sentence, for anything else, for a file or URL that gives no image, and for an empty list.
    """
    if not isinstance(image_prompt, list | tuple):
        return _images(image_prompt)
    if not image_prompt:
        raise InputError("image_prompt is an empty list; give one reference for all prompts or one for each.")
    return [_single(item, i) for i, item in enumerate(image_prompt)]


def _single(item: Any, index: int) -> Image.Image:
    """The image of one item of a list, which is the reference of one prompt."""
    images = item if isinstance(item, list | tuple) else _images(item)
    if images is item or len(images) != 1:
        raise InputError(
            f"image_prompt[{index}] holds {len(images)} images, but several references for one prompt "
            f"cannot be combined yet; give one image for each prompt."
        )
    return images[0]


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

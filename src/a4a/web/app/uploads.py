"""References that visitors upload: bounded in bytes and pixels, decoded here alone, refused in one sentence."""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio import component_meta
from gradio.utils import get_upload_folder
from PIL import Image, ImageOps, UnidentifiedImageError

from a4a.errors import InputError, first_line
from a4a.utils.images import rgb

MAX_BYTES = 10 * 2**20
MAX_PIXELS = 40_000_000
FORMATS = ("PNG", "JPEG", "WEBP")
KEPT_SIDE = 1024
"""Longest side of a reference that is kept; image encoders see far less."""


def decode(path: str | Path) -> Image.Image:
    """An uploaded file as an upright RGB image with sides of at most KEPT_SIDE.

    Its size is read from the head of the file, so that nothing large is ever decoded. Raises InputError for a file that
    is too large, of another format, or damaged.
    """
    if (size := Path(path).stat().st_size) > MAX_BYTES:
        raise InputError(f"The picture has {size / 2**20:.0f} MB; give one of at most {MAX_BYTES / 2**20:.0f} MB.")
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_many_pixels(f"{image.width} x {image.height}")
            image.draft("RGB", (KEPT_SIDE, KEPT_SIDE))  # a large JPEG is decoded at a fraction of its size
            upright = rgb(ImageOps.exif_transpose(image))[0]
    except Image.DecompressionBombError as error:
        raise _too_many_pixels("far too many") from error
    except UnidentifiedImageError as error:
        raise InputError("The file is no PNG, JPEG or WebP picture; give one of these.") from error
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, MemoryError) as error:
        raise InputError(f"The picture cannot be read ({first_line(error)}); give another file.") from error
    upright.thumbnail((KEPT_SIDE, KEPT_SIDE))
    return upright


def _too_many_pixels(found: str) -> InputError:
    return InputError(f"The picture has {found} pixels; give one of at most {MAX_PIXELS // 1_000_000} million pixels.")


# for every subclass of a component, gradio would write a stub beside its module
component_meta.create_or_modify_pyi = lambda *_: None


class ReferenceImage(gr.Image):
    """An image input that hands over a PIL image which `decode` has read, and takes files that were uploaded alone."""

    is_template = True
    """For the browser it is a `gr.Image`."""

    def preprocess(self, payload: Any) -> Image.Image | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if payload is None:
            return None
        # gradio checks the path of a request alone where the request calls it a file
        if not payload.path or not Path(payload.path).resolve().is_relative_to(Path(get_upload_folder()).resolve()):
            raise gr.Error("Upload the picture as a file.", title="Not accepted", print_exception=False)
        try:
            return decode(payload.path)
        except InputError as error:
            raise gr.Error(str(error), title="Not accepted", print_exception=False) from error

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """Refuses addresses, which the server would fetch for whoever asks."""
        if str(url_or_file_path).lower().startswith(("http:", "https:", "ftp:")):
            raise gr.Error("Upload the picture as a file; addresses are not fetched.", print_exception=False)
        return await super().async_move_resource_to_block_cache(url_or_file_path)


def upload_input(**options: Any) -> ReferenceImage:
    """A ReferenceImage with the options of `gr.Image`."""
    return ReferenceImage(type="filepath", image_mode=None, sources=["upload", "clipboard"], buttons=[], **options)

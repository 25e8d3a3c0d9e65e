"""Images in and out: any mode becomes RGB as people see it, tensors and back without loss."""

import numpy as np
import pytest
from PIL import Image

from a4a.errors import InputError
from a4a.utils.images import grid, open_image, rgb, to_pil, to_tensor


def noise(size=(6, 4), seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


def test_images_become_tensors_and_images_again_without_loss():
    images = [noise(seed=0), noise(seed=1)]
    pixels = to_tensor(images)
    assert pixels.shape == (2, 3, 4, 6) and pixels.min() >= 0 and pixels.max() <= 1
    assert [image.tobytes() for image in to_pil(pixels)] == [image.tobytes() for image in images]


@pytest.mark.parametrize(
    ("image", "colour", "changes"),
    [
        (Image.new("L", (2, 2), 7), (7, 7, 7), []),
        (Image.new("RGBA", (2, 2), (9, 8, 7, 255)), (9, 8, 7), []),
        (Image.new("RGBA", (2, 2), (9, 8, 7, 0)), (255, 255, 255), ["transparent, laid on white"]),
        (Image.fromarray(np.full((2, 2), 65535, np.uint16)), (255, 255, 255), ["16 bits made 8"]),
        (Image.new("CMYK", (2, 2), (0, 0, 0, 0)), (255, 255, 255), ["CMYK made RGB"]),
    ],
)
def test_every_mode_becomes_rgb_and_says_what_was_changed(image, colour, changes):
    converted, noted = rgb(image)
    assert converted.mode == "RGB" and converted.getpixel((0, 0)) == colour and noted == changes


def test_a_file_that_is_no_image_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match=r"text.png is no image that can be read \(.*\); give a PNG or JPEG file"):
        open_image(tmp_path / "text.png")
    with pytest.raises(InputError, match=r"There is no image .*none\.png; give a PNG or JPEG file"):
        open_image(tmp_path / "none.png")


def test_a_grid_crops_its_images_to_one_size():
    image = grid([[noise((9, 9)), noise()], [noise(), noise((3, 3))]])
    assert image.size == (12, 8)

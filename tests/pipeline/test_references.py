"""References in every form give the same image; anything else is refused in one sentence."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_models
from a4a.errors import InputError
from a4a.pipeline import ImagePromptPipeline
from a4a.pipeline.references import load_references
from a4a.utils.images import to_tensor
from tiny_encoders import image_encoder, photo


@pytest.fixture
def server(tmp_path):
    """The address of a folder that is served on this machine."""
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    handler.func.log_message = lambda *_: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "form",
    [
        lambda image, _: image,
        lambda image, path: path,
        lambda image, path: str(path),
        lambda image, _: np.asarray(image),
        lambda image, _: np.asarray(image) / 255,
        lambda image, _: (np.asarray(image) / 255).astype(np.float32),
        lambda image, _: to_tensor([image])[0],
        lambda image, _: to_tensor([image]),
        lambda image, _: [image],
        lambda image, _: (np.asarray(image),),
        lambda image, _: [to_tensor([image])],
    ],
)
def test_one_image_in_every_form_is_the_same_image(form, tmp_path):
    image = photo("green")
    image.save(tmp_path / "photo.png")
    [found] = load_references(form(image, tmp_path / "photo.png"))
    assert found.mode == "RGB" and found.tobytes() == image.tobytes()


def test_a_url_is_downloaded(server, tmp_path):
    photo("green").save(tmp_path / "photo.png")
    [found] = load_references(f"{server}/photo.png")
    assert found.tobytes() == photo("green").tobytes()


def test_a_url_that_gives_no_image_is_refused(server, tmp_path):
    (tmp_path / "page.html").write_text("<p>no image</p>")
    for name in (f"{server}/none.png", f"{server}/page.html", "http://127.0.0.1:1/photo.png"):
        with pytest.raises(InputError, match=f"image_prompt {name} could not be downloaded as an image"):
            load_references(name)


def test_a_list_may_mix_forms_and_keeps_its_order():
    red, blue = photo("red"), photo("blue")
    found = load_references([red, np.asarray(blue), to_tensor([red])[0]])
    assert [image.tobytes() for image in found] == [image.tobytes() for image in (red, blue, red)]


def test_a_tensor_of_several_images_is_as_many_references():
    found = load_references(to_tensor([photo("red"), photo("blue")]))
    assert [image.getpixel((15, 15)) for image in found] == [(255, 0, 0), (0, 0, 255)]


def test_a_photo_is_turned_upright_and_laid_on_white(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    photo("red", (20, 30)).save(tmp_path / "turned.jpg", exif=exif)
    for form in (tmp_path / "turned.jpg", Image.open(tmp_path / "turned.jpg")):
        assert load_references(form)[0].size == (30, 20)
    assert load_references(Image.new("RGBA", (2, 2), (255, 0, 0, 0)))[0].getpixel((0, 0)) == (255, 255, 255)


def test_every_form_of_a_reference_generates_the_same_image(sd15):
    prompted = ImagePromptPipeline(sd15, tiny_models.ip_adapter(sd15), image_encoder())
    image = photo("green")
    expected = tiny_models.call(prompted, image_prompt=image)
    for form in (np.asarray(image), to_tensor([image]), [image]):
        assert torch.equal(tiny_models.call(prompted, image_prompt=form), expected)


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("none.png", "There is no .* none.png"),
        ([], "image_prompt is an empty list"),
        ([[photo("red"), photo("blue")]], "image_prompt is of type list"),
        (torch.zeros(1, 24), r"shape \[1, 24\], which is no image; give image embeddings as image_prompt_embeds"),
        (torch.zeros(1, 4, 8, 8), r"shape \[1, 4, 8, 8\]; expected \[3, height, width\]"),
        (torch.zeros(8), r"shape \[8\]; expected \[3, height, width\]"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"pixels of type uint8; expected floats in \[0, 1\]"),
        (torch.full((3, 8, 8), -1.0), r"pixels from -1 to -1; expected floats in \[0, 1\]"),
        (torch.full((3, 8, 8), torch.nan), r"pixels from nan to nan; expected floats in \[0, 1\]"),
        (np.zeros((8, 8, 4), np.uint8), r"array of shape \(8, 8, 4\); expected a PIL image"),
        (np.zeros((8, 8, 3), np.int64), r"pixels of type int64; expected floats in \[0, 1\]"),
        (np.full((8, 8, 3), 255.0), r"pixels from 255 to 255; expected floats in \[0, 1\]"),
        (Image.new("F", (8, 8)), "image_prompt is no image that can be read"),
        (7, "image_prompt is of type int; expected a PIL image, a path, a URL"),
        ([7], "image_prompt is of type int"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_anything_that_is_no_reference_is_refused_in_a_sentence(reference, sentence):
    with pytest.raises(InputError, match=sentence):
        load_references(reference)

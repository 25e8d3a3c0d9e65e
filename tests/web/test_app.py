"""The parts of `a4a web` that need no browser."""

import asyncio
import threading
from pathlib import Path

import gradio as gr
import pytest
import torch
from PIL import Image

from a4a.cli.main import main
from a4a.errors import InputError
from a4a.web.app import uploads
from a4a.web.app.catalogue import find_adapter, given_catalogue, given_choice, zoo_catalogue
from a4a.web.app.drawing import DrawingThread, Settings, Step
from a4a.web.app.launch import check_host, read_auth
from a4a.web.app.models import Models
from a4a.web.app.session import enlarged
from a4a.web.app.transfers import Transfers
from a4a.zoo import WorldTask
from hostile_images import GOOD, HOSTILE

PROMPT = "a large creature in the middle, on a beach"


# --- who may come --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_this_machine_alone_needs_no_password(host):
    check_host(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5"])
def test_any_other_address_needs_a_password(host, capsys):
    check_host(host, [("ann", "secret")])
    assert main(["web", "--host", host]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--auth USER:PASSWORD" in error


def test_a_name_is_no_address():
    with pytest.raises(InputError, match="give an IP address"):
        check_host("example.org", [("ann", "secret")])


def test_passwords_are_one_pair_or_a_file_of_them(tmp_path):
    file = tmp_path / "visitors"
    file.write_text("ann:secret\nben:with:colons\n")
    assert read_auth("ann:secret") == [("ann", "secret")]
    assert read_auth(str(file)) == [("ann", "secret"), ("ben", "with:colons")]
    assert read_auth(None) is None
    file.write_text("\n")
    for wrong in ("ann", ":secret", "ann:", str(file)):
        with pytest.raises(InputError, match="USER:PASSWORD"):
            read_auth(wrong)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "zoo:pixart-mini"], "go together"),
        (["--report", "nowhere"], "no index.html"),
        (["--model", "zoo:nothing", "--adapter", "zoo:a4a-plus-pixart-mini"], "The zoo has no nothing"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(words, said, capsys):
    assert main(["web", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error


# --- what is uploaded ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_upload_is_refused_in_one_sentence(name, tmp_path):
    content, said = HOSTILE[name]
    file = tmp_path / "upload.png"
    file.write_bytes(content)
    with pytest.raises(InputError, match=said) as refused:
        uploads.decode(file)
    assert "\n" not in str(refused.value)


def test_bytes_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_BYTES", 100)
    file = tmp_path / "upload.png"
    file.write_bytes(GOOD)
    with pytest.raises(InputError, match="at most 0 MB"):
        uploads.decode(file)


def test_an_upload_is_upright_rgb_and_of_bounded_size(tmp_path):
    file = tmp_path / "upload.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("L", (3000, 1500)).save(file, exif=exif)
    image = uploads.decode(file)
    assert image.mode == "RGB" and image.size == (512, 1024)
    clear = tmp_path / "upload.webp"
    Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save(clear)
    assert uploads.decode(clear).getpixel((5, 5)) == (255, 255, 255)


def test_the_input_takes_uploaded_files_alone():
    with gr.Blocks():
        component = uploads.upload_input()
    assert not Path(uploads.__file__).with_suffix(".pyi").exists()  # gradio writes one for any subclass
    assert component.get_config()["sources"] == ["upload", "clipboard"] and component.get_block_name() == "image"
    for address in ("http://127.0.0.1/a.png", "https://example.org/a.png"):
        with pytest.raises(gr.Error, match="not fetched"):
            asyncio.run(component.async_move_resource_to_block_cache(address))


# --- what can be chosen --------------------------------------------------------------------------------------------


def test_the_zoo_offers_every_adapter_with_the_model_that_it_is_for():
    catalogue = zoo_catalogue()
    labels = {model.label: [adapter.path for adapter in model.adapters] for model in catalogue.models}
    assert next(iter(labels)) == "pixart-mini" and labels["pixart-mini"][0] == "zoo:a4a-plus-pixart-mini"
    assert labels["sd15-mini"][0] == "zoo:ip-adapter-plus-sd15-mini"
    assert {"a4a-plus-pixart-mini", "a4a-plus-sdxl-mini", "ip-adapter-plus-pixart-mini"} <= set(catalogue.stages)
    assert "ip-adapter-plus-sd15-mini" not in catalogue.stages


def test_what_is_not_offered_is_an_input_error(studio):
    catalogue = given_catalogue(
        given_choice("zoo:pixart-mini", "zoo:a4a-plus-pixart-mini", None, None), studio[1]().backbone
    )
    assert (catalogue.models[0].steps, catalogue.models[0].guidance) == (20, 4.5)  # of PixArtAlphaPipeline
    with pytest.raises(InputError, match="There is no model sd15-mini"):
        catalogue.model("sd15-mini")
    with pytest.raises(InputError, match="There is no adapter other"):
        find_adapter(catalogue.models[0], (), "other")


def test_small_pictures_are_enlarged_by_a_whole_factor():
    assert enlarged(Image.new("RGB", (64, 48))).size == (384, 288)
    assert enlarged(Image.new("RGB", (512, 512))).size == (512, 512)


# --- drawing -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def studio():
    thread, models, model = DrawingThread(), Models(), zoo_catalogue().model("pixart-mini")
    yield thread, lambda: models.pipeline(model, model.adapters[0])
    thread.close()


@pytest.fixture(scope="module")
def reference():
    return WorldTask("test", 1, 1).references[0]


def test_previews_come_near_the_picture(studio, reference):
    thread, load = studio
    *steps, picture = thread.draw(load, reference, Settings(PROMPT, 0, 1.0, 8, 3.0))
    assert [(step.number, step.total) for step in steps] == [(n, 8) for n in range(1, 9)]
    previews = [step.preview for step in steps if step.preview is not None]
    assert len(previews) == 3

    def distance(preview):
        first, second = (torch.tensor(list(image.getdata())).float() for image in (preview, picture))
        return float((first - second).abs().mean())

    assert distance(previews[-1]) < distance(previews[0]) and distance(previews[-1]) < 20
    pipe = load()
    assert "step" not in vars(pipe.scheduler)
    generator = torch.Generator().manual_seed(0)
    expected = pipe(PROMPT, image_prompt=reference, generator=generator, num_inference_steps=8, guidance_scale=3.0)
    assert list(picture.getdata()) == list(expected.images[0].getdata())


def test_a_closed_drawing_stops_and_the_next_one_is_whole(studio):
    thread, load = studio
    drawing = thread.draw(load, None, Settings(PROMPT, 1, 1.0, 60, 3.0))
    assert isinstance(next(drawing), Step)
    drawing.close()
    drawing = thread.draw(load, None, Settings(PROMPT, 1, 1.0, 60, 3.0), "ann")
    next(drawing)
    thread.leave("ben")
    next(drawing)
    thread.leave("ann")
    assert len(list(drawing)) <= 3  # it ends at the next step
    *steps, picture = thread.draw(load, None, Settings(PROMPT, 1, 1.0, 2, 3.0))
    assert len(steps) == 2 and picture.size == (64, 64)


def test_what_fails_while_drawing_reaches_the_visitor(studio):
    thread, _ = studio

    def load():
        raise InputError("no such adapter")

    with pytest.raises(InputError, match="no such adapter"):
        list(thread.draw(load, None, Settings(PROMPT, 1)))
    assert threading.active_count() < 50


# --- transfers -----------------------------------------------------------------------------------------------------


def test_one_transfer_runs_at_a_time_and_leaves_nothing(tmp_path):
    transfers = Transfers(tmp_path / "transfers", zoo_catalogue().stages)
    with pytest.raises(InputError, match="There is no transfer"):
        transfers.start("ann", "vae", 8, 0)
    name = transfers.start("ann", "a4a-plus-pixart-mini", 8, 0)
    with pytest.raises(InputError, match="Your transfer is still running"):
        transfers.start("ann", "a4a-plus-pixart-mini", 8, 0)
    with pytest.raises(InputError, match="Another visitor's"):
        transfers.start("ben", "a4a-plus-pixart-mini", 8, 0)
    process = transfers.find(name).process
    transfers.leave("ben")
    assert process.poll() is None
    transfers.leave("ann")
    assert process.poll() is not None and transfers.find(name) is None
    assert not list((tmp_path / "transfers").glob(name))

"""The nodes in a row, on the zoo: from an adapter's name and a picture to the model's prediction."""

import asyncio
import inspect
import json
import sys
from pathlib import Path

import pytest
import torch

import comfyui
import fake_comfyui
import tiny_models
from a4a import A4A, ImagePromptPipeline, InputError, SiteFeatures, attach, load_pipeline
from a4a.backbones import backbone_for
from a4a.pipeline import ImagePrompt
from a4a.pipeline.terms import image_terms
from a4a.utils.images import to_tensor
from a4a.zoo import WorldTask
from comfyui.apply import Course
from comfyui.features import BATCH, encode, load

ADAPTER = "zoo:a4a-plus-sdxl-mini"


@pytest.fixture
def nodes(monkeypatch, tmp_path):
    """The nodes by their ids."""
    fake_comfyui.install(monkeypatch, tmp_path)
    yield {n.define_schema().node_id: n for n in asyncio.run(_nodes())}
    sys.modules.pop("comfyui.nodes")


async def _nodes():
    return await (await comfyui.comfy_entrypoint()).get_node_list()


@pytest.fixture(scope="module")
def adapter():
    return load(ADAPTER)


@pytest.fixture(scope="module")
def references():
    return WorldTask("test", subjects=3).references


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline("zoo:sdxl-mini")


def test_each_node_executes_with_its_inputs_by_name(nodes):
    for node in nodes.values():
        inputs = node.define_schema().inputs
        assert list(inspect.signature(node.execute).parameters) == [socket.id for socket in inputs]


def test_a_picture_gives_the_prediction_that_our_pipeline_gives(nodes, pipe, references):
    reference = references[0]
    (adapter,) = nodes["A4ALoadAdapter"].execute(ADAPTER, "", "").args
    image = to_tensor([reference]).movedim(1, -1)
    (prompts,) = nodes["A4AEncodeImagePrompt"].execute(adapter, image, "", "concat").args
    nodes["A4ASaveImagePrompts"].execute(prompts, "creature")
    (read,) = nodes["A4ALoadImagePrompts"].execute("creature").args
    apply = nodes["A4AApplyImagePrompt"].execute
    (model,) = apply(fake_comfyui.load_model(pipe), read, 0.8, 0.0, 0.5, "linear").args

    ours = ImagePromptPipeline(pipe, A4A.from_pretrained(ADAPTER))
    rows = SiteFeatures.stack([*reversed(ours.features(ours.encode_image_prompt(reference)))])
    inputs = tiny_models.inputs(ours.backbone, 2)
    plain = ours.backbone.predict(*inputs)
    with attach(ours.backbone.denoiser, ours.backbone.sites, rows, 0.8):
        expected = ours.backbone.predict(*inputs)
    torch.testing.assert_close(model.run(*inputs, (1, 0), sigma=7.0), expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(model.run(*inputs, (1, 0), sigma=5.0), plain, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(expected, plain, atol=1e-2)


@pytest.mark.parametrize("combine", ["concat", "norm average", BATCH])
def test_references_are_combined_as_our_pipeline_does(combine, adapter, pipe, references):
    first, second, third = references
    images = [to_tensor([image]).movedim(1, -1) for image in (first, second, third)]
    backbone = backbone_for(pipe)
    if combine == BATCH:
        pictures, weights = [[ImagePrompt(image, negative=third)] for image in (first, second)], ""
    else:
        pictures, weights = [[ImagePrompt([first, second], weights=[2, 1], combine=combine, negative=third)]], "2, 1"
    (expected,) = image_terms(pictures, 1, {"default": adapter}, backbone, 1.0)
    found = encode(adapter, images[:2], weights, combine, images[2])
    sides = [(found.prompt, expected.features, expected.counts), (found.negative, expected.negative, None)]
    for side, features, counts in sides:
        for ours, theirs in zip(
            side.features.keys + side.features.values, features.keys + features.values, strict=True
        ):
            times = theirs.shape[1] // ours.shape[1]  # our terms have as many tokens on both sides
            torch.testing.assert_close(
                ours.expand(len(theirs), -1, -1).repeat(1, times, 1), theirs, atol=1e-3, rtol=1e-3
            )
        assert counts is None or torch.equal(side.counts, counts)


def test_weights_that_do_not_fit_are_refused(adapter):
    image = torch.zeros(2, 8, 8, 3)
    for weights, combine, message in (
        ("1, x", "concat", "expected numbers separated by commas"),
        ("1, 2, 3", "average", "3 weights for 2 references"),
        ("1, 2", BATCH, "images of a batch are not weighted"),
    ):
        with pytest.raises(InputError, match=message):
            encode(adapter, [image], weights, combine)


def test_names_that_lead_out_of_the_output_folder_are_refused(nodes, tmp_path):
    for name in ("../../creature", "/creature", ""):
        with pytest.raises(InputError, match="leads out of the folder"):
            nodes["A4ALoadImagePrompts"].execute(name)
    file = tmp_path / "output" / "a4a" / "broken.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"broken\.safetensors holds no image prompts"):
        nodes["A4ALoadImagePrompts"].execute("broken")
    with pytest.raises(InputError, match=r"There is no file .*missing"):
        nodes["A4ALoadImagePrompts"].execute("missing")


def test_a_course_begins_and_ends_where_controlnets_do():
    sigma = fake_comfyui.ModelSampling().percent_to_sigma
    course = Course(sigma, 0.25, 0.5)
    assert [course(sigma(step / 8)) for step in range(9)] == [0, 0, 1, 1, 0, 0, 0, 0, 0]
    whole = Course(sigma)
    assert [whole(sigma(step / 8)) for step in range(9)] == [1] * 9
    with pytest.raises(InputError, match=r"acts from 0\.5 to 0\.25"):
        Course(sigma, 0.5, 0.25)


def test_the_example_workflow_fits_the_nodes(nodes):
    (file,) = (Path(str(comfyui.__file__)).parent / "example_workflows").iterdir()
    workflow = json.loads(file.read_text())
    by_id = {node["id"]: node for node in workflow["nodes"]}
    for number, source, slot, target, place, io_type in workflow["links"]:
        assert number in by_id[source]["outputs"][slot]["links"]
        assert by_id[target]["inputs"][place]["link"] == number
        assert by_id[source]["outputs"][slot]["type"] == by_id[target]["inputs"][place]["type"] == io_type
    own = [node for node in workflow["nodes"] if node["type"] in nodes]
    assert len(own) == 3
    for node in own:
        schema = nodes[node["type"]].define_schema()
        sockets = [socket for socket in schema.inputs if not socket.is_widget]
        assert [(i["name"], i["type"]) for i in node["inputs"]] == [(s.id, s.io_type) for s in sockets]
        assert [o["type"] for o in node["outputs"]] == [s.io_type for s in schema.outputs]
        widgets = [socket for socket in schema.inputs if socket.is_widget]
        for widget, value in zip(widgets, node["widgets_values"], strict=True):
            assert value in widget.options["options"] if widget.io_type == "COMBO" else isinstance(value, float | str)

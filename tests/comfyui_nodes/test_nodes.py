"""The nodes in a row, on the zoo: from an adapter's name and a picture to the model's prediction."""

import asyncio
import inspect
import sys

import pytest
import torch

import comfyui
import fake_comfyui
import tiny_models
from a4a import A4A, ImagePromptPipeline, InputError, SiteFeatures, attach, load_pipeline
from a4a.utils.images import to_tensor
from a4a.zoo import WorldTask
from comfyui.apply import Course

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
def pipe():
    return load_pipeline("zoo:sdxl-mini")


def test_each_node_executes_with_its_inputs_by_name(nodes):
    for node in nodes.values():
        inputs = node.define_schema().inputs
        assert list(inspect.signature(node.execute).parameters) == [socket.id for socket in inputs]


def test_a_picture_gives_the_prediction_that_our_pipeline_gives(nodes, pipe):
    reference = WorldTask("test", subjects=1).references[0]
    (adapter,) = nodes["A4ALoadAdapter"].execute(ADAPTER, "", "").args
    image = to_tensor([reference]).movedim(1, -1)
    (prompts,) = nodes["A4AEncodeImagePrompt"].execute(adapter, image).args
    nodes["A4ASaveImagePrompts"].execute(prompts, "creature")
    (read,) = nodes["A4ALoadImagePrompts"].execute("creature").args
    apply = nodes["A4AApplyImagePrompt"].execute
    (model,) = apply(fake_comfyui.load_model(pipe), read, 0.8, 0.0, 0.5).args

    ours = ImagePromptPipeline(pipe, A4A.from_pretrained(ADAPTER))
    rows = SiteFeatures.stack([*reversed(ours.features(ours.encode_image_prompt(reference)))])
    inputs = tiny_models.inputs(ours.backbone, 2)
    plain = ours.backbone.predict(*inputs)
    with attach(ours.backbone.denoiser, ours.backbone.sites, rows, 0.8):
        expected = ours.backbone.predict(*inputs)
    torch.testing.assert_close(model.run(*inputs, (1, 0), sigma=7.0), expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(model.run(*inputs, (1, 0), sigma=5.0), plain, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(expected, plain, atol=1e-2)


def test_names_that_lead_out_of_the_output_folder_are_refused(nodes, tmp_path):
    for name in ("../../creature", "/creature", ""):
        with pytest.raises(InputError, match="leads out of the folder"):
            nodes["A4ALoadImagePrompts"].execute(name)
    file = tmp_path / "output" / "a4a" / "broken.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"broken\.safetensors holds no features"):
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

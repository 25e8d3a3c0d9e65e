"""Image prompts in a diffusers pipeline itself: load_a4a, and folders that diffusers loads with a custom pipeline."""

import copy
import gc
import os
import weakref

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from huggingface_hub import ModelCard, RepoUrl

import a4a
import tiny_models
from a4a.errors import InputError
from a4a.pipeline import Course, ImagePrompt, ImagePromptPipeline
from tiny_encoders import photo


@pytest.fixture
def own(sd15):
    return tiny_models.with_own_denoiser(sd15)


def differ(a, b):
    return (a - b).abs().max() > 1e-3


def draw(pipe, **options):
    generator = torch.Generator().manual_seed(0)
    size = {"num_inference_steps": 2, "height": 16, "width": 16}
    return pipe("a cat on a beach", generator=generator, output_type="latent", **size, **options).images


def test_a_pipeline_takes_image_prompts_itself_and_is_the_plain_one_after_unloading(own):
    plain, embeds = draw(own), tiny_models.embeds()
    attributes = set(own.__dict__)
    a4a.load_a4a(own, tiny_models.ip_adapter(own))
    wrapped = ImagePromptPipeline(tiny_models.with_own_denoiser(own), tiny_models.ip_adapter(own))
    assert isinstance(own, StableDiffusionPipeline) and type(own).__name__ == "StableDiffusionPipeline"
    assert torch.equal(draw(own), plain)
    assert torch.equal(draw(own, image_prompt_embeds=embeds), draw(wrapped, image_prompt_embeds=embeds))
    rich = ImagePrompt(embeds=embeds, course=Course(end=0.5))
    assert torch.equal(draw(own, image_prompt=rich), draw(wrapped, image_prompt=rich))
    own.unload_a4a()
    assert type(own) is StableDiffusionPipeline and torch.equal(draw(own), plain)
    assert own.__dict__.keys() == attributes


def test_the_scale_that_is_set_is_that_of_calls_which_give_none(own):
    a4a.load_a4a(own, tiny_models.ip_adapter(own))
    embeds = tiny_models.embeds()
    expected = [draw(own, image_prompt_embeds=embeds, image_prompt_scale=scale) for scale in (0.3, {"style": 1.0}, 1.0)]
    for scale, image in zip((0.3, {"style": 1.0}), expected, strict=False):
        own.set_a4a_scale(scale)
        assert torch.equal(draw(own, image_prompt_embeds=embeds), image)
    assert torch.equal(draw(own, image_prompt_embeds=embeds, image_prompt_scale=1.0), expected[2])
    with pytest.raises(InputError, match="scale names 'eyes', which is no part of this model"):
        own.set_a4a_scale({"eyes": 1.0})


def test_several_adapters_are_loaded_and_unloaded_by_name(own):
    a4a.load_a4a(own, tiny_models.ip_adapter(own))
    a4a.load_a4a(own, tiny_models.shaken(tiny_models.ip_adapter(own), 0.5), name="style")
    embeds = tiny_models.embeds()
    style = draw(own, image_prompt=ImagePrompt(embeds=embeds, adapter="style"))
    assert differ(style, draw(own, image_prompt_embeds=embeds))
    with pytest.raises(InputError, match="There is no adapter 'pose'; the pipeline has default, style"):
        own.unload_a4a("pose")
    own.unload_a4a("default")
    assert torch.equal(draw(own, image_prompt_embeds=embeds), style)
    own.unload_a4a("style")
    assert type(own) is StableDiffusionPipeline


def test_an_adapter_that_does_not_fit_leaves_the_pipeline_as_it_was(own, sdxl):
    with pytest.raises(InputError, match="The adapter is not for the UNet2DConditionModel of StableDiffusionPipeline"):
        a4a.load_a4a(own, tiny_models.ip_adapter(sdxl))
    assert type(own) is StableDiffusionPipeline


def test_a_copy_has_the_adapter_and_nothing_keeps_the_pipeline_alive(own):
    a4a.load_a4a(own, tiny_models.ip_adapter(own))
    other = copy.deepcopy(own)
    assert torch.equal(*(draw(pipe, image_prompt_embeds=tiny_models.embeds()) for pipe in (own, other)))
    gone = weakref.ref(other)
    gc.disable()
    try:
        del other
        assert gone() is None  # its memory is free at once
    finally:
        gc.enable()


def test_diffusers_loads_a_saved_folder_with_and_without_image_prompts(own, encoder_folder, tmp_path):
    adapters = {"face": tiny_models.ip_adapter(own), "style": tiny_models.shaken(tiny_models.ip_adapter(own), 0.5)}
    pipe = ImagePromptPipeline(own, adapters, dict.fromkeys(adapters, encoder_folder))
    prompts = [[ImagePrompt(photo("red")), ImagePrompt(photo("blue"), adapter="style", scale=0.5)]]
    expected, folder = draw(pipe, image_prompt=prompts), tmp_path / "saved"
    pipe.save_pretrained(folder)
    loaded = DiffusionPipeline.from_pretrained(folder, custom_pipeline=str(folder), trust_remote_code=True)
    loaded.set_progress_bar_config(disable=True)
    torch.testing.assert_close(draw(loaded, image_prompt=prompts), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(draw(loaded), draw(own))
    loaded.save_pretrained(tmp_path / "again")  # by the loaded pipeline: the same folder
    again = ImagePromptPipeline.from_pretrained(tmp_path / "again")
    again.set_progress_bar_config(disable=True)
    torch.testing.assert_close(draw(again, image_prompt=prompts), expected, atol=1e-4, rtol=1e-4)
    assert type(DiffusionPipeline.from_pretrained(tmp_path / "again")) is StableDiffusionPipeline


def test_what_is_pushed_to_the_hub_is_the_folder_with_the_adapter(own, encoder_folder, monkeypatch):
    """Up to where diffusers would talk to the hub."""
    pushed = []
    hub = "diffusers.utils.hub_utils"
    monkeypatch.setattr(f"{hub}.create_repo", lambda name, **_: RepoUrl(f"https://huggingface.co/{name}"))
    monkeypatch.setattr(f"{hub}.load_or_create_model_card", lambda *_, **__: ModelCard("---\nlicense: mit\n---\n"))
    monkeypatch.setattr(
        own, "_upload_folder", lambda folder, *_, **__: pushed.extend(os.listdir(folder)), raising=False
    )
    pipe = ImagePromptPipeline(own, tiny_models.ip_adapter(own), encoder_folder)
    pipe.push_to_hub("me/mine")
    assert {"image_prompt_adapter", "pipeline.py", "model_index.json", "unet", "README.md"} <= set(pushed)
    with pytest.raises(InputError, match=r"to push it to the hub, call push_to_hub\(name\)"):
        pipe.save_pretrained("never", push_to_hub=True)

"""Arguments of a call: a misspelt or unknown one is never ignored, and each mistake is one sentence."""

import inspect
import math

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline

import tiny_models
from a4a.errors import InputError
from a4a.pipeline import ImagePromptPipeline
from tiny_encoders import photo


@pytest.fixture
def prompted(pipe):
    return ImagePromptPipeline(pipe, tiny_models.ip_adapter(pipe))


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("ip_adapter_image", "image_prompt"),
        ("ip_adapter_image_embeds", "image_prompt_embeds"),
        ("ip_adapter_scale", "image_prompt_scale"),
        ("image_promt", "image_prompt"),
        ("image_prompt_scal", "image_prompt_scale"),
        ("num_inference_step", "num_inference_steps"),
    ],
)
def test_an_unknown_argument_is_refused_with_the_right_name(prompted, wrong, right):
    name = type(prompted.pipe).__name__
    with pytest.raises(InputError, match=rf"^{name} takes no argument {wrong}; did you mean {right}\?$"):
        tiny_models.call(prompted, **{wrong: photo("red")})


def test_an_argument_without_a_near_name_is_refused_with_all_names(prompted):
    with pytest.raises(InputError, match=r"takes no argument xyz; it takes .*generator.*image_prompt, .*prompt"):
        tiny_models.call(prompted, xyz=1)


def test_every_argument_that_the_pipeline_names_still_reaches_it(prompted):
    options = {"guidance_scale": 2.0}
    if "eta" in inspect.signature(type(prompted.pipe).__call__).parameters:  # flow matching has no such noise
        options["eta"] = 0.5
    plain = tiny_models.call(prompted.pipe, negative_prompt="blue", **options)
    found = tiny_models.call(prompted, negative_prompt="blue", **options)
    assert torch.equal(found, plain)
    assert not torch.equal(found, tiny_models.call(prompted, **options))


def test_arguments_of_other_kinds_of_pipelines_are_theirs(sd15):
    pipe = StableDiffusionImg2ImgPipeline(**sd15.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    prompted = ImagePromptPipeline(pipe, tiny_models.ip_adapter(sd15))
    assert prompted("a cat", image=photo("red", (16, 16)), strength=0.5, num_inference_steps=2, output_type="latent")
    with pytest.raises(InputError, match=r"takes no argument strenght; did you mean strength\?"):
        prompted("a cat", image=photo("red", (16, 16)), strenght=0.5)


def test_images_and_embeddings_at_once_are_refused(prompted):
    with pytest.raises(InputError, match="Both image_prompt and image_prompt_embeds are given"):
        tiny_models.call(prompted, image_prompt=photo("red"), image_prompt_embeds=tiny_models.embeds())


def test_embeddings_that_are_no_tensor_are_refused(prompted):
    with pytest.raises(
        InputError, match=rf"image_prompt_embeds is of type list; expected a tensor \[references, {tiny_models.EMBED}\]"
    ):
        tiny_models.call(prompted, image_prompt_embeds=[1.0])


# --- image_prompt_scale ----------------------------------------------------------------------------------------------


def test_a_wrong_scale_is_refused_before_anything_is_drawn(prompted):
    for scale in (math.nan, "strong", []):
        with pytest.raises(InputError, match="image_prompt_scale"):
            tiny_models.call(prompted, image_prompt_embeds=tiny_models.embeds(), image_prompt_scale=scale)

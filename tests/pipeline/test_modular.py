"""diffusers' modular pipelines with the block of `modular_block/` draw what ImagePromptPipeline draws."""

from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import ClassifierFreeGuidance, ModularPipelineBlocks

import tiny_models
from a4a.backbones import backbone_for
from a4a.errors import InputError
from a4a.injection import is_attached
from a4a.pipeline import ImagePromptPipeline
from a4a.pipeline.modular import ImagePromptDenoise
from tiny_encoders import image_encoder, photo

FOLDER = Path(__file__).parents[2] / "modular_block"
BLOCKS = {
    "sdxl": "StableDiffusionXLAutoBlocks",
    "sd3": "StableDiffusion3AutoBlocks",
    "z_image": "ZImageAutoBlocks",
    "qwen_image": "QwenImageAutoBlocks",
    "flux": "FluxAutoBlocks",
    "wan": "WanBlocks",
}
SAME_AS_STANDARD = ("sdxl", "z_image", "wan")
"""Families whose modular and standard pipelines draw the same image without an image prompt, too."""


def modular(standard, blocks, adapter):
    block = ModularPipelineBlocks.from_pretrained(str(FOLDER), trust_remote_code=True)
    pipe = block.around(getattr(diffusers, blocks)()).init_pipeline()
    known = pipe._component_specs
    pipe.update_components(**{name: part for name, part in standard.components.items() if name in known and part})
    if "guider" in known:
        original = type(standard).__name__ == "ZImagePipeline"  # which adds guidance to the prompt's prediction
        pipe.update_components(guider=ClassifierFreeGuidance(3.0, use_original_formulation=original))
    pipe.update_components(image_prompt_adapter=adapter)
    return pipe


def call(pipe, prompt: str | list[str] = "a cat on a beach", **options):
    side = tiny_models.SIDE * backbone_for(pipe).vae_scale_factor
    frames = {"num_frames": 1} if type(pipe).__name__ == "WanModularPipeline" else {}
    sizes = {"height": side, "width": side, "num_inference_steps": 2, "output": "latents"}
    return pipe(prompt=prompt, generator=torch.Generator().manual_seed(0), **sizes, **frames, **options)


@pytest.mark.parametrize("name", BLOCKS)
def test_an_image_prompt_reaches_the_prompts_branch_alone(name, request):
    standard = request.getfixturevalue(name)
    adapter, embeds = tiny_models.ip_adapter(standard), tiny_models.embeds()
    pipe = modular(standard, BLOCKS[name], adapter)
    plain, prompted = call(pipe), call(pipe, image_prompt_embeds=embeds)
    assert (prompted - plain).abs().max() > 1e-3
    assert torch.equal(call(pipe, image_prompt_embeds=embeds, image_prompt_scale=0.0), plain)
    assert not is_attached(backbone_for(pipe).denoiser)
    if name in SAME_AS_STANDARD:
        expected = tiny_models.call(ImagePromptPipeline(standard, adapter), image_prompt_embeds=embeds)
        assert (prompted.reshape(expected.shape) - expected).abs().max() < 1e-4


def test_each_prompt_gets_the_features_of_its_own_reference(z_image):
    pipe, embeds = modular(z_image, BLOCKS["z_image"], tiny_models.ip_adapter(z_image)), tiny_models.embeds(2)
    latents = torch.randn(1, 4, tiny_models.SIDE, tiny_models.SIDE).expand(4, -1, -1, -1)
    both = call(pipe, ["a cat", "a red dog"], image_prompt_embeds=embeds, num_images_per_prompt=2, latents=latents)
    alone = call(pipe, "a red dog", image_prompt_embeds=embeds[1:], latents=latents[:1])
    assert (both[2:] - alone).abs().max() < 1e-4


def test_a_reference_is_encoded_by_the_adapters_own_encoder_once_loaded(z_image, tmp_path):
    encoder, adapter = image_encoder(), tiny_models.ip_adapter(z_image)
    encoder.module.save_pretrained(tmp_path)
    encoder.processor.save_pretrained(tmp_path)
    adapter.set_image_encoder(str(tmp_path))
    pipe = modular(z_image, BLOCKS["z_image"], adapter)
    red, blue = (call(pipe, image_prompt=photo(colour)) for colour in ("red", "blue"))
    loaded = pipe.image_prompt_encoder
    again = call(pipe, image_prompt_embeds=loaded([photo("red")]))
    assert pipe.image_prompt_encoder is loaded
    assert torch.equal(again, red)
    assert not torch.equal(blue, red)


def test_nothing_stays_attached_after_an_error(sdxl):
    pipe = modular(sdxl, BLOCKS["sdxl"], tiny_models.ip_adapter(sdxl))
    with pytest.raises(RuntimeError):
        call(pipe, image_prompt_embeds=tiny_models.embeds(), latents=torch.zeros(1, 5, 8, 8))
    assert not is_attached(sdxl.unet)


def test_what_is_missing_is_named(sdxl):
    with pytest.raises(InputError, match=r"has no block decode_all; name the one that denoises, of text_encoder"):
        ImagePromptDenoise().around(diffusers.StableDiffusionXLAutoBlocks(), "decode_all")
    pipe = modular(sdxl, BLOCKS["sdxl"], None)
    with pytest.raises(InputError, match=r"no adapter; give it one by update_components"):
        call(pipe, image_prompt_embeds=tiny_models.embeds())

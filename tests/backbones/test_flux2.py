"""FLUX.2: dev's distilled guidance, reference images, the choice of sites, latents that a batch norm normalises."""

import copy

import pytest
import torch
from diffusers import Flux2KleinInpaintPipeline, Flux2KleinKVPipeline, Flux2KleinPipeline, Flux2Pipeline
from PIL import Image

import tiny_models
import tiny_qwen
from a4a.backbones import backbone_for
from a4a.backbones.latents import unpack
from a4a.injection import attach
from a4a.pipeline import ImagePromptPipeline
from a4a.transfer.config import IPAdapterConfig
from injecting import features

PHOTO = Image.new("RGB", (64, 64), "red")
PARTS = "{% for part in m['content'] %}{{ part['text'] }}{% endfor %}"


@pytest.fixture(scope="module")
def dev(flux2):
    """Dev, with another tokenizer: the real one's processor wants torchvision."""
    torch.manual_seed(0)
    tokenizer = copy.deepcopy(flux2.tokenizer)
    tokenizer.chat_template = f"{{% for m in messages %}}{PARTS}{{% endfor %}}"
    tokenizer.padding_side = "left"
    pipe = Flux2Pipeline(
        scheduler=flux2.scheduler,
        vae=flux2.vae,
        text_encoder=tiny_qwen.mistral3(tiny_models.TEXT, layers=30).eval(),
        tokenizer=tokenizer,
        transformer=tiny_models.shaken(tiny_models.flux2_transformer(guidance_embeds=True), 0.05).eval(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_dev_is_trained_at_guidance_one_and_drawn_with_any(dev):
    backbone, calls = backbone_for(dev), []
    hook = dev.transformer.register_forward_hook(lambda *a: calls.append(a[2:]), with_kwargs=True)
    prompts = ["a cat on a beach", "a red dog"]
    for scale in (1.0, 4.0):
        tiny_models.call(dev, prompts, guidance_scale=scale, num_inference_steps=1)
    hook.remove()
    (inputs, (own,)), (_, (guided,)) = calls
    assert not torch.allclose(guided, own, atol=1e-3)
    noisy, own = (unpack(rows, (8, 8), 1) for rows in (inputs["hidden_states"], own))
    text = backbone.encode_text(prompts)
    assert torch.equal(text["states"], inputs["encoder_hidden_states"])
    with torch.no_grad():
        found = backbone.predict(noisy, dev.scheduler.timesteps[:1].expand(2), text)
    torch.testing.assert_close(found, own, atol=1e-5, rtol=1e-4)


def test_dev_takes_an_image_prompt(dev):
    prompted = ImagePromptPipeline(dev, tiny_models.ip_adapter(dev))
    plain = tiny_models.call(dev)
    assert torch.equal(tiny_models.call(prompted), plain)
    assert not torch.allclose(tiny_models.call(prompted, image_prompt_embeds=tiny_models.embeds()), plain, atol=1e-3)


def outputs(pipe, name, **options):
    """What the attention module of that name gives at each step of a call, for the image's rows or all that it has."""
    found = []
    module = pipe.transformer.get_submodule(name)
    hook = module.register_forward_hook(lambda _m, _a, out: found.append(out[0] if isinstance(out, tuple) else out))
    tiny_models.call(pipe, guidance_scale=1.0, **options)
    hook.remove()
    return found


@pytest.mark.parametrize(
    ("kind", "drawn", "before", "after", "options"),
    [
        (Flux2KleinPipeline, 64, 0, 256, {"image": PHOTO}),
        (Flux2KleinKVPipeline, 64, 256, 0, {"image": PHOTO}),
        (Flux2KleinInpaintPipeline, 256, 0, 256, {"image": PHOTO, "mask_image": PHOTO.convert("L"), "strength": 1.0}),
    ],
)
def test_a_reference_image_gets_no_image_features(flux2, kind, drawn, before, after, options):
    """Whose rows are before those of the drawn image, or after them."""
    own = tiny_models.with_own_denoiser(flux2)
    pipe = kind(**own.components)
    pipe.set_progress_bar_config(disable=True)
    backbone = backbone_for(pipe)
    given = features(backbone)
    for i, site in enumerate(backbone.sites):
        plain = outputs(pipe, site.name, **options)[0]
        with attach(backbone.denoiser, backbone.sites, given, [float(j == i) for j in range(len(backbone.sites))]):
            changed, *later = outputs(pipe, site.name, **options)
        rows = (plain - changed).abs().amax((0, 2)).nonzero().flatten()
        start = plain.shape[1] - drawn - after
        assert start >= before
        assert rows.tolist() == list(range(start, start + drawn)), site.name
        assert all(step.isfinite().all() for step in later)


def test_the_choice_double_leaves_out_the_single_blocks(flux2):
    backbone = backbone_for(flux2)
    assert [site.attention for site in backbone.sites] == ["double", "packed", "packed"]
    adapter = IPAdapterConfig(sites="double").build(backbone, None, tiny_models.EMBED)
    assert [site.name for site in adapter.sites] == [backbone.sites[0].name]
    assert len(ImagePromptPipeline(flux2, adapter).backbone.sites) == 1


def test_latents_are_in_patches_that_the_batch_norm_of_the_vae_normalises(flux2):
    backbone, pixels = backbone_for(flux2), torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        found = backbone.encode_pixels(pixels)
        assert found.shape == (2, 16, 8, 8)
        torch.testing.assert_close(found, flux2._encode_vae_image(pixels, None))
        drawn = flux2(
            prompt="a cat", latents=found, output_type="pt", num_inference_steps=1, sigmas=[1e-9], height=32, width=32
        ).images
        decoded = (backbone.decode_latents(found) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(drawn, decoded, atol=1e-4, rtol=1e-4)

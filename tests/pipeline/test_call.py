"""One call of an ImagePromptPipeline: references, prompts, guidance, precision and offloading."""

import copy
import inspect

import accelerate
import pytest
import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionSAGPipeline,
)

import tiny_models
from a4a.backbones import backbone_for
from a4a.errors import InputError
from a4a.features import SiteFeatures
from a4a.injection import attach, is_attached
from a4a.pipeline import ImagePromptPipeline
from tiny_encoders import image_encoder, photo

PROMPTS = ["a cat on a beach", "a man on a beach"]
"""As many tokens each: for several images of prompts of different lengths, Qwen-Image's pipeline mixes up its masks."""


def generators(*seeds):
    return [torch.Generator().manual_seed(s) for s in seeds]


@pytest.fixture(params=["ip", "a4a"])
def prompted(request, pipe, sd15):
    adapter = (
        tiny_models.ip_adapter(pipe)
        if request.param == "ip"
        else tiny_models.shaken(tiny_models.a4a(tiny_models.ip_adapter(sd15), pipe), 0.1)
    )
    yield ImagePromptPipeline(pipe, adapter, image_encoder())
    assert not is_attached(backbone_for(pipe).denoiser)


def call(pipe, prompt=PROMPTS[0], seeds=(0,), **kwargs):
    return tiny_models.call(pipe, prompt, seeds, **kwargs)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def differ(a, b):
    return (a - b).abs().max() > 1e-3


def branches(prompted, embeds):
    """What the denoiser gives for the negatives and for the prompts, in the first step of a call."""
    found, guidance = [], prompted.backbone.guidance
    hook = prompted.backbone.denoiser.register_forward_hook(lambda _module, _args, out: found.append(out[0]))
    call(prompted, image_prompt_embeds=embeds)
    hook.remove()
    found = [torch.stack(list(out)).clone() if isinstance(out, list) else out for out in found]
    both = found[:2] if guidance == "separate" else found[0].chunk(2)
    return both if guidance == "negative_first" else both[::-1]


def test_without_a_reference_or_at_scale_zero_it_is_the_plain_pipeline(prompted):
    plain = call(prompted.pipe)
    assert torch.equal(call(prompted), plain)
    assert torch.equal(call(prompted, image_prompt_embeds=tiny_models.embeds(), image_prompt_scale=0.0), plain)
    assert differ(call(prompted, image_prompt_embeds=tiny_models.embeds()), plain)
    assert torch.equal(call(prompted.pipe), plain)


def test_sigma_reads_long_prompts_to_the_end_as_its_pipeline_does():
    pipe, prompt = tiny_models.sigma(), " ".join(["a red dog and a blue cat"] * 40)
    prompted, plain = ImagePromptPipeline(pipe, tiny_models.ip_adapter(pipe)), call(pipe, prompt)
    assert torch.equal(call(prompted, prompt), plain)
    assert torch.equal(call(prompted, prompt, image_prompt_embeds=tiny_models.embeds(), image_prompt_scale=0.0), plain)
    assert differ(call(prompted, prompt, image_prompt_embeds=tiny_models.embeds()), plain)
    assert prompted.backbone.encode_text([prompt])["mask"].sum() > 120  # alpha reads no further


def test_the_same_seed_gives_the_same_image(prompted):
    one, two = (call(prompted, image_prompt_embeds=tiny_models.embeds()) for _ in range(2))
    assert torch.equal(one, two)


def test_one_reference_serves_all_prompts(prompted):
    reference = tiny_models.embeds()
    together = call(prompted, PROMPTS, (1, 2), image_prompt_embeds=reference)
    for i in range(2):
        close(together[i : i + 1], call(prompted, PROMPTS[i], (i + 1,), image_prompt_embeds=reference))


def test_one_reference_for_each_prompt_is_never_mixed(prompted):
    references = tiny_models.embeds(2)
    together = call(prompted, PROMPTS, (1, 2), image_prompt_embeds=references)
    for i in range(2):
        close(together[i : i + 1], call(prompted, PROMPTS[i], (i + 1,), image_prompt_embeds=references[i : i + 1]))
    assert differ(together[1:], call(prompted, PROMPTS[1], (2,), image_prompt_embeds=references[:1]))


def test_several_images_for_each_prompt_and_reference(prompted):
    references = tiny_models.embeds(2)
    together = call(prompted, PROMPTS, (1, 2, 3, 4), image_prompt_embeds=references, num_images_per_prompt=2)
    for i in range(4):
        close(
            together[i : i + 1],
            call(prompted, PROMPTS[i // 2], (i + 1,), image_prompt_embeds=references[i // 2 : i // 2 + 1]),
        )


def test_several_images_of_one_reference(prompted):
    together = call(prompted, PROMPTS, (1, 2, 3, 4), image_prompt_embeds=tiny_models.embeds(), num_images_per_prompt=2)
    for i in range(4):
        close(together[i : i + 1], call(prompted, PROMPTS[i // 2], (i + 1,), image_prompt_embeds=tiny_models.embeds()))


def test_a_reference_changes_the_image_without_guidance_too(prompted):
    found = call(prompted, image_prompt_embeds=tiny_models.embeds(), guidance_scale=1.0)
    assert differ(found, call(prompted, guidance_scale=1.0))


def test_guidance_sees_no_image_where_it_sees_no_text(prompted):
    negatives, prompts = branches(prompted, tiny_models.embeds())
    other_negatives, other_prompts = branches(prompted, tiny_models.embeds(seed=1))
    assert torch.equal(negatives, other_negatives)
    assert differ(prompts, other_prompts)


def test_each_site_can_have_its_own_scale(prompted):
    sites = len(prompted.backbone.sites)
    same = call(prompted, image_prompt_embeds=tiny_models.embeds(), image_prompt_scale=[0.5] * sites)
    assert torch.equal(same, call(prompted, image_prompt_embeds=tiny_models.embeds(), image_prompt_scale=0.5))
    first = call(prompted, image_prompt_embeds=tiny_models.embeds(), image_prompt_scale=[1.0] + [0.0] * (sites - 1))
    assert differ(first, call(prompted, image_prompt_embeds=tiny_models.embeds()))


def test_images_and_their_embeddings_generate_the_same(prompted):
    red, blue = photo("red"), photo("blue")
    embeds = prompted.encode_image_prompt([red, blue])
    assert embeds.shape == (2, tiny_models.EMBED)
    close(prompted.encode_image_prompt(blue), embeds[1:])
    close(
        call(prompted, PROMPTS, (1, 2), image_prompt=[red, blue]),
        call(prompted, PROMPTS, (1, 2), image_prompt_embeds=embeds),
    )
    close(call(prompted, image_prompt=red), call(prompted, image_prompt_embeds=embeds[:1]))


def test_prompts_can_be_given_as_embeddings(sd15):
    prompted = ImagePromptPipeline(sd15, tiny_models.ip_adapter(sd15))
    yes, no = sd15.encode_prompt(PROMPTS, "cpu", 1, True)
    found = call(
        prompted, None, (1, 2), image_prompt_embeds=tiny_models.embeds(2), prompt_embeds=yes, negative_prompt_embeds=no
    )
    close(found, call(prompted, PROMPTS, (1, 2), image_prompt_embeds=tiny_models.embeds(2)))


def test_positional_arguments_are_the_pipelines_own(sd15):
    """Image-to-image takes the image after the prompt."""
    pipe = StableDiffusionImg2ImgPipeline(**sd15.components, requires_safety_checker=False)
    prompted, options = (
        ImagePromptPipeline(pipe, tiny_models.ip_adapter(sd15)),
        {"num_inference_steps": 2, "output_type": "latent"},
    )
    image, embeds = photo("red", (16, 16)), tiny_models.embeds()
    found = prompted(PROMPTS[0], image, generator=generators(0), image_prompt_embeds=embeds, **options).images
    named = prompted(
        image=image, prompt=PROMPTS[0], generator=generators(0), image_prompt_embeds=embeds, **options
    ).images
    plain = pipe(PROMPTS[0], image, generator=generators(0), **options).images
    assert torch.equal(found, named) and differ(found, plain)
    assert torch.equal(prompted(PROMPTS[0], image, generator=generators(0), **options).images, plain)


def test_an_interrupted_generation_leaves_the_plain_model(prompted):
    plain = call(prompted.pipe)

    def stop(*_, **__):
        raise KeyboardInterrupt

    takes = inspect.signature(prompted.pipe.__call__).parameters
    name = "callback_on_step_end" if "callback_on_step_end" in takes else "callback"
    with pytest.raises(KeyboardInterrupt):
        call(prompted, image_prompt_embeds=tiny_models.embeds(), **{name: stop})
    assert torch.equal(call(prompted.pipe), plain)


@pytest.mark.parametrize("references", [2, 4])
def test_another_number_of_references_than_prompts_is_refused(prompted, references):
    with pytest.raises(
        InputError, match=f"There are {references} references for 3 prompts; give one for all or one for each"
    ):
        call(prompted, [*PROMPTS, "c"], (1, 2, 3), image_prompt_embeds=tiny_models.embeds(references))


def test_embeddings_of_another_shape_are_refused(prompted):
    for shape in ((1, tiny_models.EMBED + 1), (tiny_models.EMBED,), (1, 1, tiny_models.EMBED)):
        with pytest.raises(
            InputError, match=rf"has shape \[{shape[0]}.*expected a tensor \[references, {tiny_models.EMBED}\]"
        ):
            call(prompted, image_prompt_embeds=torch.zeros(shape))


def test_a_missing_prompt_is_refused(prompted):
    with pytest.raises(InputError, match="prompt is missing"):
        call(prompted, None, image_prompt_embeds=tiny_models.embeds())


def test_an_image_needs_an_image_encoder(sd15):
    with pytest.raises(
        InputError, match=r"does not say where its image encoder is \(none named\); give the pipeline image_encoder="
    ):
        call(ImagePromptPipeline(sd15, tiny_models.ip_adapter(sd15)), image_prompt=photo("red"))


def test_the_wrong_image_encoder_is_refused_with_both_widths(sd15, sdxl):
    for adapter in (tiny_models.ip_adapter(sdxl), tiny_models.a4a(tiny_models.ip_adapter(sd15), sdxl)):
        with pytest.raises(
            InputError, match=f"takes image embeddings of width {tiny_models.EMBED} but this image encoder gives 32"
        ):
            ImagePromptPipeline(sdxl, adapter, image_encoder(32))


def test_an_image_encoder_is_loaded_from_a_folder_with_and_without_its_processor(sd15, tmp_path):
    encoder, image = image_encoder(), photo("green")
    encoder.module.save_pretrained(tmp_path)
    bare = ImagePromptPipeline(sd15, tiny_models.ip_adapter(sd15), tmp_path)
    encoder.processor.save_pretrained(tmp_path)
    whole = ImagePromptPipeline(sd15, tiny_models.ip_adapter(sd15), str(tmp_path))
    close(bare.encode_image_prompt(image), encoder([image]))
    close(whole.encode_image_prompt(image), encoder([image]))


@pytest.mark.parametrize("size", [(16, 16), (20, 30)])
def test_pixel_tensors_and_images_have_the_same_embeddings(size):
    image = photo("green", size)
    tensor = (
        torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, size[1], size[0], 3).permute(0, 3, 1, 2)
        / 255
    )
    close(image_encoder()(tensor), image_encoder()([image]))


def test_a_folder_that_is_no_image_encoder_is_refused(sd15, tmp_path):
    with pytest.raises(InputError, match="no image encoder folder"):
        ImagePromptPipeline(sd15, tiny_models.ip_adapter(sd15), tmp_path / "none")
    with pytest.raises(InputError, match="could not be loaded as a CLIP vision model"):
        ImagePromptPipeline(sd15, tiny_models.ip_adapter(sd15), tmp_path)


def test_half_precision_stays_close_to_full_precision(pipe):
    own = copy.deepcopy(pipe)  # the way back would round weights and the text encoders' buffers
    exact = call(ImagePromptPipeline(own, tiny_models.ip_adapter(pipe)), image_prompt_embeds=tiny_models.embeds())
    for part in own.components.values():
        if isinstance(part, torch.nn.Module):
            part.to(torch.bfloat16)
    adapter = tiny_models.ip_adapter(pipe).to(torch.bfloat16)
    half = call(ImagePromptPipeline(own, adapter), image_prompt_embeds=tiny_models.embeds())
    assert half.dtype == torch.bfloat16 or "ZImage" in type(own).__name__  # whose latents are always float32
    assert (half.float() - exact).abs().mean() < 0.1 * exact.abs().mean()


def test_a_compiled_denoiser_generates_the_same_with_any_reference_and_without(pixart):
    own, adapter = tiny_models.with_own_denoiser(pixart), tiny_models.ip_adapter(pixart)
    own.transformer = torch.compile(own.transformer, backend="eager")
    references = [None, tiny_models.embeds(seed=1), tiny_models.embeds(seed=2), None]
    compiled, eager = (
        [call(ImagePromptPipeline(p, adapter), image_prompt_embeds=r) for r in references] for p in (own, pixart)
    )
    torch._dynamo.reset()
    for found, expected in zip(compiled, eager, strict=True):
        close(found, expected)
    assert differ(compiled[0], compiled[1]) and differ(compiled[1], compiled[2])


# --- other kinds of guidance ---------------------------------------------------------------------------------------


def with_other_guidance(kind, pipe):
    """Another pipeline around the same parts and a copy of the denoiser."""
    own = tiny_models.with_own_denoiser(pipe)
    other = kind(
        **{k: v for k, v in own.components.items() if k in inspect.signature(kind).parameters},
        requires_safety_checker=False,
    )
    other.set_progress_bar_config(disable=True)
    return other


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_perturbed_attention_guidance_has_the_reference_where_it_has_the_prompt(sd15, guidance):
    pipe, reference, seen = with_other_guidance(StableDiffusionPAGPipeline, sd15), tiny_models.embeds(2), []
    prompted = ImagePromptPipeline(pipe, tiny_models.ip_adapter(sd15))
    hook = pipe.unet.register_forward_hook(
        lambda _module, args, kwargs, output: seen.append((args, kwargs, output[0])), with_kwargs=True
    )
    call(
        prompted,
        PROMPTS,
        (1, 2),
        image_prompt_embeds=reference,
        guidance_scale=guidance,
        pag_scale=2.0,
        num_inference_steps=1,
    )
    hook.remove()
    [(args, kwargs, found)] = seen
    positive, negative = prompted.features_for_batch(reference, 2)
    rows = SiteFeatures.stack([*[negative] * (guidance > 1), positive, positive])
    pipe._set_pag_attn_processor(pipe.pag_applied_layers, guidance > 1)  # which the call takes away at its end
    with torch.no_grad(), attach(pipe.unet, prompted.backbone.sites, rows):
        assert torch.equal(pipe.unet(*args, **kwargs)[0], found)


def test_perturbed_attention_guidance_that_is_off_is_the_plain_pipeline(sd15):
    prompted = [
        ImagePromptPipeline(p, tiny_models.ip_adapter(sd15))
        for p in (sd15, with_other_guidance(StableDiffusionPAGPipeline, sd15))
    ]
    plain, off = (
        call(p, image_prompt_embeds=tiny_models.embeds(), **options)
        for p, options in zip(prompted, ({}, {"pag_scale": 0.0}), strict=True)
    )
    assert torch.equal(off, plain)
    assert differ(call(prompted[1], image_prompt_embeds=tiny_models.embeds()), plain)


@pytest.mark.parametrize("kind", [StableDiffusionSAGPipeline, StableDiffusionInstructPix2PixPipeline])
def test_guidance_whose_rows_are_not_known_is_refused(sd15, kind):
    with pytest.raises(InputError, match=f"{kind.__name__} runs the denoiser on other rows than prompts and negatives"):
        ImagePromptPipeline(with_other_guidance(kind, sd15), tiny_models.ip_adapter(sd15))


# --- where it computes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny_models.EXEMPLARS)
def test_sequential_offload_changes_neither_the_image_nor_the_adapters_weights(name):
    pipe = tiny_models.PIPELINES[name]()
    expected = call(ImagePromptPipeline(pipe, tiny_models.ip_adapter(pipe)), image_prompt_embeds=tiny_models.embeds())
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            accelerate.cpu_offload(part, execution_device=torch.device("cpu"))
    prompted = ImagePromptPipeline(pipe, tiny_models.ip_adapter(pipe))
    assert prompted.backbone.denoiser.device.type == "meta" and prompted.backbone.device.type == "cpu"
    assert torch.equal(call(prompted, image_prompt_embeds=tiny_models.embeds()), expected)
    assert prompted.adapter.device.type == "cpu"
    assert prompted.backbone.encode_text(PROMPTS)["states"].shape[0] == 2


def test_the_pipeline_may_move_after_it_was_wrapped():
    prompted = ImagePromptPipeline(tiny_models.sd15(), tiny_models.ip_adapter(tiny_models.sd15()))
    prompted.pipe.to("meta")
    positive, negative = prompted.features(tiny_models.embeds())
    assert {t.device.type for f in (positive, negative) for t in f.keys + f.values} == {"meta"}

"""ImagePrompts in a call on tiny models: several at once, in batches, on courses, and with all else that diffusers has."""

import accelerate
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionInpaintPipeline
from torch._dynamo.testing import CompileCounter

import tiny_models
from a4a.errors import InputError
from a4a.injection import is_attached
from a4a.pipeline import Course, ImagePrompt, ImagePromptPipeline
from tiny_encoders import image_encoder, photo

PROMPTS = ["a cat on a beach", "a man on a beach"]
LEFT = torch.tensor([[1.0, 0.0]])


def row(seed):
    return tiny_models.embeds(seed=seed)


@pytest.fixture
def prompted(sd15):
    yield ImagePromptPipeline(sd15, tiny_models.ip_adapter(sd15))
    assert not is_attached(sd15.unet)


def call(pipe, image_prompt, prompt=PROMPTS[0], seeds=(0,), **options):
    return tiny_models.call(pipe, prompt, seeds, image_prompt=image_prompt, **options)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def differ(a, b):
    return (a - b).abs().max() > 1e-3


# --- several references, several adapters ------------------------------------------------------------------------------


def test_references_side_by_side_and_their_weights(prompted):
    both = torch.cat([row(1), row(2)])
    found = call(prompted, ImagePrompt(embeds=both))
    assert differ(found, call(prompted, ImagePrompt(embeds=row(1))))
    close(call(prompted, ImagePrompt(embeds=both.flip(0))), found)
    close(call(prompted, ImagePrompt(embeds=both, weights=[1, 0])), call(prompted, ImagePrompt(embeds=row(1))))
    twice = ImagePrompt(embeds=torch.cat([row(1), row(1), row(2)]))
    close(call(prompted, ImagePrompt(embeds=both, weights=[2, 1])), call(prompted, twice))


def test_a_reference_without_the_other_is_nothing_where_they_are_the_same(prompted):
    same = ImagePrompt(embeds=torch.cat([row(1), row(1)]), combine="subtract")
    close(call(prompted, same), call(prompted, ImagePrompt(embeds=torch.zeros_like(row(1)))))


def test_different_numbers_of_references_in_a_batch_are_never_mixed(prompted):
    """diffusers' issue 9813: references of one prompt reached another."""
    one = [ImagePrompt(embeds=row(1)), ImagePrompt(embeds=row(2), scale=0.5, mask=LEFT)]
    two = ImagePrompt(embeds=torch.cat([row(3), row(4), row(5)]), weights=[1, 2, 3], course=Course(end=0.5))
    together = call(prompted, [one, two], PROMPTS, (1, 2, 3, 4), num_images_per_prompt=2)
    for i in range(4):
        alone = call(prompted, [one] if i < 2 else two, PROMPTS[i // 2], (i + 1,))
        close(together[i : i + 1], alone)
    close(call(prompted, [two, one], PROMPTS[::-1], (3, 1)), together[[2, 0]])


def test_two_adapters_act_with_scales_and_references_of_their_own(sd15):
    face, style = tiny_models.ip_adapter(sd15), tiny_models.shaken(tiny_models.ip_adapter(sd15), 0.5)
    pipe = ImagePromptPipeline(sd15, {"face": face, "style": style})
    found = call(pipe, [[ImagePrompt(embeds=row(1)), ImagePrompt(embeds=row(2), adapter="style", scale=0.5)]])
    only_face = call(pipe, ImagePrompt(embeds=row(1)))
    close(only_face, call(ImagePromptPipeline(sd15, face), ImagePrompt(embeds=row(1))))
    assert differ(found, only_face)
    halves = [[ImagePrompt(embeds=row(1), adapter="style", scale=scale) for scale in (0.3, 0.5)]]
    close(call(pipe, halves), call(ImagePromptPipeline(sd15, style), ImagePrompt(embeds=row(1), scale=0.8)))
    with pytest.raises(InputError, match="names the adapter 'pose'; the pipeline has face, style"):
        call(pipe, ImagePrompt(embeds=row(1), adapter="pose"))
    with pytest.raises(InputError, match="adapter is 'pose'; the pipeline has face, style"):
        pipe.encode_image_prompt(photo("red"), "pose")


def test_images_of_all_prompts_are_encoded_in_one_pass(sd15):
    prompted, passes = ImagePromptPipeline(sd15, tiny_models.ip_adapter(sd15), image_encoder()), []
    hook = prompted.image_encoder.module.register_forward_hook(
        lambda _m, args, kwargs, _o: passes.append(1), with_kwargs=True
    )
    call(prompted, [ImagePrompt(photo("red"), negative=photo("green")), photo("blue")], PROMPTS, (1, 2))
    hook.remove()
    assert len(passes) == 1


# --- scales, courses, negatives ----------------------------------------------------------------------------------------


def test_scales_multiply_and_name_groups(prompted):
    style = ImagePrompt(embeds=row(1), scale={"style": 0.5})
    assert torch.equal(
        call(prompted, ImagePrompt(embeds=row(1), scale=0.5, weight_type="style transfer")), call(prompted, style)
    )
    close(
        call(prompted, ImagePrompt(embeds=row(1), scale=0.5), image_prompt_scale={"style": 1.0}), call(prompted, style)
    )
    assert differ(call(prompted, style), call(prompted, ImagePrompt(embeds=row(1), scale=0.5)))


def test_a_course_that_has_ended_leaves_the_steps_to_the_plain_model(prompted):
    """Latents after each step: of the same course for the first half, and from there as the plain model goes on."""
    seen = []
    options = {"callback_on_step_end": lambda _p, _i, _t, kwargs: seen.append(kwargs["latents"].clone()) or {}}
    half, whole = (ImagePrompt(embeds=row(1), course=Course(end=end)) for end in (0.5, 1.0))
    for image_prompt in (half, whole):
        call(prompted, image_prompt, num_inference_steps=4, **options)
    first, second = seen[:4], seen[4:]
    assert torch.equal(first[1], second[1]) and differ(first[2], second[2])
    start = {"latents": first[1], "num_inference_steps": 4}
    hook = prompted.unet.register_forward_pre_hook(lambda _m, args: passes.append(is_on(prompted)))
    passes = []
    call(prompted, half, **start)
    hook.remove()
    assert passes == [True, True, False, False]


def is_on(prompted):
    module = prompted.unet.get_submodule(prompted.backbone.sites[0].name)
    return not module._injection.state.is_off()


def test_a_course_counts_the_steps_that_are_run_from_an_image(sd15):
    pipe = StableDiffusionInpaintPipeline(**sd15.components, requires_safety_checker=False)
    tiny_models._quiet(pipe)
    prompted, passes = ImagePromptPipeline(pipe, tiny_models.ip_adapter(sd15)), []
    hook = pipe.unet.register_forward_pre_hook(lambda _m, args: passes.append(is_on(prompted)))
    prompted(
        PROMPTS[0],
        image=photo("red", (16, 16)),
        mask_image=photo("white", (16, 16)),
        strength=0.5,
        num_inference_steps=8,
        image_prompt=ImagePrompt(embeds=row(1), course=Course(start=0.5)),
        output_type="latent",
    )
    hook.remove()
    assert passes == [False, False, True, True]


def test_a_negative_image_prompt_is_what_guidance_sees(sd15):
    prompted = ImagePromptPipeline(sd15, tiny_models.ip_adapter(sd15), image_encoder())
    red, blue = photo("red"), photo("blue")
    plain = call(prompted, ImagePrompt(red))
    assert differ(call(prompted, ImagePrompt(red, negative=blue)), plain)
    found = call(prompted, [ImagePrompt(red, negative=[blue, red]), red], PROMPTS, (0, 1))
    close(found[:1], call(prompted, ImagePrompt(red, negative=[blue, red])))
    with pytest.raises(InputError, match=r"works by guidance, which is off .* give guidance_scale= above 1"):
        call(prompted, ImagePrompt(red, negative=blue), guidance_scale=1.0)


def test_a_negative_image_prompt_needs_true_guidance_where_the_model_is_distilled():
    pipe = tiny_models.PIPELINES["flux"]()
    prompted = ImagePromptPipeline(pipe, tiny_models.ip_adapter(pipe), image_encoder())
    with pytest.raises(InputError, match="give true_cfg_scale= above 1 and a negative_prompt="):
        prompted("a cat", image_prompt=ImagePrompt(photo("red"), negative=photo("blue")), true_cfg_scale=1.0)


# --- with all else -----------------------------------------------------------------------------------------------------


def rich(seed=1, scale=0.7, end=0.5):
    return [
        [
            ImagePrompt(embeds=torch.cat([row(seed), row(seed + 1)]), weights=[2, 1], scale=scale, mask=LEFT),
            ImagePrompt(embeds=row(3), mask=1 - LEFT * scale, course=Course(end=end, last=scale, easing="ease out")),
        ]
    ]


def test_a_compiled_denoiser_serves_every_scale_course_and_mask(pixart):
    own, adapter = tiny_models.with_own_denoiser(pixart), tiny_models.ip_adapter(pixart)
    torch._dynamo.reset()
    counter = CompileCounter()
    for block in own.transformer.transformer_blocks:
        block.compile(backend=counter)
    compiled, eager = (ImagePromptPipeline(pipe, adapter) for pipe in (own, pixart))
    graphs = []
    for options in ({}, {"seed": 2}, {"scale": 0.3}, {"end": 1.0}):
        close(
            call(compiled, rich(**options), num_inference_steps=4), call(eager, rich(**options), num_inference_steps=4)
        )
        graphs.append(counter.frame_count)
    torch._dynamo.reset()
    assert len(set(graphs)) == 1


def inpaint(sd15):
    pipe = StableDiffusionInpaintPipeline(**sd15.components, requires_safety_checker=False)
    return pipe, {"image": photo("red", (16, 16)), "mask_image": photo("white", (16, 16))}


def control_net(sd15):
    net = ControlNetModel.from_unet(sd15.unet, conditioning_embedding_out_channels=(16, 32))
    pipe = StableDiffusionControlNetPipeline(**sd15.components, controlnet=net, requires_safety_checker=False)
    return pipe, {"image": photo("red", (16, 16))}


@pytest.mark.parametrize("variant", [inpaint, control_net])
def test_masks_and_courses_with_inpainting_and_a_control_net(sd15, variant):
    pipe, options = variant(sd15)
    tiny_models._quiet(pipe)
    prompted = ImagePromptPipeline(pipe, tiny_models.ip_adapter(sd15))
    plain = tiny_models.call(pipe, **options)
    found = call(prompted, rich(), **options)
    assert found.isfinite().all() and differ(found, plain)
    assert torch.equal(tiny_models.call(pipe, **options), plain)


def test_masks_and_courses_with_offloaded_parts(sd15):
    expected = call(ImagePromptPipeline(sd15, tiny_models.ip_adapter(sd15)), rich())
    own = tiny_models.with_own_denoiser(sd15)
    accelerate.cpu_offload(own.unet, torch.device("cpu"))
    close(call(ImagePromptPipeline(own, tiny_models.ip_adapter(sd15)), rich()), expected)

import inspect

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionPAGPipeline, StableDiffusionSAGPipeline

import tiny_models
from a4a.backbones import backbone_for
from a4a.baselines import DeltaSamplingPipeline
from a4a.errors import InputError
from a4a.injection import is_attached
from a4a.pipeline import ImagePromptPipeline

PROMPTS = ["a cat on a beach", "a red dog", "two birds"]


def generators(*seeds):
    return [torch.Generator().manual_seed(s) for s in seeds]


@pytest.fixture(scope="module")
def prompted(sd15):
    return ImagePromptPipeline(sd15, tiny_models.ip_adapter(sd15))


@pytest.fixture(params=["sdxl", "pixart", "sd15"])
def upgraded(request):
    return tiny_models.with_own_denoiser(request.getfixturevalue(request.param))


@pytest.fixture
def ours(prompted, upgraded):
    yield DeltaSamplingPipeline(prompted, upgraded)
    for backbone in (prompted.backbone, backbone_for(upgraded)):
        assert not is_attached(backbone.denoiser)
        assert not any(m._forward_hooks for m in backbone.denoiser.modules())


def call(ours, prompt=PROMPTS[0], seeds=(0,), **kwargs):
    plain = getattr(ours, "pipe", ours)
    own = {"image_prompt_embeds": tiny_models.embeds()} if plain is not ours else {}
    own |= {"use_resolution_binning": False} if "PixArt" in type(plain).__name__ else {}
    options = {
        "num_inference_steps": 3,
        "height": 2 * tiny_models.SIDE,
        "width": 2 * tiny_models.SIDE,
        "output_type": "latent",
        "guidance_scale": 3.0,
    }
    return ours(prompt, generator=generators(*seeds), **{**options, **own, **kwargs}).images


def differ(a, b):
    return (a - b).abs().max() > 1e-3


def close(a, b, tolerance=1e-4):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def test_at_scale_zero_it_is_the_plain_model(ours):
    plain = call(ours.pipe)
    for off in ({"image_prompt_scale": 0.0}, {"delta_scale": 0.0}, {"image_prompt_embeds": None}):
        assert torch.equal(call(ours, **off), plain)
    assert differ(call(ours), plain)
    assert torch.equal(call(ours.pipe), plain)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_model_upgraded_to_itself_is_the_base_model_with_the_image_prompt(prompted, guidance):
    """base + (base with - base) = base with: for every step, text and noise."""
    same = DeltaSamplingPipeline(prompted, tiny_models.with_own_denoiser(prompted.pipe))
    for options in (
        {},
        {"negative_prompt": "blue"},
        {"num_images_per_prompt": 2, "seeds": (1, 2)},
        {"image_prompt_scale": 0.5},
    ):
        options = {"guidance_scale": guidance, **options}
        close(call(same, **options), call(prompted, **options))
        assert differ(
            call(same, **options), call(same.pipe, **{k: v for k, v in options.items() if k != "image_prompt_scale"})
        )


@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler])
def test_a_velocity_model_takes_the_difference_of_a_noise_model(prompted, scheduler):
    """The same U-Net told in velocities, `v = (eps - sigma x) / alpha`: the image is the base model's with the image prompt."""
    pipe = tiny_models.with_own_denoiser(prompted.pipe)
    alphas = prompted.backbone.pipe.scheduler.alphas_cumprod

    def velocity(_, args, output):
        alpha, sigma = alphas[int(args[1])].sqrt(), (1 - alphas[int(args[1])]).sqrt()
        return ((output[0] - sigma * args[0]) / alpha,)

    spacing = {"timestep_spacing": "leading"}
    handle = pipe.unet.register_forward_hook(velocity)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config, prediction_type="v_prediction", **spacing)
    base = ImagePromptPipeline(tiny_models.with_own_denoiser(prompted.pipe), prompted.adapter)
    base.pipe.scheduler = scheduler.from_config(base.pipe.scheduler.config, **spacing)
    found, expected = call(DeltaSamplingPipeline(base, pipe)), call(base)
    handle.remove()
    close(found, expected, 1e-3)
    assert differ(found, call(base.pipe))


def test_a_batch_is_its_rows(ours):
    references = tiny_models.embeds(3)
    together = call(ours, PROMPTS, (1, 2, 3), image_prompt_embeds=references)
    for i in range(3):
        close(together[i : i + 1], call(ours, PROMPTS[i], (i + 1,), image_prompt_embeds=references[i : i + 1]))
    assert differ(together[1:2], call(ours, PROMPTS[1], (2,), image_prompt_embeds=references[:1]))


def test_learned_variances_stay_what_they_were(prompted, pixart):
    ours = DeltaSamplingPipeline(prompted, tiny_models.with_own_denoiser(pixart))
    seen = []
    handle = ours.backbone.denoiser.register_forward_hook(lambda *given: seen.append(given[-1][0].clone()))
    call(ours, num_inference_steps=1, guidance_scale=1.0)
    call(ours.pipe, num_inference_steps=1, guidance_scale=1.0)
    handle.remove()
    inside = []
    before = ours.pipe.transformer.register_forward_hook

    def register(hook, **options):
        return before(lambda *given: inside.append(hook(*given)) or inside[-1], **options)

    ours.pipe.transformer.register_forward_hook = register
    call(ours, num_inference_steps=1, guidance_scale=1.0)
    assert torch.equal(inside[0][0][:, 4:], seen[1][:, 4:])
    assert differ(inside[0][0][:, :4], seen[1][:, :4])


def test_the_base_model_runs_twice_a_step(ours, prompted):
    calls = []
    handle = prompted.backbone.denoiser.register_forward_pre_hook(lambda *_: calls.append(1))
    call(ours)
    handle.remove()
    assert len(calls) == ours.base_calls(3)
    shared = {
        id(p) for part in ours.pipe.components.values() if isinstance(part, torch.nn.Module) for p in part.parameters()
    }
    parts = [prompted.pipe.unet, prompted.pipe.text_encoder, prompted.adapter]
    assert ours.parameters == sum(p.numel() for part in parts for p in part.parameters() if id(p) not in shared)


def test_another_schedule_is_met_at_the_same_noise(prompted, sdxl):
    pipe = tiny_models.with_own_denoiser(sdxl)
    pipe.scheduler = DDIMScheduler(clip_sample=False)  # linear from 0.0001 to 0.02, as PixArt-alpha's
    ours = DeltaSamplingPipeline(prompted, pipe)
    assert int(ours._same_noise(torch.tensor(999))[0]) == 999  # noisier than any step of the base model: its last
    for t in (1, 250, 500, 600):
        step, log_snr = ours._same_noise(torch.tensor(t))
        assert step != t
        alpha_squared = torch.tensor(log_snr).sigmoid().item()
        assert alpha_squared == pytest.approx(float(pipe.scheduler.alphas_cumprod[t]), abs=2e-3)
    seen = []
    handle = prompted.backbone.denoiser.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    call(ours, guidance_scale=1.0)
    handle.remove()
    assert all(t.shape == (1,) for t in seen)


def test_an_interrupted_generation_leaves_the_plain_model(ours):
    plain = call(ours.pipe)

    def stop(*_, **__):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(ours, **{"callback" if "PixArt" in type(ours.pipe).__name__ else "callback_on_step_end": stop})
    handle = ours.base.pipe.unet.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        call(ours)
    handle.remove()
    assert torch.equal(call(ours.pipe), plain)


# --- what is refused -----------------------------------------------------------------------------------------------


def test_other_latents_are_refused(prompted, sdxl):
    large = tiny_models.with_own_denoiser(sdxl)
    large.unet.register_to_config(sample_size=2 * tiny_models.SIDE)
    with pytest.raises(
        InputError,
        match=r"upgraded model has 4 channels of 16 x 16, scaled by 0.18215, and the base model 4 channels of 8 x 8",
    ):
        DeltaSamplingPipeline(prompted, large)
    scaled = tiny_models.with_own_denoiser(sdxl)
    scaled.vae = tiny_models.vae()
    scaled.vae.register_to_config(scaling_factor=0.13025)
    with pytest.raises(InputError, match=r"scaled by 0\.13025"):
        DeltaSamplingPipeline(prompted, scaled)


def test_one_denoiser_for_both_is_refused(prompted):
    with pytest.raises(InputError, match="same UNet2DConditionModel; load two models"):
        DeltaSamplingPipeline(prompted, prompted.pipe)


@pytest.mark.parametrize(
    ("kind", "words"),
    [(StableDiffusionPAGPipeline, "perturbs the attention"), (StableDiffusionSAGPipeline, "other rows")],
)
def test_guidance_by_other_rows_is_refused(prompted, kind, words):
    parts = {
        n: p
        for n, p in tiny_models.with_own_denoiser(prompted.pipe).components.items()
        if n in inspect.signature(kind).parameters
    }
    with pytest.raises(InputError, match=f"{kind.__name__} .*{words}"):
        DeltaSamplingPipeline(prompted, kind(**parts, requires_safety_checker=False))


def test_another_kind_of_prediction_is_refused(prompted, sdxl):
    pipe = tiny_models.with_own_denoiser(sdxl)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="score")
    with pytest.raises(InputError, match="predicts 'score'; expected one of epsilon"):
        DeltaSamplingPipeline(prompted, pipe)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("ip_adapter_image", "image_prompt"),
        ("num_inference_step", "num_inference_steps"),
        ("image_promt", "image_prompt"),
        ("delta_scal", "delta_scale"),
    ],
)
@pytest.mark.parametrize("references", [True, False])
def test_an_unknown_argument_is_refused_with_the_right_name(ours, wrong, right, references):
    name = type(ours.pipe).__name__
    options = {} if references else {"image_prompt_embeds": None}
    with pytest.raises(InputError, match=rf"^{name} takes no argument {wrong}; did you mean {right}\?$"):
        call(ours, **{wrong: 1, **options})


def test_a_missing_prompt_and_too_many_references(ours):
    with pytest.raises(InputError, match="prompt is missing"):
        call(ours, None)
    with pytest.raises(InputError, match="There are 2 references for 3 prompts"):
        call(ours, PROMPTS, (1, 2, 3), image_prompt_embeds=tiny_models.embeds(2))

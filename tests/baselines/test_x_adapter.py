import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UNet2DConditionModel,
)
from PIL import Image

import tiny_models
from a4a.backbones import backbone_for
from a4a.backbones.unet import SD15, SDXL
from a4a.baselines import XAdapter, XAdapterMapping, XAdapterPipeline, train_x_adapter
from a4a.baselines.x_adapter_pipeline import image_to_image
from a4a.baselines.x_adapter_training import Joined, Resized
from a4a.data.image_folder import ImageFolderDataset
from a4a.errors import InputError
from a4a.pipeline import ImagePromptPipeline
from a4a.training.config import TrainingConfig
from a4a.training.trainer import train

PROMPTS = ["a cat on a beach", "a red dog", "two birds"]
STEPS = 4


def generators(*seeds):
    return [torch.Generator().manual_seed(s) for s in seeds]


def twice(pipe):
    """The same model for latents of twice the side, as SDXL's are to SD1.5's."""
    pipe = tiny_models.with_own_denoiser(pipe)
    pipe.unet.register_to_config(sample_size=2 * tiny_models.SIDE)
    return pipe


@pytest.fixture(scope="module")
def prompted(sd15):
    return ImagePromptPipeline(sd15, tiny_models.ip_adapter(sd15))


@pytest.fixture(scope="module", params=["as large", "twice as large"])
def upgraded(request, sdxl):
    return tiny_models.with_own_denoiser(sdxl) if request.param == "as large" else twice(sdxl)


def mapper_for(prompted, pipe, size=0.0):
    torch.manual_seed(0)
    mapper = XAdapter.between(prompted.backbone.denoiser, pipe.unet)
    return tiny_models.shaken(mapper, size).requires_grad_(False)


def call(ours, prompt=PROMPTS[0], seeds=(0,), **kwargs):
    options = {
        "num_inference_steps": STEPS,
        "start": 0.5,
        "output_type": "latent",
        "guidance_scale": 3.0,
        "image_prompt_embeds": tiny_models.embeds(),
    }
    return ours(prompt, generator=generators(*seeds), **{**options, **kwargs}).images


def differ(a, b):
    return (a - b).abs().max() > 1e-3


def close(a, b, tolerance=1e-4):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("start", [0.5, 1.0])
def test_a_new_mapper_is_plain_image_to_image(prompted, upgraded, start):
    found = call(XAdapterPipeline(prompted, upgraded, mapper_for(prompted, upgraded)), start=start)
    options = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "generator": generators(0)}
    prompt = {"prompt": PROMPTS[0], "image_prompt_embeds": tiny_models.embeds()}
    images = prompted(**prompt, **options, output_type="pt").images
    second = {**options, "strength": start, "output_type": "latent"}
    ImagePromptPipeline(image_to_image(prompted.pipe), prompted.adapter)(
        **prompt, image=images, **second
    )  # takes its noise
    large = upgraded.unet.config.sample_size * 2
    images = torch.nn.functional.interpolate(images, (large, large), mode="bilinear", antialias=True)
    assert torch.equal(found, image_to_image(upgraded)(prompt=PROMPTS[0], image=images, **second).images)


def test_a_trained_mapper_carries_the_image_prompt(prompted, upgraded):
    blind, seeing = (XAdapterPipeline(prompted, upgraded, mapper_for(prompted, upgraded, size)) for size in (0.0, 0.1))
    plain = call(blind, start=1.0)
    assert differ(call(seeing, start=1.0), plain)
    assert torch.equal(call(seeing, start=1.0, mapper_scale=0.0), plain)
    assert differ(call(seeing, start=1.0), call(seeing, start=1.0, image_prompt_embeds=tiny_models.embeds(seed=1)))
    assert differ(call(seeing, start=1.0), call(seeing, start=1.0, image_prompt_scale=0.0))


def test_a_batch_is_its_rows(prompted, upgraded):
    ours, references = XAdapterPipeline(prompted, upgraded, mapper_for(prompted, upgraded, 0.1)), tiny_models.embeds(3)
    together = call(ours, PROMPTS, (1, 2, 3), image_prompt_embeds=references)
    for i in range(3):
        close(together[i : i + 1], call(ours, PROMPTS[i], (i + 1,), image_prompt_embeds=references[i : i + 1]))
    assert differ(together[1:2], call(ours, PROMPTS[1], (2,), image_prompt_embeds=references[:1]))


def test_one_reference_and_several_images_of_each_prompt(prompted, sdxl):
    ours = XAdapterPipeline(prompted, sdxl, mapper_for(prompted, sdxl, 0.1))
    together = call(ours, PROMPTS[:2], (1, 2, 3, 4), num_images_per_prompt=2, negative_prompt=["blue"] * 2)
    for i in range(4):
        close(together[i : i + 1], call(ours, PROMPTS[i // 2], (i + 1,), negative_prompt="blue"))


def test_without_guidance(prompted, sdxl):
    ours = XAdapterPipeline(prompted, sdxl, mapper_for(prompted, sdxl, 0.1))
    assert differ(
        call(ours, guidance_scale=1.0), call(ours, guidance_scale=1.0, image_prompt_embeds=tiny_models.embeds(seed=1))
    )


@pytest.mark.parametrize("start", [0.25, 0.6, 1.0])
def test_the_base_model_runs_as_often_as_base_calls_says(prompted, sdxl, start):
    ours = XAdapterPipeline(prompted, sdxl, mapper_for(prompted, sdxl))
    times = {"base": [], "upgraded": []}
    kept = [
        b.denoiser.register_forward_pre_hook(lambda _, args, name=n: times[name].append(int(args[1])))
        for n, b in (("base", prompted.backbone), ("upgraded", ours.backbone))
    ]
    call(ours, start=start)
    for handle in kept:
        handle.remove()
    assert len(times["base"]) == ours.base_calls(STEPS, start)
    assert len(times["upgraded"]) == int(STEPS * start)
    assert times["base"][STEPS:] == times["upgraded"]  # the same time steps, whatever the share


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, HeunDiscreteScheduler])
def test_any_scheduler_of_the_upgraded_model(prompted, sdxl, scheduler):
    pipe = tiny_models.with_own_denoiser(sdxl)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    assert call(XAdapterPipeline(prompted, pipe, mapper_for(prompted, pipe, 0.1))).isfinite().all()


def test_afterwards_both_models_are_what_they_were(prompted, sdxl):
    ours = XAdapterPipeline(prompted, sdxl, mapper_for(prompted, sdxl, 0.1))
    before = tiny_models.call(sdxl), tiny_models.call(prompted.pipe)
    first = call(ours)

    def stop(*_):
        raise KeyboardInterrupt

    for part in (prompted.backbone.denoiser.up_blocks[-1], sdxl.unet.up_blocks[1]):
        handle = part.register_forward_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            call(ours)
        handle.remove()
    with pytest.raises(KeyboardInterrupt):
        call(ours, callback_on_step_end=stop)
    assert torch.equal(tiny_models.call(sdxl), before[0]) and torch.equal(tiny_models.call(prompted.pipe), before[1])
    assert torch.equal(call(ours), first)
    for unet in (sdxl.unet, prompted.pipe.unet):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())


def test_another_size_than_the_models_own(prompted, upgraded):
    ours = XAdapterPipeline(prompted, upgraded, mapper_for(prompted, upgraded, 0.1))
    latent = upgraded.unet.config.sample_size
    assert call(ours, height=4 * latent, width=3 * latent).shape[-2:] == (2 * latent, 3 * latent // 2)


def test_the_published_pair_has_212_9_million_parameters():
    with torch.device("meta"):
        base, large = UNet2DConditionModel(**SD15), UNet2DConditionModel(**SDXL)
        mapper = XAdapter.between(base, large)
    assert mapper.config["inputs"] == [1280, 640, 320]
    assert mapper.config["outputs"] == [1280, 1280, 640]
    assert mapper.config["doublings"] == [0, 0, 1]
    assert round(sum(p.numel() for p in mapper.parameters()) / 1e6, 1) == 212.9


def test_what_it_costs(prompted, sdxl):
    mapper = mapper_for(prompted, sdxl)
    parts = [prompted.pipe.unet, prompted.pipe.vae, prompted.pipe.text_encoder, prompted.adapter, mapper]
    expected = sum(p.numel() for part in parts for p in part.parameters())
    assert XAdapterPipeline(prompted, sdxl, mapper).parameters == expected
    sharing = tiny_models.with_own_denoiser(sdxl)
    sharing.vae = prompted.pipe.vae
    assert XAdapterPipeline(prompted, sharing, mapper).parameters == expected - sum(
        p.numel() for p in sharing.vae.parameters()
    )


def test_saved_and_loaded(prompted, sdxl, tmp_path):
    mapper = mapper_for(prompted, sdxl, 0.1)
    mapper.save_pretrained(tmp_path)
    found = XAdapter.from_pretrained(tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(found.state_dict().values(), mapper.state_dict().values(), strict=True)
    )
    assert torch.equal(*(call(XAdapterPipeline(prompted, sdxl, m)) for m in (mapper, found)))


# --- what is refused -----------------------------------------------------------------------------------------------


def test_a_transformer_is_refused(prompted, sdxl, pixart):
    with pytest.raises(
        InputError, match="U-Nets only but the denoiser of the upgraded model is PixArtTransformer2DModel"
    ):
        XAdapter.between(prompted.pipe.unet, pixart.transformer)
    with pytest.raises(InputError, match="U-Nets only"):
        XAdapterPipeline(prompted, pixart, mapper_for(prompted, sdxl))


def test_a_mapper_of_other_models_is_refused(prompted, sdxl):
    with pytest.raises(InputError, match=r"its doublings are \[0, 0, 1\] but these two need \[-1, -1, 0\]"):
        XAdapterPipeline(prompted, sdxl, mapper_for(prompted, twice(sdxl)))


def test_sizes_that_are_no_power_of_two_apart_are_refused(prompted, sdxl):
    odd = tiny_models.with_own_denoiser(sdxl)
    odd.unet.register_to_config(sample_size=12)
    with pytest.raises(InputError, match="differs by a power of two"):
        XAdapter.between(prompted.pipe.unet, odd.unet)


def test_other_numbers_of_training_steps_are_refused(prompted, sdxl):
    pipe = tiny_models.with_own_denoiser(sdxl)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, num_train_timesteps=500)
    with pytest.raises(InputError, match="base model has 1000 time steps of training and the upgraded model 500"):
        XAdapterPipeline(prompted, pipe, mapper_for(prompted, pipe))


def test_time_steps_that_differ_are_refused(prompted, sdxl):
    pipe = tiny_models.with_own_denoiser(sdxl)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(InputError, match=r"upgraded model is at time step 900.* and the base model at"):
        call(XAdapterPipeline(prompted, pipe, mapper_for(prompted, pipe)), timesteps=[900, 600, 300, 1], start=1.0)


@pytest.mark.parametrize("start", [0.0, -0.1, 1.1, 0.1])
def test_no_step_at_all_is_refused(prompted, sdxl, start):
    with pytest.raises(InputError, match=f"start is {start:g} of {STEPS} steps"):
        call(XAdapterPipeline(prompted, sdxl, mapper_for(prompted, sdxl)), start=start)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("ip_adapter_image", "image_prompt"),
        ("negative_promt", "negative_prompt"),
        ("num_inference_step", "num_inference_steps"),
        ("mapper_scal", "mapper_scale"),
        ("heigth", "height"),
    ],
)
def test_an_unknown_argument_is_refused_before_any_model_runs(prompted, sdxl, wrong, right):
    ours = XAdapterPipeline(prompted, sdxl, mapper_for(prompted, sdxl))
    calls = []
    handle = prompted.backbone.denoiser.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(InputError, match=rf"Img2ImgPipeline takes no argument {wrong}; did you mean {right}\?$"):
        call(ours, **{wrong: 1})
    handle.remove()
    assert not calls


@pytest.mark.parametrize(("name", "instead"), [("image", "image_prompt="), ("strength", "start=")])
def test_arguments_that_the_second_stage_sets_are_refused(prompted, sdxl, name, instead):
    ours = XAdapterPipeline(prompted, sdxl, mapper_for(prompted, sdxl))
    with pytest.raises(InputError, match=rf"X-Adapter takes no argument {name}: .*; give {instead}\.$"):
        call(ours, **{name: 0.5})


def test_a_missing_prompt_is_refused(prompted, sdxl):
    with pytest.raises(InputError, match="prompt is missing"):
        call(XAdapterPipeline(prompted, sdxl, mapper_for(prompted, sdxl)), None)


# --- training ------------------------------------------------------------------------------------------------------


class Rows:
    """Random latents of the two sizes, and captions."""

    def __init__(self, base, upgraded, count=4):
        generator = torch.Generator().manual_seed(0)
        sides = {"base": tiny_models.SIDE, "upgraded": upgraded.denoiser.config.sample_size}
        self.tensors = {f"{n}.latents": torch.randn(count, 4, s, s, generator=generator) for n, s in sides.items()}
        self.tensors |= {
            f"base.text.{n}": t for n, t in base.encode_text(["a cat", "a dog", "a bird", "a fish"][:count]).items()
        }

    def __len__(self):
        return len(self.tensors["base.latents"])

    def batch(self, indices):
        return {name: t[indices] for name, t in self.tensors.items()}


def mapping(prompted, pipe, rate=1e-2):
    base, above = prompted.backbone, backbone_for(pipe)
    return XAdapterMapping(base, above, mapper_for(prompted, pipe), rate), Rows(base, above)


def weights(module):
    return {name: t.detach().clone() for name, t in module.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_mapper_alone_learns_and_the_loss_falls(prompted, upgraded):
    objective, dataset = mapping(prompted, upgraded)
    frozen = weights(prompted.pipe.unet), weights(upgraded.unet)
    batch = dataset.batch(torch.arange(4))

    def loss():
        torch.manual_seed(0)
        return objective(batch)

    first, begin = loss(), weights(objective.mapper)
    assert {n for n, p in objective.named_parameters() if p.requires_grad} == {f"mapper.{n}" for n in begin}
    optimizer = torch.optim.Adam(objective.parameter_groups())
    for _ in range(12):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss() < 0.99 * first
    assert not any(torch.equal(t, begin[name]) for name, t in weights(objective.mapper).items())
    assert equal(weights(prompted.pipe.unet), frozen[0]) and equal(weights(upgraded.unet), frozen[1])


def test_the_upgraded_model_reads_nothing_and_the_noises_are_independent(prompted, sdxl):
    objective, dataset = mapping(prompted, sdxl)
    seen = {}
    for name, backbone in (("base", objective._base), ("upgraded", objective._upgraded)):
        predict = backbone.predict
        backbone.predict = lambda *given, name=name, predict=predict: seen.update({name: given}) or predict(*given)
    dataset.tensors["upgraded.latents"] = dataset.tensors["base.latents"]
    objective(dataset.batch(torch.arange(4)))
    del prompted.backbone.predict  # the fixture's, shared
    assert torch.equal(seen["base"][1], seen["upgraded"][1])
    assert torch.equal(seen["base"][2]["states"], dataset.tensors["base.text.states"])
    assert (seen["upgraded"][2]["states"] == objective._no_text["states"]).all()
    assert differ(seen["base"][0], seen["upgraded"][0])


def test_gradient_checkpointing_changes_no_gradient(prompted, sdxl):
    found = []
    for checkpointing in (False, True):
        objective, dataset = mapping(prompted, sdxl)
        if checkpointing:
            objective._upgraded.denoiser.enable_gradient_checkpointing()
        torch.manual_seed(0)
        try:
            objective(dataset.batch(torch.arange(2))).backward()
        finally:
            objective._upgraded.denoiser.disable_gradient_checkpointing()
        found.append({name: p.grad for name, p in objective.mapper.named_parameters()})
    assert any(grad.any() for grad in found[0].values()) and equal(*found)


def test_training_resumes_bit_for_bit(prompted, sdxl, tmp_path):
    def go(output, samples, resume=False):
        objective, dataset = mapping(prompted, sdxl)
        train(
            objective,
            dataset,
            TrainingConfig(samples=samples, batch_size=2, checkpoint_every=4, tensorboard=False),
            output,
            resume=resume,
        )
        return weights(objective.mapper)

    straight = go(tmp_path / "a", 8)
    go(tmp_path / "b", 4)
    assert equal(go(tmp_path / "b", 8, resume=True), straight)


def test_from_folders_to_a_mapper(prompted, sdxl, tmp_path):
    prompted.pipe.save_pretrained(tmp_path / "base")
    twice(sdxl).save_pretrained(tmp_path / "large")
    (tmp_path / "data").mkdir()
    for i in range(3):
        Image.new("RGB", (32, 32), (80 * i, 100, 200)).save(tmp_path / "data" / f"{i}.png")
    lines = [f'{{"file_name": "{i}.png", "text": "picture {i}"}}' for i in range(3)]
    (tmp_path / "data" / "metadata.jsonl").write_text("\n".join(lines))
    config, images = (
        TrainingConfig(samples=4, batch_size=2, tensorboard=False),
        ImageFolderDataset(tmp_path / "data", size=32),
    )
    options = {"training": config, "frozen": "bfloat16", "gradient_checkpointing": True}
    mapper = train_x_adapter(tmp_path / "base", tmp_path / "large", images, tmp_path / "run", **options)
    assert mapper.dtype == torch.float32 and all(p.isfinite().all() for p in mapper.parameters())
    for folder in ("x_adapter", "checkpoints/last"):
        assert equal(weights(XAdapter.from_pretrained(tmp_path / "run" / folder)), weights(mapper))


def test_resized_images_have_a_key_of_their_own(tmp_path):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x"}')
    whole = ImageFolderDataset(tmp_path, size=32)
    half = Resized(whole, 0.5)
    assert half.pixels(torch.tensor([0])).shape == (1, 3, 16, 16)
    assert half.key != whole.key and half.captions == whole.captions and len(half) == 1


def test_joined_datasets_keep_their_rows_together(prompted, sdxl):
    one = Rows(prompted.backbone, backbone_for(sdxl))
    both = Joined({"a": one, "b": one}).batch(torch.tensor([2, 0]))
    assert torch.equal(both["a.base.latents"], both["b.base.latents"])
    assert torch.equal(both["a.base.latents"], one.tensors["base.latents"][[2, 0]])

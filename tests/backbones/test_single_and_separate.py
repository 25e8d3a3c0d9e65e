"""Qwen-Image and Z-Image: which rows take image features, which forward pass is whose, the family's other pipelines."""

import pytest
import torch
from diffusers import (
    QwenImageControlNetModel,
    QwenImageControlNetPipeline,
    QwenImageImg2ImgPipeline,
    QwenImageInpaintPipeline,
    QwenImageTransformer2DModel,
    ZImageImg2ImgPipeline,
    ZImageInpaintPipeline,
)
from PIL import Image

import tiny_models
from a4a.backbones import backbone_for
from a4a.backbones.attention import ImageRows
from a4a.backbones.latents import pack, unpack
from a4a.backbones.prediction import TimestepDensity
from a4a.backbones.qwen_image import QwenImage
from a4a.backbones.z_image import ZImage
from a4a.errors import InputError
from a4a.injection import attach
from a4a.pipeline import ImagePromptPipeline
from a4a.training.denoising import ConditionDropout, Denoising, ObjectiveConfig

SIZE = 16


def rows_changed(backbone, run, reference):
    """Rows of the first site's output, before heads are mixed, that features change: boolean [batch, rows]."""
    site = backbone.denoiser.get_submodule(backbone.sites[0].name)
    seen = []
    hook = site.to_out[0].register_forward_hook(lambda _module, args, _out: seen.append(args[0]))
    features = tiny_models.ip_adapter(backbone.pipe)(tiny_models.embeds(reference))
    with torch.no_grad():
        run()
        with attach(backbone.denoiser, backbone.sites, features):
            run()
    hook.remove()
    return (seen[0] - seen[1]).abs().amax(-1) > 1e-6


def generator():
    return torch.Generator().manual_seed(0)


def test_features_enter_at_z_images_image_rows_and_not_at_padding_or_text(z_image):
    backbone = backbone_for(z_image)
    images = [torch.randn(4, 1, *size, generator=generator()) for size in ((8, 8), (4, 8))]  # 16 and 8 rows
    texts = [torch.randn(n, tiny_models.TEXT, generator=generator()) for n in (5, 40)]
    changed = rows_changed(backbone, lambda: backbone.denoiser(images, torch.tensor([0.5, 0.1]), texts), 2)
    assert [row.nonzero().flatten().tolist() for row in changed] == [list(range(16)), list(range(8))]


def test_z_image_omni_is_refused(z_image):
    with pytest.raises(InputError, match="Omni puts reference images of its own before the drawn image"):
        ZImage.image_rows(z_image.transformer, {"x": [[torch.zeros(4, 1, 8, 8)]]})


def test_features_do_not_enter_at_the_reference_rows_of_qwen_image_edit(qwen_image):
    backbone = backbone_for(qwen_image)
    inputs = {
        "hidden_states": torch.randn(1, 16 + 8, 16),
        "encoder_hidden_states": torch.randn(1, 5, tiny_models.TEXT),
        "timestep": torch.tensor([0.5]),
        "img_shapes": [[(1, 4, 4), (1, 2, 4)]],
    }
    changed = rows_changed(backbone, lambda: backbone.denoiser(**inputs), 1)
    assert changed[0].nonzero().flatten().tolist() == list(range(16))


def test_layers_of_qwen_image_layered_are_all_drawn(qwen_image):
    shapes = {"img_shapes": [[(1, 4, 4), (1, 4, 4), (1, 2, 4)]]}
    with torch.device("meta"):
        layered = QwenImageTransformer2DModel(num_layers=1, use_layer3d_rope=True)
    assert QwenImage.image_rows(layered, shapes) == ImageRows(32, after=8)
    assert QwenImage.image_rows(qwen_image.transformer, {"img_shapes": [(1, 4, 4)]}) is None


def test_the_second_pass_on_the_same_latents_is_the_unconditional_one_where_pipelines_name_none(qwen_image):
    backbone = backbone_for(qwen_image)
    adapter = tiny_models.ip_adapter(qwen_image)
    positive, negative = adapter(tiny_models.embeds()), adapter(tiny_models.embeds(seed=1))
    inputs = {
        "encoder_hidden_states": torch.randn(1, 5, tiny_models.TEXT),
        "timestep": torch.tensor([0.5]),
        "img_shapes": [[(1, 4, 4)]],
        "return_dict": False,
    }
    steps = torch.randn(2, 1, 16, 16).unbind(0)

    def run(latents):
        with torch.no_grad():
            return backbone.denoiser(latents, **inputs)[0]

    expected = []
    for features in (positive, negative):
        with attach(backbone.denoiser, backbone.sites, features):
            expected.append([run(latents) for latents in steps])
    with attach(backbone.denoiser, backbone.sites, positive, negative=negative):
        for i, latents in enumerate(steps):
            assert torch.equal(run(latents), expected[0][i])
            assert torch.equal(run(latents), expected[1][i])
        with (
            pytest.raises(InputError, match="for 'uncond_stg', which is neither"),
            backbone.denoiser.cache_context("uncond_stg"),
        ):
            pass
    assert "cache_context" not in backbone.denoiser.__dict__


def test_the_shift_by_the_images_size_is_the_pipelines(qwen_image):
    backbone = backbone_for(qwen_image)
    tiny_models.call(qwen_image, num_inference_steps=4)
    own = qwen_image.scheduler.timesteps  # of shares of noise 1, 3/4, 1/2, 1/4
    prediction, mu = backbone.prediction, backbone.shift_mu(torch.zeros(1, 4, 8, 8))

    class Shares:
        @staticmethod
        def sample(count, device):
            return torch.tensor([1.0, 0.75, 0.5, 0.25])

    torch.testing.assert_close(prediction.sample_timesteps(4, "cpu", Shares, mu), own)
    assert backbone.shift_mu(torch.zeros(1, 16, 128, 128)) == pytest.approx(0.5 + 0.4 * (4096 - 256) / (8192 - 256))
    with pytest.raises(ValueError, match="give mu"):
        prediction.sample_timesteps(4, "cpu", Shares)


@pytest.mark.parametrize("name", ["qwen_image", "z_image"])
def test_the_training_loss_is_that_of_the_pipelines_own_step(request, name):
    """A step of the pipeline from noise to the image: the flow that it follows, against the one that training wants."""
    pipe = tiny_models.with_own_denoiser(request.getfixturevalue(name))
    backbone, packed = backbone_for(pipe), name == "qwen_image"
    latents = torch.randn(1, backbone.latent_channels, tiny_models.SIDE, tiny_models.SIDE)
    objective = Denoising(backbone, None, ObjectiveConfig(dropping=ConditionDropout(0.0, 0.0, 0.0)))
    objective.denoiser.eval()
    objective.density = TimestepDensity("logit_normal", logit_mean=100.0)  # all noise
    torch.manual_seed(0)
    with torch.no_grad():
        text = {f"text.{n}": t for n, t in backbone.encode_text(["a red cat"]).items()}
        loss = objective({"latents": latents, **text})

    torch.manual_seed(0)
    torch.rand(1)  # which conditions training drops
    noise = torch.randn_like(latents)
    start = pack(noise, backbone.patch_size) if packed else noise
    off = 1.0 if packed else 0.0
    drawn = tiny_models.call(pipe, "a red cat", num_inference_steps=1, guidance_scale=off, latents=start)
    drawn = unpack(drawn, noise.shape[-2:], backbone.patch_size) if packed else drawn
    flow = noise - drawn  # the scheduler's only step goes from all noise to none
    torch.testing.assert_close(loss, (flow - (noise - latents)).square().mean(), atol=1e-5, rtol=1e-4)


IMAGE = Image.new("RGB", (SIZE, SIZE), (200, 30, 60))
MASK = Image.new("L", (SIZE, SIZE), 255)


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("qwen_image", QwenImageImg2ImgPipeline, {"image": IMAGE, "strength": 1.0}),
        ("qwen_image", QwenImageInpaintPipeline, {"image": IMAGE, "mask_image": MASK, "strength": 1.0}),
        ("qwen_image", QwenImageControlNetPipeline, {"control_image": IMAGE}),
        ("z_image", ZImageImg2ImgPipeline, {"image": IMAGE, "strength": 1.0}),
        ("z_image", ZImageInpaintPipeline, {"image": IMAGE, "mask_image": MASK, "strength": 1.0}),
    ],
)
def test_the_familys_other_pipelines_take_an_image_prompt(request, name, kind, options):
    pipe = request.getfixturevalue(name)
    extra = {"controlnet": _controlnet(pipe)} if kind is QwenImageControlNetPipeline else {}
    other = kind(**pipe.components, **extra)
    other.set_progress_bar_config(disable=True)
    prompted = ImagePromptPipeline(other, tiny_models.ip_adapter(pipe))
    plain = tiny_models.call(other, **options)
    assert torch.equal(tiny_models.call(prompted, **options), plain)
    assert torch.equal(
        tiny_models.call(prompted, image_prompt_embeds=tiny_models.embeds(), image_prompt_scale=0.0, **options), plain
    )
    found = tiny_models.call(prompted, image_prompt_embeds=tiny_models.embeds(), **options)
    assert found.isfinite().all()
    assert (found - plain).abs().max() > 1e-3


def _controlnet(pipe):
    config = {n: v for n, v in pipe.transformer.config.items() if not n.startswith("_")}
    known = QwenImageControlNetModel.__init__.__wrapped__.__code__.co_varnames
    torch.manual_seed(0)
    return QwenImageControlNetModel(**{n: v for n, v in config.items() if n in known} | {"num_layers": 1}).eval()


def test_text_of_any_length_is_stored_in_one_shape(qwen_image, z_image):
    for pipe in (qwen_image, z_image):
        text = backbone_for(pipe).encode_text(["a cat", "a red dog on a beach"])
        assert text["states"].shape == (2, 512, tiny_models.TEXT)
        assert text["mask"].sum(1).tolist() == sorted(text["mask"].sum(1).tolist())
        assert (text["states"][text["mask"] == 0] == 0).all()

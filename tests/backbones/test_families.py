"""Backbones of every family: predictions, text, sites and latents are those of the diffusers pipeline."""

import inspect

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel, WanPipeline, ZImagePipeline

import support
import tiny_models
from a4a.backbones import SizeConditions, backbone_for, families, load_pipeline
from a4a.backbones.latents import unpack
from a4a.backbones.lumina2 import Lumina2
from a4a.backbones.pixart import PixArt
from a4a.backbones.prediction import split_variance
from a4a.backbones.qwen_image import QwenImage
from a4a.backbones.unsupported import UNSUPPORTED
from a4a.errors import InputError
from a4a.injection import attach
from a4a.pipeline import ImagePromptPipeline
from a4a.training.denoising import Denoising, ObjectiveConfig

PROMPTS = ["a cat on a beach", "a red dog"]
TEXT_INPUTS = {
    "encoder_hidden_states",
    "encoder_attention_mask",
    "encoder_hidden_states_mask",
    "encoder_hidden_states_t5",
    "text_embedding_mask",
    "text_embedding_mask_t5",
    "text_embeds",
    "pooled_projections",
    "attention_mask",
    "cap_feats",
}
"""Names by which denoisers take what the text encoders make of a prompt."""


class Recorded:
    """Calls of a denoiser by a pipeline: what went in, what came out."""

    def __init__(self, denoiser):
        self.calls = []
        self.hook = denoiser.register_forward_hook(self, with_kwargs=True)

    def __call__(self, _module, args, kwargs, out):
        self.calls.append((args, kwargs, out[0]))


def recorded(pipe, **kwargs):
    """Noisy latents, time steps and predictions of a pipeline's first step; with guidance, those of negatives first."""
    backbone = backbone_for(pipe)
    record = Recorded(backbone.denoiser)
    if "true_cfg_scale" in inspect.signature(pipe.__call__).parameters:
        # there guidance_scale is an input of distilled models, and 1 in training
        no_prompt = " " if isinstance(backbone, QwenImage) else ""
        kwargs |= {
            "guidance_scale": 1.0,
            "true_cfg_scale": kwargs["guidance_scale"],
            "negative_prompt": [no_prompt] * 2,
        }
    tiny_models.call(pipe, PROMPTS, num_inference_steps=1, **kwargs)
    record.hook.remove()
    passes = record.calls[: 2 if backbone.guidance == "separate" else 1]
    found = []
    for args, kwargs, out in reversed(passes):
        noisy = next(iter((*args, *kwargs.values())))
        if isinstance(noisy, list):  # Z-Image, which predicts the flow from noise to image
            noisy, out = torch.stack(noisy).squeeze(2), -torch.stack(out).squeeze(2)
        if isinstance(backbone, Lumina2):  # this one, too
            out = -out
        if noisy.ndim == 3:
            noisy, out = (unpack(rows, (tiny_models.SIDE,) * 2, backbone.patch_size) for rows in (noisy, out))
        timesteps = pipe.scheduler.timesteps[:1].expand(len(noisy))
        found.append((noisy, timesteps, split_variance(out, noisy.shape[1])[0]))
    if backbone.guidance == "negative_last" and len(found[0][0]) > len(PROMPTS):
        found = [[torch.cat(tensor.chunk(2)[::-1]) for tensor in found[0]]]
    return tuple(torch.cat(tensors) for tensors in zip(*found, strict=True))


def without_guidance(pipe):
    """The scale that turns guidance off: Z-Image's pipeline adds it to one."""
    return 0.0 if isinstance(pipe, ZImagePipeline) else 1.0


@pytest.fixture(scope="session")
def pixart_1024():
    """A PixArt that is told resolution and aspect ratio, as the 1024-pixel ones are."""
    return tiny_models.pixart(sample_size=128)


@pytest.fixture(scope="session")
def sigma():
    return tiny_models.sigma()


@pytest.fixture(scope="session")
def kolors():
    return tiny_models.kolors()


@pytest.fixture(params=[*tiny_models.PIPELINES, "kolors", "pixart_1024", "sigma"])
def model(request):
    return request.getfixturevalue(request.param)


def test_predict_is_what_the_pipeline_computes(model):
    backbone = backbone_for(model)
    noisy, timesteps, expected = recorded(model, guidance_scale=without_guidance(model))
    found = backbone.predict(noisy, timesteps, backbone.encode_text(PROMPTS))
    assert found.shape == noisy.shape
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_predict_is_what_the_pipeline_computes_with_guidance(model):
    backbone = backbone_for(model)
    noisy, timesteps, expected = recorded(model, guidance_scale=4.0)
    empty, text = backbone.no_text(), backbone.encode_text(PROMPTS)
    both = {name: torch.cat([empty[name].expand_as(t), t]) for name, t in text.items()}
    assert len(noisy) == 4
    torch.testing.assert_close(backbone.predict(noisy, timesteps, both), expected, atol=1e-5, rtol=1e-4)


def test_resolution_and_aspect_ratio_change_the_prediction_of_models_that_take_them(pixart_1024):
    backbone = backbone_for(pixart_1024)
    assert backbone.denoiser.use_additional_conditions
    noisy, timesteps, text = tiny_models.inputs(backbone)
    square = backbone.predict(noisy, timesteps, text)
    assert not torch.allclose(
        backbone.predict(torch.cat([noisy] * 2, dim=-1), timesteps, text)[..., : tiny_models.SIDE], square, atol=1e-3
    )


def test_prompts_are_encoded_in_training_as_in_a_call_of_the_pipeline(model):
    prompt = "  my <b>Cat</b> &amp; toys, https://photos.example.com/cat.jpg @someone"
    record, backbone = Recorded(backbone_for(model).denoiser), backbone_for(model)
    # without bins of resolutions, which would make a tiny image one of 1024 pixels
    options = {name: v for name, v in backbone.call_options().items() if name != "use_resolution_binning"}
    tiny_models.call(model, [prompt], guidance_scale=without_guidance(model), **options)
    record.hook.remove()
    text = backbone.encode_text([prompt])
    record.hook = backbone.denoiser.register_forward_hook(record, with_kwargs=True)
    backbone.predict(*tiny_models.inputs(backbone)[:2], text)
    record.hook.remove()
    texts = []
    names = tuple(inspect.signature(type(backbone.denoiser).forward).parameters)[1:]
    for args, kwargs, _ in (record.calls[0], record.calls[-1]):
        given = dict(zip(names, args, strict=False)) | kwargs | (kwargs.get("added_cond_kwargs") or {})
        given = {n: torch.stack(t) if isinstance(t, list) else t for n, t in given.items() if n in TEXT_INPUTS}
        texts.append({n: t for n, t in given.items() if torch.is_tensor(t)})
    assert texts[0].keys() == texts[1].keys() != set()
    for name, t in texts[0].items():
        torch.testing.assert_close(texts[1][name].to(t), t, msg=name)
    if isinstance(backbone, PixArt):  # its pipelines clean captions, with beautifulsoup4 and ftfy
        cleaned = backbone.encode_text(["my cat toys, ."])
        torch.testing.assert_close(text["states"], cleaned["states"])


@pytest.mark.parametrize("name", ["sdxl", "pixart_1024"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_denoiser_is_told_the_original_size_the_crop_and_the_target_size(request, name, dtype):
    """SDXL as IP-Adapter's training tells them, PixArt-alpha as its own does; exactly, in 16 bits too."""
    backbone = backbone_for(tiny_models.with_own_denoiser(request.getfixturevalue(name)))
    denoiser, (noisy, timesteps, text) = backbone.denoiser.to(dtype), tiny_models.inputs(backbone, 2)
    sizes = SizeConditions(
        torch.tensor([[683, 1021], [400, 333]]), torch.tensor([[0, 301], [77, 5]]), torch.tensor([[16, 24], [16, 24]])
    )
    ids = torch.tensor([[683.0, 1021, 0, 301, 16, 24], [400, 333, 77, 5, 16, 24]])
    options = {"encoder_hidden_states": text["states"].to(dtype), "timestep": timesteps}
    if name == "sdxl":
        options["added_cond_kwargs"] = {"text_embeds": text["pooled"].to(dtype), "time_ids": ids}
    else:
        options["added_cond_kwargs"] = {"resolution": ids[:, :2], "aspect_ratio": torch.full((2, 1), 16 / 24)}
        options["encoder_attention_mask"] = text["mask"]
    expected = split_variance(denoiser(noisy.to(dtype), **options).sample, noisy.shape[1])[0]
    found = backbone.predict(noisy.to(dtype), timesteps, text, sizes)
    assert torch.equal(found, expected)
    assert not torch.equal(found, backbone.predict(noisy.to(dtype), timesteps, text))


def test_text_has_a_row_for_each_prompt(model):
    backbone = backbone_for(model)
    text, empty = backbone.encode_text(PROMPTS), backbone.no_text()
    assert text.keys() == empty.keys()
    for name, t in text.items():
        assert t.shape[0] == 2
        assert empty[name].shape == (1, *t.shape[1:])
        assert t.device.type == "cpu"
        torch.testing.assert_close(backbone.encode_text(PROMPTS[1:])[name][0], t[1])


def test_sites_are_in_the_order_of_the_attention_processors(model):
    backbone = backbone_for(model)
    backbone.choose_sites("all" if backbone.site_choices else None)
    denoiser, suffix = backbone.denoiser, backbone.site_suffix
    listed = getattr(denoiser, "attn_processors", None) or {
        f"{n}.processor": 0 for n, _ in denoiser.named_modules() if n.endswith(suffix)
    }
    listed = [n for n in listed if "refiner" not in n]  # of Z-Image: they see text or image alone
    assert [s.name for s in backbone.sites] == [
        n.removesuffix(".processor") for n in listed if n.endswith(f"{suffix}.processor")
    ]


def test_depths_are_the_order_of_execution(model):
    backbone, ran = backbone_for(model), []
    hooks = [
        backbone.denoiser.get_submodule(s.name).register_forward_hook(lambda *_, s=s: ran.append(s))
        for s in backbone.sites
    ]
    backbone.predict(*tiny_models.inputs(backbone))
    for hook in hooks:
        hook.remove()
    assert [s.depth for s in ran] == pytest.approx([i / (len(ran) - 1) for i in range(len(ran))])
    assert sorted(ran, key=lambda s: s.depth) == ran


def test_widths_are_those_of_keys_and_values(model):
    backbone = backbone_for(model)
    for site, k, v in zip(backbone.sites, *backbone.text_projections(), strict=True):
        assert site.width == k.out_features == v.out_features


def test_a_distilled_sana_takes_adapters_and_is_not_trained():
    sprint = tiny_models.sana_sprint()
    backbone, record = backbone_for(sprint), Recorded(sprint.transformer)
    assert backbone.sites == backbone_for(tiny_models.sana()).sites
    tiny_models.call(sprint, PROMPTS, guidance_scale=4.5)
    record.hook.remove()
    args, kwargs, expected = record.calls[0]
    found = backbone.predict(args[0], kwargs["timestep"], backbone.encode_text(PROMPTS))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match=r"distilled .* train the adapter on the Sana of the same size"):
        _ = backbone.prediction
    with pytest.raises(InputError, match="distilled"):
        Denoising(backbone, tiny_models.ip_adapter(sprint), ObjectiveConfig())


@pytest.mark.parametrize("make", [tiny_models.pixart, tiny_models.sigma])
def test_bins_of_resolutions_are_used_where_the_pipeline_has_them(make):
    binned = [backbone_for(make(sample_size=side)).call_options()["use_resolution_binning"] for side in (8, 64, 256)]
    assert binned == [False, True, make is tiny_models.sigma]


def test_latents_that_are_not_finite_are_refused():
    broken = tiny_models.sd15()
    pixels = torch.rand(1, 3, 16, 16)
    for dtype, words in (
        (torch.bfloat16, "bfloat16; use float32, or a VAE"),
        (torch.float32, "float32; replace its weights"),
    ):
        broken.vae.to(dtype)
        broken.vae.quant_conv.weight.data.fill_(float("inf"))
        with pytest.raises(InputError, match=f"gives latents that are not finite in {words}"):
            backbone_for(broken).encode_pixels(pixels)


def test_learned_variance_is_dropped(pixart):
    backbone = backbone_for(pixart)
    assert backbone.denoiser.config.out_channels == 2 * backbone.denoiser.config.in_channels
    assert backbone.predict(*tiny_models.inputs(backbone, 2)).shape == (2, 4, tiny_models.SIDE, tiny_models.SIDE)


def test_pixels_become_latents_as_the_denoiser_sees_them(model):
    backbone = backbone_for(model)
    if model.vae.config.get("latents_mean") or model.vae.config.get("batch_norm_eps"):
        pytest.skip("its VAE normalises each channel by itself, which has a test of its own")
    side = tiny_models.SIDE * backbone.vae_scale_factor
    pixels = torch.rand(2, 3, side, side) * 2 - 1
    torch.manual_seed(0)
    found = backbone.encode_pixels(pixels)
    torch.manual_seed(0)
    encoded, config = model.vae.encode(pixels), model.vae.config
    expected = encoded.latent_dist.sample() if hasattr(encoded, "latent_dist") else encoded.latent
    shift = config.get("shift_factor") or 0.0
    expected = (expected - shift) * config.scaling_factor
    assert found.shape == (2, backbone.latent_channels, tiny_models.SIDE, tiny_models.SIDE)
    torch.testing.assert_close(found, expected)
    decoded = model.vae.decode(found / config.scaling_factor + shift).sample
    torch.testing.assert_close(backbone.decode_latents(found), decoded)


def test_an_image_is_a_video_of_one_frame_whose_channels_are_normalised_one_by_one(wan):
    backbone, pixels = backbone_for(wan), torch.rand(2, 3, 64, 64) * 2 - 1
    torch.manual_seed(0)
    found = backbone.encode_pixels(pixels)
    torch.manual_seed(0)
    raw = wan.vae.encode(pixels[:, :, None]).latent_dist.sample()[:, :, 0]
    assert found.shape == raw.shape == (2, 16, 8, 8)
    for channel, (mean, std) in enumerate(zip(wan.vae.config.latents_mean, wan.vae.config.latents_std, strict=True)):
        torch.testing.assert_close(found[:, channel], (raw[:, channel] - mean) / std)
    torch.testing.assert_close(backbone.decode_latents(found), wan.vae.decode(raw[:, :, None]).sample[:, :, 0])


def test_all_frames_of_a_video_see_the_same_features(wan):
    prompted = ImagePromptPipeline(wan, tiny_models.ip_adapter(wan))
    plain = tiny_models.call(prompted, num_frames=5)
    found = tiny_models.call(prompted, num_frames=5, image_prompt_embeds=tiny_models.embeds())
    assert found.shape == plain.shape == (1, 16, 2, 8, 8)
    assert ((found - plain).abs().amax((0, 1, 3, 4)) > 1e-3).all()
    backbone, (noisy, timesteps, text) = backbone_for(wan), tiny_models.inputs(backbone_for(wan), 2)
    features = prompted.adapter(tiny_models.embeds(2))
    with attach(wan.transformer, backbone.sites, features):
        image = backbone.predict(noisy, timesteps, text)
        assert torch.equal(backbone.predict(noisy.unsqueeze(2), timesteps, text).squeeze(2), image)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transformer_2": True}, r"has two denoisers, .* use a Wan with one"),
        ({"in_channels": 36}, r"draws videos from a first frame, .* train the adapter on the text-to-video model"),
    ],
)
def test_wans_that_images_alone_cannot_train_are_refused(wan, options, message):
    transformer = tiny_models.wan_transformer(**({} if "transformer_2" in options else options))
    parts = {"transformer": transformer, "transformer_2": transformer if "transformer_2" in options else None}
    with pytest.raises(InputError, match=message):
        Denoising(backbone_for(WanPipeline(**{**wan.components, **parts})), None, ObjectiveConfig())


class Unsupported(DiffusionPipeline):
    def __init__(self, unet):
        super().__init__()
        self.register_modules(unet=unet)


def test_an_unsupported_denoiser_is_an_input_error_that_lists_the_supported():
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
    )
    with pytest.raises(InputError) as caught:
        backbone_for(Unsupported(unet))
    assert "UNet2DModel of Unsupported is not supported: it takes no text" in str(caught.value)
    assert all(name in str(caught.value) for name in families())


def test_a_denoiser_that_inherits_a_supported_one_is_supported(sd15):
    class Mine(type(sd15.unet)):
        pass

    own = tiny_models.with_own_denoiser(sd15)
    own.unet.__class__ = Mine
    assert backbone_for(own).sites == backbone_for(sd15).sites


def test_a_pipeline_folder_is_loaded(pixart, tmp_path):
    pixart.save_pretrained(tmp_path)
    again = load_pipeline(tmp_path)
    assert torch.equal(tiny_models.call(again), tiny_models.call(pixart))


def test_a_folder_that_is_no_pipeline_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="There is no model folder"):
        load_pipeline(tmp_path / "none")
    with pytest.raises(InputError, match=r"could not be loaded as a diffusers pipeline .*model_index.json"):
        load_pipeline(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(InputError, match="could not be loaded"):
        load_pipeline(tmp_path)


def test_reasons_against_denoisers_are_given_for_those_of_diffusers_that_have_no_backbone():
    assert all(hasattr(diffusers, name) for name in UNSUPPORTED)
    assert not UNSUPPORTED.keys() & families().keys(), "these have a backbone now"
    assert set(families()) <= set(support.denoisers())

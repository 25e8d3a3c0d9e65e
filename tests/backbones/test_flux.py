"""FLUX.1, Chroma, AuraFlow and CogView4: the choice of sites, pipelines beside text to image, masks and text."""

import copy
import inspect

import diffusers
import pytest
import torch
from diffusers import FluxControlNetModel
from PIL import Image

import tiny_models
from a4a.adapters.loading import load_adapter
from a4a.backbones import backbone_for
from a4a.backbones.latents import pack, unpack
from a4a.cli.inspect import inspect_facts
from a4a.errors import InputError
from a4a.injection import attach
from a4a.pipeline import ImagePromptPipeline
from a4a.training.denoising import Denoising, ObjectiveConfig
from a4a.transfer.config import A4AConfig, IPAdapterConfig

PHOTO = Image.new("RGB", (16, 16), "red")
SQUARE = {"image": PHOTO, "height": 16, "width": 16}
MASKED = {**SQUARE, "mask_image": Image.new("L", (16, 16), 255)}
FEW = {"num_inference_steps": 4, "strength": 0.5}


# --- the choice of sites ---------------------------------------------------------------------------------------------


def everywhere(pipe):
    """A backbone whose sites are in all blocks."""
    backbone = backbone_for(pipe)
    backbone.choose_sites("all")
    return backbone


def test_single_blocks_are_sites_where_all_are_chosen(flux):
    backbone = backbone_for(flux)
    assert {site.attention for site in backbone.sites} == {"double"}
    double = backbone.sites
    backbone.choose_sites("all")
    assert [site.name for site in backbone.sites[: len(double)]] == [site.name for site in double]
    assert [site.attention for site in backbone.sites[len(double) :]] == ["single-last"] * 2
    assert [backbone.sites[0].depth, backbone.sites[-1].depth] == [0.0, 1.0]
    keys, values = backbone.text_projections()
    single = backbone.denoiser.single_transformer_blocks[0].attn
    assert keys[len(double)] is single.to_k and values[len(double)] is single.to_v


@pytest.mark.parametrize("name", ["flux", "chroma"])
def test_features_at_any_one_of_all_sites_reach_the_picture_and_no_text(name, request):
    backbone = everywhere(request.getfixturevalue(name))
    adapter = IPAdapterConfig(sites="all").build(backbone, None, tiny_models.EMBED)
    inputs = tiny_models.inputs(backbone)
    features, plain = adapter(tiny_models.embeds()), backbone.predict(*inputs)
    words = inputs[2]["states"].shape[1]
    for i, site in enumerate(backbone.sites):
        scales = [float(j == i) for j in range(len(backbone.sites))]
        with attach(backbone.denoiser, backbone.sites, features, scales):
            seen = []
            module = backbone.denoiser.get_submodule(site.name)
            handle = module.register_forward_hook(lambda _m, _a, out, seen=seen: seen.append(out))
            assert not torch.equal(backbone.predict(*inputs), plain)
            handle.remove()
        with_features = seen.pop()
        handle = module.register_forward_hook(lambda _m, _a, out, seen=seen: seen.append(out))
        backbone.predict(*inputs)
        handle.remove()
        if site.attention == "single-last":
            difference = (with_features - seen.pop()).abs().amax((0, 2))
            assert difference[:words].max() == 0
            assert difference[words:].min() > 0
    assert torch.equal(backbone.predict(*inputs), plain)


@pytest.mark.parametrize("config", [IPAdapterConfig, A4AConfig])
def test_a_recipe_chooses_the_sites_and_a_saved_adapter_keeps_them(flux, sd15, tmp_path, config):
    source = tiny_models.ip_adapter(sd15)
    method = config(sites="all") if config is IPAdapterConfig else config(sites="all", heads=2, rounds=1)
    method.build(backbone_for(flux), source, tiny_models.EMBED).save_pretrained(tmp_path)
    adapter = tiny_models.shaken(load_adapter(tmp_path))
    assert len(adapter.sites) == 5
    assert inspect_facts(str(tmp_path))["sites"] == 5
    prompted = ImagePromptPipeline(flux, adapter)
    assert len(prompted.backbone.sites) == 5
    plain = tiny_models.call(flux)
    assert not torch.equal(tiny_models.call(prompted, image_prompt_embeds=tiny_models.embeds()), plain)
    assert torch.equal(tiny_models.call(flux), plain)
    objective = Denoising(backbone_for(tiny_models.with_own_denoiser(flux)), adapter, ObjectiveConfig())
    objective(tiny_models.Samples(prompted.backbone, 2).batch(torch.arange(2))).backward()
    assert all(p.grad is not None for p in adapter.parameters() if p.requires_grad)


def test_a_choice_that_a_family_does_not_have_is_refused(flux, sd15):
    with pytest.raises(InputError, match=r"sites is 'single'; the choices of this model are: double, all\."):
        IPAdapterConfig(sites="single").build(backbone_for(flux), None, tiny_models.EMBED)
    with pytest.raises(InputError, match=r"sites is 'all'; the choices of this model are: none, .* leave it out"):
        IPAdapterConfig(sites="all").build(backbone_for(sd15), None, tiny_models.EMBED)


def test_inspect_names_the_choices(flux, tmp_path):
    flux.save_pretrained(tmp_path)
    facts = inspect_facts(str(tmp_path))
    assert (facts["sites"], facts["choices of sites"]) == (3, "double (3), all (5)")


# --- other pipelines -------------------------------------------------------------------------------------------------


def pipeline(kind, components):
    cls = getattr(diffusers, kind)
    takes = inspect.signature(cls.__init__).parameters
    other = cls(**{name: part for name, part in components.items() if name in takes})
    other.set_progress_bar_config(disable=True)
    return other


def controlled(pipe):
    torch.manual_seed(0)
    sizes = {**tiny_models.FLUX_SIZES, "num_layers": 1, "num_single_layers": 1}
    controlnet = FluxControlNetModel(**sizes, pooled_projection_dim=tiny_models.TEXT, guidance_embeds=True)
    return {**pipe.components, "controlnet": tiny_models.shaken(controlnet, 0.1).eval()}


def filling(pipe):
    """FLUX.1 Fill takes the masked image's latents and the mask besides the noisy latents."""
    channels = 16 + 16 + 4 * pipe.vae_scale_factor**2
    return {**pipe.components, "transformer": tiny_models.flux(in_channels=channels).transformer}


def following(pipe):
    """FLUX.1 Canny and Depth take the latents of an image to follow."""
    return {**pipe.components, "transformer": tiny_models.flux(in_channels=32).transformer}


# of diffusers 0.42.1; its ChromaInpaintPipeline fails by itself: it asks Chroma for distilled guidance
OTHERS = {
    "FluxImg2ImgPipeline": ("flux", None, {**SQUARE, **FEW}),
    "FluxInpaintPipeline": ("flux", None, {**MASKED, **FEW}),
    "FluxKontextPipeline": ("flux", None, {**SQUARE, "_auto_resize": False, "max_area": 256}),
    "FluxControlNetPipeline": ("flux", controlled, {"control_image": PHOTO}),
    "FluxFillPipeline": ("flux", filling, MASKED),
    "FluxControlPipeline": ("flux", following, {"control_image": PHOTO}),
    "ChromaImg2ImgPipeline": ("chroma", None, {**SQUARE, **FEW}),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_pipelines_of_a_family_take_image_prompts(kind, request):
    name, parts, options = OTHERS[kind]
    pipe = request.getfixturevalue(name)
    other = pipeline(kind, pipe.components if parts is None else parts(pipe))
    prompted = ImagePromptPipeline(other, tiny_models.ip_adapter(pipe))
    plain = tiny_models.call(other, **options)
    photo = {"image_prompt_embeds": tiny_models.embeds()}
    assert not torch.equal(tiny_models.call(prompted, **options, **photo), plain)
    assert torch.equal(tiny_models.call(prompted, **options, **photo, image_prompt_scale=0.0), plain)


@pytest.mark.parametrize("sites", ["double", "all"])
def test_a_kontext_reference_gets_no_image_features(flux, sites):
    """At each site what leaves attention changes in the rows of the drawn image, and in no other."""
    kontext = pipeline("FluxKontextPipeline", flux.components)
    backbone = backbone_for(kontext)
    backbone.choose_sites(sites)
    adapter = (
        tiny_models.ip_adapter(flux) if sites == "double" else IPAdapterConfig(sites=sites).build(backbone, None, 24)
    )
    features, first = adapter(tiny_models.embeds()), [0.0] * len(backbone.sites)
    for i, site in enumerate(backbone.sites):
        module = backbone.denoiser.get_submodule(site.name)
        seen = []

        def keep(_module, _args, out, seen=seen):
            seen.append(out[0] if isinstance(out, tuple) else out)

        handle = module.register_forward_hook(keep)
        options = {**SQUARE, "_auto_resize": False, "max_area": 256, "num_inference_steps": 1}
        tiny_models.call(kontext, **options)
        with attach(backbone.denoiser, backbone.sites, features, [float(j == i) for j in range(len(first))]):
            tiny_models.call(kontext, **options)
        handle.remove()
        plain, changed = seen
        rows = (plain - changed).abs().amax((0, 2)).nonzero().flatten()
        text = plain.shape[1] - 32
        assert rows.tolist() == list(range(text, text + 16)), site.name


def test_true_guidance_of_a_distilled_model_sees_no_image_in_the_pass_of_the_negative_prompt(flux):
    prompted = ImagePromptPipeline(flux, tiny_models.ip_adapter(flux))
    passes = []
    handle = flux.transformer.register_forward_hook(lambda _m, _a, out: passes.append(out[0]))
    for seed in (0, 1):
        options = {"true_cfg_scale": 3.0, "negative_prompt": "ugly", "num_inference_steps": 1}
        tiny_models.call(prompted, **options, image_prompt_embeds=tiny_models.embeds(seed=seed))
    handle.remove()
    positive, negative, other_positive, other_negative = passes
    assert torch.equal(negative, other_negative)
    assert not torch.equal(positive, other_positive)


def test_training_on_a_model_that_fills_images_is_refused_in_a_sentence(flux):
    backbone = backbone_for(pipeline("FluxFillPipeline", filling(flux)))
    assert backbone.latent_channels == 4
    with pytest.raises(InputError, match=r"FluxFillPipeline takes 48 channels and predicts 16.*train on FLUX.1-dev"):
        backbone.predict(*tiny_models.inputs(backbone))


# --- packed latents, masks and text ----------------------------------------------------------------------------------


def test_latents_are_packed_as_by_the_pipeline():
    latents = torch.randn(2, 3, 4, 6)
    rows = diffusers.FluxPipeline._pack_latents(latents, 2, 3, 4, 6)
    assert torch.equal(pack(latents, 2), rows)
    assert torch.equal(unpack(rows, (4, 6), 2), latents)


def test_schnell_takes_256_words_and_dev_512(flux):
    tokenizer = copy.deepcopy(flux.tokenizer_2)
    tokenizer.model_max_length = 512
    for guided, tokens in ((True, 512), (False, 256)):
        pipe = tiny_models.flux(guidance_embeds=guided)
        pipe.tokenizer_2 = tokenizer
        assert backbone_for(pipe).call_options() == {"max_sequence_length": tokens}


def test_chromas_mask_holds_in_checkpointed_blocks(chroma):
    backbone = backbone_for(tiny_models.with_own_denoiser(chroma))
    inputs = tiny_models.inputs(backbone, 2)
    assert inputs[2]["mask"].min() == 0
    expected = backbone.predict(*inputs)
    backbone.denoiser.enable_gradient_checkpointing()
    noisy = inputs[0].requires_grad_(True)
    torch.testing.assert_close(backbone.predict(noisy, *inputs[1:]), expected)


def test_cogview4_encodes_each_prompt_as_a_call_of_the_pipeline_alone(cogview4):
    backbone = backbone_for(cogview4)
    long = " ".join(["a red cat"] * 8)
    text = backbone.encode_text(["a cat", long])
    lengths = text["mask"].sum(1).tolist()
    assert lengths[0] == 16 < lengths[1]
    for prompt, states, length in zip(["a cat", long], text["states"], lengths, strict=True):
        expected, _ = cogview4.encode_prompt([prompt], do_classifier_free_guidance=False)
        assert torch.equal(states[-length:], expected[0])
    padded, _ = cogview4.encode_prompt(["a cat", long], do_classifier_free_guidance=False)
    torch.testing.assert_close(text["states"][0, -lengths[1] : -16], padded[0, :-16])

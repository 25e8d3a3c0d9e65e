"""Through ComfyUI's patches an image prompt gives what a4a's own injection gives, on the same weights."""

import pytest
import torch
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor

import a4a
import fake_comfyui
import injecting
import tiny_models
from a4a.backbones import backbone_for
from a4a.backbones.attention import ImageRows
from a4a.errors import InputError
from a4a.features import SiteFeatures
from a4a.image_terms import ImageTerm
from a4a.injection import attach
from a4a.pipeline.scales import weight_type_factors
from comfyui.apply import apply
from comfyui.features import ImagePrompts, Tokens
from comfyui.injection import Injection
from comfyui.patches import denoiser_of, patch_model
from comfyui.sites import sites_of

KINDS = {"sd15": None, "pixart": None, "flux": "all", "flux2": "all", "qwen_image": None}
"""Tiny pipelines, and which of their sites."""
NEGATIVE_FIRST = (1, 0)


@pytest.fixture(params=KINDS)
def backbone(request):
    backbone = backbone_for(request.getfixturevalue(request.param))
    backbone.choose_sites(KINDS[request.param])
    return backbone


@pytest.fixture
def model(backbone):
    return fake_comfyui.load_model(backbone.pipe)


def inject(model, backbone, features, negative, scale=0.7, **options):
    family, sites = sites_of(backbone.sites, denoiser_of(model))
    prompts = ImagePrompts(backbone.sites, Tokens(features), Tokens(negative))
    injection = Injection(prompts, [scale] * len(sites), **options)
    return patch_model(model, family, sites, injection, fake_comfyui.optimized_attention)


def same(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_the_numbers_are_those_of_our_own_injection(backbone, model):
    features, negative = injecting.features(backbone), injecting.features(backbone, seed=1)
    inputs = tiny_models.inputs(backbone, 2)
    plain = backbone.predict(*inputs)
    same(model.run(*inputs), plain)
    patched = inject(model, backbone, features, negative)
    for conditionings, rows in {NEGATIVE_FIRST: [negative, features], (0, 1): [features, negative]}.items():
        with attach(backbone.denoiser, backbone.sites, SiteFeatures.stack(rows), 0.7):
            expected = backbone.predict(*inputs)
        same(patched.run(*inputs, conditionings), expected)
        assert not torch.allclose(expected, plain, atol=1e-3)
    assert torch.equal(inject(model, backbone, features, negative, 0.0).run(*inputs), model.run(*inputs))


def test_prompts_add_up_and_each_image_of_a_batch_gets_its_own(backbone, model):
    features, negative = injecting.features(backbone, 2), injecting.features(backbone, 2, seed=1)
    inputs = tiny_models.inputs(backbone, 2)
    with attach(backbone.denoiser, backbone.sites, features, 0.7):
        expected = backbone.predict(*inputs)
    both = inject(inject(model, backbone, features, negative, 0.3), backbone, features, negative, 0.4)
    same(both.run(*inputs), expected)
    with pytest.raises(InputError, match="image prompts for 2 images but the model draws 1"):
        both.run(*inputs, NEGATIVE_FIRST)


def test_masks_token_counts_and_weight_types_are_those_of_our_own_terms(backbone, model):
    features, inputs = injecting.features(backbone, 2), tiny_models.inputs(backbone, 2)
    generator = torch.Generator().manual_seed(0)
    mask, counts = torch.rand(2, 16, 16, generator=generator), torch.rand(2, features.tokens, generator=generator) + 0.5
    scales = 0.7 * torch.from_numpy(weight_type_factors("ease out", backbone.sites)).expand(2, -1)
    with a4a.Injection(backbone.denoiser, backbone.sites) as injection:
        injection.set_terms([ImageTerm(features, scales.float(), counts=counts, mask=mask)])
        expected = backbone.predict(*inputs)
    prompts = ImagePrompts(backbone.sites, Tokens(features, counts), Tokens(features))
    attention = fake_comfyui.optimized_attention
    same(apply(model, prompts, attention, 0.7, weight_type="ease out", mask=mask).run(*inputs), expected)
    for options in ({"weight_type": "ease out"}, {"mask": mask}):
        assert not torch.allclose(apply(model, prompts, attention, 0.7, **options).run(*inputs), expected, atol=1e-4)


def test_a_course_sets_the_scale_by_the_noise_level(pixart):
    backbone, model = backbone_for(pixart), fake_comfyui.load_model(pixart)
    features, inputs = injecting.features(backbone), tiny_models.inputs(backbone)
    patched = inject(model, backbone, features, features, course=lambda sigma: float(sigma > 5))
    assert torch.equal(patched.run(*inputs, sigma=4.0), model.run(*inputs))
    same(patched.run(*inputs, sigma=6.0), inject(model, backbone, features, features).run(*inputs))


def test_another_nodes_replacement_of_the_attention_stays_in_effect(sd15):
    backbone, model = backbone_for(sd15), fake_comfyui.load_model(sd15)
    inputs, features = tiny_models.inputs(backbone), injecting.features(backbone)
    other = model.clone()
    other.set_model_attn2_replace(lambda q, k, v, options: torch.zeros_like(q), "middle", 0)
    found = inject(other, backbone, features, features, 0.0).run(*inputs)
    assert torch.equal(found, other.run(*inputs))
    assert not torch.equal(found, model.run(*inputs))


@pytest.mark.parametrize("name", ["flux", "qwen_image"])
def test_rows_of_reference_images_get_no_features(name, request, monkeypatch):
    backbone = backbone_for(request.getfixturevalue(name))
    model, features, inputs = (
        fake_comfyui.load_model(backbone.pipe),
        injecting.features(backbone),
        tiny_models.inputs(backbone),
    )
    rows = (inputs[0].shape[-1] // backbone.patch_size) ** 2
    monkeypatch.setattr(type(backbone), "image_rows", classmethod(lambda *_: ImageRows(rows - 3, after=3)))
    expected = injecting.injected(backbone, features, 0.7)
    options = {"reference_image_num_tokens": [2, 1]}
    same(inject(model, backbone, features, features).run(*inputs, options=options), expected)


def test_patches_that_are_never_called_are_an_error(flux):
    backbone, model = backbone_for(flux), fake_comfyui.load_model(flux)
    features = injecting.features(backbone)
    denoiser_of(model).backbone.denoiser.set_attn_processor(FluxAttnProcessor())
    with pytest.raises(InputError, match="without asking for the image prompt at any site"):
        inject(model, backbone, features, features).run(*tiny_models.inputs(backbone))


def test_an_unknown_conditioning_is_an_error(sd15):
    backbone, model = backbone_for(sd15), fake_comfyui.load_model(sd15)
    features = injecting.features(backbone)
    with pytest.raises(InputError, match="conditioning number 2"):
        inject(model, backbone, features, features).run(*tiny_models.inputs(backbone, 3), (0, 1, 2))

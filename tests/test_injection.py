"""Eq. 13: attaching features to a denoiser, with guidance, scales, LoRA, compilation and gradients; detaching."""

import copy
import gc
import math
import weakref
from fractions import Fraction

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch.utils.checkpoint import checkpoint

import tiny_models
from a4a.backbones import backbone_for
from a4a.errors import InputError
from a4a.features import SiteFeatures
from a4a.injection import Injection, attach, is_attached, site_scales
from injecting import features, injected, run

CROSS_ATTENTION = ["sd15", "sdxl", "pixart"]
"""Pipelines whose sites are cross-attention; the other kinds have their own tests (backbones/test_attention.py)."""


@pytest.fixture
def backbone(pipe):
    yield backbone_for(pipe)
    assert not is_attached(backbone_for(pipe).denoiser), "a test left features attached"


@pytest.fixture
def own(pipe):
    """A backbone whose denoiser the test may change."""
    return backbone_for(tiny_models.with_own_denoiser(pipe))


# --- the plain model, bit for bit ----------------------------------------------------------------------------------


def test_scale_zero_does_not_touch_features_that_are_not_finite(backbone):
    broken = features(backbone).map(lambda t: t * float("inf"))
    assert torch.equal(injected(backbone, broken, 0.0), run(backbone))


def test_the_state_dict_keeps_its_keys(backbone):
    before = list(backbone.denoiser.state_dict())
    with attach(backbone.denoiser, backbone.sites, features(backbone)):
        assert list(backbone.denoiser.state_dict()) == before
        assert [n for n, _ in backbone.denoiser.named_modules()].count(backbone.sites[0].name) == 1


def test_an_exception_inside_the_block_detaches(backbone):
    plain = run(backbone)
    with pytest.raises(KeyError), attach(backbone.denoiser, backbone.sites, features(backbone)):
        raise KeyError
    assert not is_attached(backbone.denoiser)
    assert torch.equal(run(backbone), plain)


def test_an_exception_of_the_denoiser_itself_detaches(backbone):
    with pytest.raises(InputError), attach(backbone.denoiser, backbone.sites, features(backbone, 3)):
        run(backbone, 1)
    assert not is_attached(backbone.denoiser)


# --- eq. 13 --------------------------------------------------------------------------------------------------------


def attention(query, key, value, heads):
    """Softmax attention of one row, written out, in float64."""
    out = torch.empty_like(query)
    width = query.shape[-1] // heads
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        weights = torch.softmax(query[:, part] @ key[:, part].T / width**0.5, dim=-1)
        out[:, part] = weights @ value[:, part]
    return out


@pytest.mark.parametrize("scale", [1.0, 0.3, -2.0])
@pytest.mark.parametrize("name", CROSS_ATTENTION)
def test_one_site_of_cross_attention_is_equation_13(request, name, scale):
    backbone = backbone_for(request.getfixturevalue(name))
    site = backbone.sites[1]
    module = backbone.denoiser.get_submodule(site.name)
    hidden = torch.randn(2, 9, module.to_q.in_features)
    text = torch.randn(2, 7, module.to_k.in_features)
    given = features(backbone, 2)
    with attach(backbone.denoiser, backbone.sites, given, scale):
        found = module(hidden, encoder_hidden_states=text)

    exact = copy.deepcopy(module).double()
    for row in range(2):
        q, k, v = exact.to_q(hidden[row].double()), exact.to_k(text[row].double()), exact.to_v(text[row].double())
        z = attention(q, k, v, module.heads)
        z = z + scale * attention(q, given.keys[1][row].double(), given.values[1][row].double(), module.heads)
        torch.testing.assert_close(found[row].double(), exact.to_out[0](z), atol=1e-5, rtol=1e-5)


def test_each_site_can_have_its_own_scale(backbone):
    given, scales = features(backbone), [0.0] * len(backbone.sites)
    assert torch.equal(injected(backbone, given, scales), run(backbone))
    scales[1] = 0.7
    found = injected(backbone, given, scales)
    silent = tuple(v * 0.7 if i == 1 else v * 0 for i, v in enumerate(given.values))
    assert not torch.allclose(found, run(backbone), atol=1e-4)
    torch.testing.assert_close(found, injected(backbone, SiteFeatures(given.keys, silent)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "number", [np.float32(0.5), torch.tensor(0.5), Fraction(1, 2)], ids=["numpy", "tensor", "fraction"]
)
def test_any_number_is_a_scale(backbone, number):
    assert torch.equal(injected(backbone, features(backbone), number), injected(backbone, features(backbone), 0.5))


def test_attached_features_can_be_replaced(backbone):
    one, two = features(backbone, seed=1), features(backbone, seed=2)
    with attach(backbone.denoiser, backbone.sites, one) as injection:
        first = run(backbone)
        injection.set(two)
        second = run(backbone)
        injection.set(one)
        assert torch.equal(run(backbone), first)
    assert not torch.allclose(first, second, atol=1e-3)
    assert torch.equal(injected(backbone, two), second)


# --- rows ----------------------------------------------------------------------------------------------------------


def with_guidance(backbone, noisy, timesteps, text):
    """Predictions of the negatives and then of the prompts, run as the family's pipelines run them."""
    if backbone.guidance == "separate":
        found = []
        for branch in ("uncond", "cond"):
            with backbone.denoiser.cache_context(branch):
                found.append(backbone.predict(noisy, timesteps, text))
        return torch.cat(found)
    text = {name: torch.cat([t] * 2) for name, t in text.items()}
    both = backbone.predict(torch.cat([noisy] * 2), torch.cat([timesteps] * 2), text).chunk(2)
    return torch.cat(both if backbone.guidance == "negative_first" else both[::-1])


def test_with_guidance_the_negatives_see_the_negative_features(backbone):
    positive, negative = features(backbone, 2, seed=1), features(backbone, 2, seed=2)
    half = tiny_models.inputs(backbone, 2)
    with attach(backbone.denoiser, backbone.sites, positive, 0.8, negative):
        both = with_guidance(backbone, *half)
        conditional = backbone.predict(*half)  # a step without guidance
    with attach(backbone.denoiser, backbone.sites, positive, 0.8):
        yes = backbone.predict(*half)
    with attach(backbone.denoiser, backbone.sites, negative, 0.8):
        no = backbone.predict(*half)
    torch.testing.assert_close(both, torch.cat([no, yes]), atol=1e-5, rtol=1e-4)
    assert torch.equal(conditional, yes)
    assert not torch.allclose(no, yes, atol=1e-3)


def test_another_number_of_rows_is_an_input_error_that_names_the_site(backbone):
    with pytest.raises(
        InputError,
        match=r"runs on 3 rows at \S+ but features are attached for 2; give one reference for each prompt",
    ):
        injected(backbone, features(backbone, 2), rows=3)
    both = "" if backbone.guidance == "separate" else ", or 4 with negatives"
    with pytest.raises(InputError, match=f"attached for 2{both}; give one reference for each prompt"):
        injected(backbone, features(backbone, 2), negative=features(backbone, 2), rows=3)


def test_one_row_of_features_is_not_broadcast_over_a_batch(backbone):
    with pytest.raises(InputError, match="attached for 1"):
        injected(backbone, features(backbone, 1), rows=2)


def test_as_many_negatives_as_features_are_needed(backbone):
    with pytest.raises(InputError, match="1 rows of 4 tokens of negative features for 2 rows"):
        injected(backbone, features(backbone, 2), negative=features(backbone, 1))
    assert not is_attached(backbone.denoiser)


def test_features_for_other_sites_are_an_input_error_that_names_the_first(backbone):
    given = features(backbone)
    count = len(backbone.sites)
    with pytest.raises(InputError, match=rf"for {count - 1} sites but {type(backbone.denoiser).__name__} has {count}"):
        injected(backbone, SiteFeatures(given.keys[1:], given.values[1:]))
    wider = [*given.keys]
    wider[1] = torch.zeros(1, 4, 7)
    other = SiteFeatures(tuple(wider), tuple(wider))
    with pytest.raises(
        InputError,
        match=rf"site 1 is .* of width 7 where {backbone.sites[1].name} of width {backbone.sites[1].width} is expected",
    ):
        injected(backbone, other)
    assert not is_attached(backbone.denoiser)


def test_as_many_scales_as_sites_are_needed(backbone):
    count = len(backbone.sites)
    with pytest.raises(
        InputError,
        match=f"scale has {count + 1} numbers; expected one number, or one for each of the {count} sites",
    ):
        injected(backbone, features(backbone), [1.0] * (count + 1))


@pytest.mark.parametrize("scale", [0.5, 1, torch.tensor(0.5), [0.5, 0.25, 0], torch.tensor([0.5, 0.25, 0.0])])
def test_a_scale_is_one_number_or_one_for_each_site(scale):
    assert site_scales(scale, 3) in ([0.5] * 3, [1.0] * 3, [0.5, 0.25, 0.0])


@pytest.mark.parametrize(
    ("scale", "found"),
    [
        (math.nan, "has nan in it"),
        (math.inf, "has inf in it"),
        (torch.tensor(math.nan), "has nan in it"),
        ([0.5, -math.inf, 0.5], "has -inf in it"),
        ("0.5", "is '0.5'"),
        (None, "is None"),
        ({"down": 1.0}, r"is \{'down': 1.0\}"),
        ([0.5, "0.5", 0.5], "has '0.5' in it"),
        (torch.ones(3, 1), r"has \[1.0\] in it"),
        ([], "has 0 numbers"),
        ([0.5, 0.5], "has 2 numbers"),
    ],
)
def test_any_other_scale_is_refused_in_a_sentence(scale, found):
    with pytest.raises(InputError, match=rf"^the_scale {found}; expected one number, or one for each of the 3 sites"):
        site_scales(scale, 3, "the_scale")


def test_attaching_twice_is_an_error_and_leaves_the_first(backbone):
    with attach(backbone.denoiser, backbone.sites, features(backbone)):
        before = run(backbone)
        with pytest.raises(InputError, match=f"already attached at {backbone.sites[0].name}"):
            attach(backbone.denoiser, backbone.sites, features(backbone))
        assert torch.equal(run(backbone), before)


# --- what others do to the denoiser --------------------------------------------------------------------------------


@pytest.mark.parametrize("processor", [AttnProcessor, AttnProcessor2_0])
@pytest.mark.parametrize("name", CROSS_ATTENTION)
def test_another_processor_gives_the_same_result_set_before_or_after_attaching(request, name, processor):
    own = backbone_for(tiny_models.with_own_denoiser(request.getfixturevalue(name)))
    given = features(own)
    expected = injected(own, given)
    with attach(own.denoiser, own.sites, given):
        own.denoiser.set_attn_processor(processor())
        after = run(own)
    before = injected(own, given)
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(before, after)


def test_no_query_is_kept_after_the_forward_pass(backbone):
    """A reference cycle would keep the queries of all sites in memory until Python's garbage collector runs."""
    site, module = backbone.sites[0], backbone.denoiser.get_submodule(backbone.sites[0].name)
    seen = []
    hook = module.to_q.register_forward_hook(lambda _module, _inputs, query: seen.append(weakref.ref(query)))
    gc.disable()
    try:
        with torch.no_grad(), attach(backbone.denoiser, backbone.sites, features(backbone)):
            run(backbone)
        assert seen, site.name
        assert all(query() is None for query in seen)
    finally:
        gc.enable()
        hook.remove()


def test_features_follow_the_denoiser_to_its_device(own):
    given, inputs = features(own), tiny_models.inputs(own)
    own.denoiser.to("meta")
    noisy, timesteps, text = inputs
    with attach(own.denoiser, own.sites, given):
        found = own.predict(noisy.to("meta"), timesteps.to("meta"), text)
    assert found.device.type == "meta"


# --- gradients -----------------------------------------------------------------------------------------------------


def gradients(backbone, passes, order, enable=lambda: None):
    """Gradients of every key and value of some passes, forward in turn, backward in `order`."""
    given = [features(backbone, seed=s).map(lambda t: t.requires_grad_()) for s in passes]
    injection, losses = Injection(backbone.denoiser, backbone.sites), []
    with injection:
        enable()
        for f, seed in zip(given, passes, strict=True):
            injection.set(f)
            losses.append(run(backbone, seed=seed).square().mean())
        injection.clear()
        for i in order:
            losses[i].backward()
    return [t.grad for f in given for t in f.keys + f.values]


@pytest.fixture
def training(own):
    own.denoiser.train()  # gradient checkpointing is for training alone; these models have no dropout
    return own


def test_gradients_reach_every_key_and_value(training):
    assert all(g is not None and g.abs().max() > 0 for g in gradients(training, [1], [0]))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("when", ["before", "while"])
def test_gradient_checkpointing_gives_the_same_gradients_for_two_passes_in_flight(training, order, when):
    expected = gradients(training, [1, 2], order)
    recomputed = []

    def counted(block, *args):
        recomputed.append(block)
        return checkpoint(block, *args, use_reentrant=False)

    def enable():
        training.denoiser.enable_gradient_checkpointing(gradient_checkpointing_func=counted)

    if when == "before":
        enable()
    found = gradients(training, [1, 2], order, *([enable] if when == "while" else []))
    assert recomputed
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-5)


def test_detaching_gives_the_checkpoint_function_back(training):
    training.denoiser.enable_gradient_checkpointing()
    functions = [getattr(m, "_gradient_checkpointing_func", None) for m in training.denoiser.modules()]
    gradients(training, [1], [0])
    assert [getattr(m, "_gradient_checkpointing_func", None) for m in training.denoiser.modules()] == functions


def test_a_recomputation_that_cannot_know_its_features_is_an_input_error(training):
    """Checkpointing is enabled after the forward pass's features were set; others are set before the backward pass."""
    with attach(training.denoiser, training.sites, features(training, seed=1)) as injection:
        training.denoiser.enable_gradient_checkpointing()
        noisy, timesteps, text = tiny_models.inputs(training)
        loss = training.predict(noisy.requires_grad_(), timesteps, text).square().mean()
        injection.set(features(training, seed=2))
        with pytest.raises(InputError, match=r"recomputes .* after its features or image rows were exchanged"):
            loss.backward()

"""What attaching features promises on every tiny pipeline: bit-exact without, rows apart, LoRA, compiling, gradients."""

import peft
import pytest
import torch
from torch._dynamo.exc import Unsupported, UserError
from torch._dynamo.testing import CompileCounter
from torch.utils.checkpoint import checkpoint

import tiny_models
from a4a.backbones import backbone_for
from a4a.injection import Injection, attach, is_attached
from injecting import features, injected, run


@pytest.fixture
def backbone(pipe):
    yield backbone_for(pipe)
    assert not is_attached(backbone_for(pipe).denoiser), "a test left features attached"


@pytest.fixture
def own(pipe):
    """A backbone whose denoiser the test may change."""
    return backbone_for(tiny_models.with_own_denoiser(pipe))


def test_without_features_at_scale_zero_cleared_and_detached_the_model_is_the_plain_one(backbone):
    plain, classes = run(backbone), [type(m) for m in backbone.denoiser.modules()]
    injection = Injection(backbone.denoiser, backbone.sites)
    assert torch.equal(run(backbone), plain)
    injection.set(features(backbone), 0.0)
    assert torch.equal(run(backbone), plain)
    injection.set(features(backbone))
    assert not torch.allclose(run(backbone), plain, atol=1e-3)
    injection.clear()
    assert torch.equal(run(backbone), plain)
    injection.detach()
    injection.detach()
    assert torch.equal(run(backbone), plain)
    assert [type(m) for m in backbone.denoiser.modules()] == classes
    assert not any("_injection" in m.__dict__ for m in backbone.denoiser.modules())


def row(value, i):
    return value[i : i + 1]


def test_references_in_a_batch_are_never_mixed(backbone):
    noisy, timesteps, text = tiny_models.inputs(backbone, 3)
    given = features(backbone, 3)
    with attach(backbone.denoiser, backbone.sites, given):
        together = backbone.predict(noisy, timesteps, text)
    for i in range(3):
        with attach(backbone.denoiser, backbone.sites, given[i : i + 1]):
            alone = backbone.predict(row(noisy, i), row(timesteps, i), {name: row(t, i) for name, t in text.items()})
        torch.testing.assert_close(row(together, i), alone, atol=1e-5, rtol=1e-4)


LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "to_qkv_mlp_proj"]


def add_lora(denoiser):
    torch.manual_seed(5)
    config = peft.LoraConfig(r=2, init_lora_weights=False, target_modules=LORA_TARGETS)
    if hasattr(denoiser, "add_adapter"):
        denoiser.add_adapter(config)
    else:
        peft.inject_adapter_in_model(config, denoiser)


def merged(denoiser):
    """The same model with the LoRA folded into plain linear layers."""
    for module in denoiser.modules():
        for name, child in module.named_children():
            if isinstance(child, peft.tuners.lora.Linear):
                child.merge()
                setattr(module, name, child.get_base_layer())
    return denoiser


def test_a_lora_takes_effect_added_while_attached_or_before(pipe, own):
    given, plain = features(own), injected(own, features(own))
    with attach(own.denoiser, own.sites, given):
        add_lora(own.denoiser)
        during = run(own)
    before = injected(own, given)
    reference = backbone_for(tiny_models.with_own_denoiser(pipe))
    add_lora(reference.denoiser)
    merged(reference.denoiser)
    expected = injected(reference, given)
    assert not torch.allclose(during, plain, atol=1e-2)
    assert torch.equal(during, before)
    torch.testing.assert_close(during, expected, atol=1e-4, rtol=1e-4)


BREAKS = (Unsupported, UserError)
"""What a compiled model raises that is not one graph; the second where numbers in a tensor decide what follows."""


def compiled(backbone, injection, given, fullgraph):
    """Predictions with each of the features by the compiled denoiser, and after each how many graphs there are."""
    torch._dynamo.reset()
    counter, eager, inputs = CompileCounter(), backbone.denoiser.forward, tiny_models.inputs(backbone)
    backbone.denoiser.forward = torch.compile(eager, backend=counter, fullgraph=fullgraph)
    found, graphs = [], []
    try:
        for f in given:
            if f is not None:
                injection.set(f)
            found.append(backbone.predict(*inputs))
            graphs.append(counter.frame_count)
    finally:
        del backbone.denoiser.forward
        torch._dynamo.reset()
    return found, graphs


@torch.no_grad()
def test_a_compiled_denoiser_is_one_graph_that_new_features_do_not_recompile(own):
    given = [features(own, seed=1), features(own, seed=2)]
    expected = [injected(own, f) for f in given]
    with Injection(own.denoiser, own.sites) as injection:
        try:
            found, graphs = compiled(own, injection, given, fullgraph=True)
            assert graphs == [1, 1]
        except BREAKS:  # then the plain model must break its graph, too
            found, graphs = compiled(own, injection, given, fullgraph=False)
            assert graphs[0] == graphs[1]
            injection.detach()
            with pytest.raises(BREAKS):
                compiled(own, injection, [None], fullgraph=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_half_precision_runs_and_stays_close(own):
    given = features(own)
    exact = injected(own, given)
    own.denoiser.to(torch.bfloat16)
    noisy, timesteps, text = tiny_models.inputs(own)
    with attach(own.denoiser, own.sites, given):
        half = own.predict(noisy.bfloat16(), timesteps, text)
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).abs().max() < 0.1 * exact.abs().max()


def gradients(backbone, recompute=None):
    """Gradients of every key and value of two forward passes, whose backward passes follow in turn."""
    given = [features(backbone, seed=s).map(lambda t: t.requires_grad_()) for s in (1, 2)]
    if recompute is not None:
        backbone.denoiser.enable_gradient_checkpointing(gradient_checkpointing_func=recompute)
    losses = []
    with Injection(backbone.denoiser, backbone.sites) as injection:
        for seed, f in enumerate(given):
            injection.set(f)
            losses.append(run(backbone, seed=seed).square().mean())
        injection.clear()
        for loss in losses:
            loss.backward()
    return [t.grad for f in given for t in f.keys + f.values]


def test_gradients_reach_every_key_and_value_under_gradient_checkpointing_too(own):
    own.denoiser.train()  # gradient checkpointing is for training alone; these models have no dropout
    plain = gradients(own)
    assert all(g is not None and g.abs().max() > 0 for g in plain)
    if not own.denoiser._supports_gradient_checkpointing:
        return
    recomputed = []

    def recompute(block, *args):
        recomputed.append(block)
        return checkpoint(block, *args, use_reentrant=False)

    found = gradients(own, recompute)
    assert recomputed
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-5)

"""What holds for every image-prompt adapter; a new kind needs a line in `MAKERS` and nothing else."""

import importlib
import pkgutil

import pytest
import torch

import a4a.adapters
import tiny_models
from a4a.adapters.a4a import A4A
from a4a.adapters.base import ImagePromptAdapter
from a4a.adapters.ip_adapter import IPAdapter
from a4a.adapters.multi_source import MultiSourceA4A
from a4a.backbones import backbone_for
from a4a.features import SiteFeatures
from a4a.injection import attach
from a4a.training.denoising import LearningRates

MAKERS = {
    IPAdapter: lambda pipe, base: tiny_models.ip_adapter(pipe),
    MultiSourceA4A: lambda pipe, base: tiny_models.two_sources(pipe, base).select("pooled"),
    A4A: lambda pipe, base: tiny_models.shaken(tiny_models.a4a(tiny_models.ip_adapter(base), pipe), 0.1),
}


def kinds():
    for module in pkgutil.iter_modules(a4a.adapters.__path__):
        importlib.import_module(f"a4a.adapters.{module.name}")
    found, waiting = [], [ImagePromptAdapter]
    while waiting:
        children = waiting.pop().__subclasses__()
        found += children
        waiting += children
    return sorted((k for k in found if k.__module__.startswith("a4a.")), key=lambda k: k.__name__)


def same(a, b):
    return all(map(torch.equal, a.keys + a.values, b.keys + b.values))


@pytest.fixture(params=kinds(), ids=lambda k: k.__name__)
def adapter(request, pipe, sd15):
    assert request.param in MAKERS, (
        f"tests/contracts/test_adapters.py does not know how to make a {request.param.__name__}"
    )
    return MAKERS[request.param](pipe, sd15).requires_grad_(True).eval()


def test_features_fit_the_sites(adapter, pipe):
    backbone = backbone_for(pipe)
    assert adapter.sites == backbone.sites
    features = adapter(tiny_models.embeds(3))
    assert isinstance(features, SiteFeatures)
    features.check(adapter.sites, "its own sites")
    assert (features.batch, features.tokens) == (3, adapter.tokens)
    assert all(t.isfinite().all() for t in features.keys + features.values)


def test_rows_of_a_batch_do_not_affect_each_other(adapter):
    embeds = tiny_models.embeds(3)
    whole = adapter(embeds)
    for i in range(3):
        alone = adapter(embeds[i : i + 1])
        for a, b in zip(alone.keys + alone.values, whole.keys + whole.values, strict=True):
            torch.testing.assert_close(a[0], b[i], atol=1e-4, rtol=1e-4)


def test_references_make_a_difference_at_every_site(adapter):
    features = adapter(tiny_models.embeds(2))
    assert all((t[0] - t[1]).abs().max() > 1e-4 for t in features.keys + features.values)


def test_the_unconditional_embedding_does_not_depend_on_the_image(adapter):
    nothing = adapter.unconditional(tiny_models.embeds(3))
    assert nothing.shape == (3, adapter.image_embed_dim)
    assert torch.equal(nothing, adapter.unconditional(tiny_models.embeds(3, seed=1)))
    assert not same(adapter(nothing[:1]), adapter(tiny_models.embeds(1)))


def test_a_saved_adapter_loads_with_the_same_features(adapter, tmp_path):
    adapter.save_pretrained(tmp_path)
    again = type(adapter).from_pretrained(tmp_path).eval()
    assert same(again(tiny_models.embeds(2)), adapter(tiny_models.embeds(2)))
    assert (again.sites, again.tokens, again.image_embed_dim, again.image_encoder) == (
        adapter.sites,
        adapter.tokens,
        adapter.image_embed_dim,
        adapter.image_encoder,
    )


def test_every_parameter_has_a_learning_rate_group_and_gets_a_gradient(adapter, pipe):
    groups = adapter.parameter_groups()
    assert all(hasattr(LearningRates(), name) for name in groups)
    grouped = [p for group in groups.values() for p in group]
    assert sorted(map(id, grouped)) == sorted(map(id, adapter.parameters()))
    backbone = backbone_for(pipe)
    with attach(backbone.denoiser, backbone.sites, adapter(tiny_models.embeds(2))):
        backbone.predict(*tiny_models.inputs(backbone, 2)).square().mean().backward()
    without = [
        name
        for name, p in adapter.named_parameters()
        if p.grad is None or not p.grad.abs().max() > 0 or not p.grad.isfinite().all()
    ]
    assert without == []


def test_half_precision_runs(adapter):
    features = adapter.to(torch.bfloat16)(tiny_models.embeds(2).bfloat16())
    assert {t.dtype for t in features.keys + features.values} == {adapter.dtype}
    assert all(t.isfinite().all() for t in features.keys + features.values)

"""The published sizes, on the meta device: shapes and counts without weights."""

import pytest
import torch
from diffusers import PixArtTransformer2DModel, UNet2DConditionModel

from a4a.adapters.a4a import A4A
from a4a.adapters.base import sites_to_config
from a4a.adapters.ip_adapter import IPAdapter
from a4a.backbones.pixart import PIXART, PixArt
from a4a.backbones.unet import SD15, SDXL, UNet

FOUND = {  # model: sites by width, and millions of parameters of the denoiser
    "sd15": (UNet, UNet2DConditionModel, SD15, {320: 5, 640: 5, 1280: 6}, 859.5),
    "sdxl": (UNet, UNet2DConditionModel, SDXL, {640: 10, 1280: 60}, 2567.5),
    "pixart": (PixArt, PixArtTransformer2DModel, PIXART, {1152: 28}, 611.3),
}


@pytest.fixture(scope="module")
def denoisers():
    with torch.device("meta"):
        return {name: model(**config) for name, (_, model, config, _, _) in FOUND.items()}


@pytest.fixture(scope="module")
def source(denoisers):
    with torch.device("meta"):
        return IPAdapter(sites_to_config(UNet.find_sites(denoisers["sd15"])), 1024, 768, 4)


def count(modules):
    return sum(p.numel() for m in modules for p in m.parameters())


def transfer(source, sites, **options):
    with torch.device("meta"):
        return A4A(dict(source.config), sites_to_config(sites), **options)


@pytest.mark.parametrize("model", FOUND)
def test_published_denoisers_have_these_sites(denoisers, model):
    backbone, _, _, widths, millions = FOUND[model]
    sites = backbone.find_sites(denoisers[model])
    assert {w: sum(s.width == w for s in sites) for w in widths} == widths
    assert len(sites) == sum(widths.values())
    assert count([denoisers[model]]) / 1e6 == pytest.approx(millions, abs=0.1)


def test_the_published_ip_adapter_has_22_million_parameters(source):
    assert count([source]) == 22_319_616


@pytest.mark.parametrize("sharing", ["width", "site"])
@pytest.mark.parametrize("model", ["sdxl", "pixart"])
def test_features_of_every_upgraded_site(denoisers, source, model, sharing):
    sites = FOUND[model][0].find_sites(denoisers[model])
    adapter = transfer(source, sites, sharing=sharing)
    features = adapter(torch.empty(2, 1024, device="meta"))
    features.check(sites, model)
    assert (features.batch, features.tokens) == (2, 4)
    for mapping in adapter.mapping.mappings:
        assert mapping.latents.shape == (len(sites), 4, 1280)  # d_scm: the least common multiple of 320, 640 and 1280
        assert mapping.mixture.shape == (len(sites), 16)


def parts(adapter):
    chains = (adapter.mapping.keys, adapter.mapping.values)
    return count(c[0] for c in chains), count(c[2] for c in chains)


@pytest.mark.parametrize(
    ("model", "sharing", "projection", "alignment"),
    [
        ("sdxl", "width", 2_871_040, 2_459_520),
        ("sdxl", "site", 15_994_880, 106_579_200),
        ("pixart", "width", 2_871_040, 1_475_712),
        ("pixart", "site", 15_994_880, 41_319_936),
    ],
)
def test_projection_and_alignment_have_the_papers_sizes(denoisers, source, model, sharing, projection, alignment):
    """The paper says that both are of similar size: 2.9M and 2.5M for one chain (keys, or values) with a layer per width.

    A layer per site would be 16M and 106M. Keys and values together have twice as many.
    """
    adapter = transfer(source, FOUND[model][0].find_sites(denoisers[model]), sharing=sharing)
    assert parts(adapter) == (2 * projection, 2 * alignment)


def test_fresh_ip_adapters_of_the_upgraded_models(denoisers):
    for model in ("sdxl", "pixart"):
        backbone, _, config, widths, _ = FOUND[model]
        sites = backbone.find_sites(denoisers[model])
        modules = [denoisers[model].get_submodule(s.name) for s in sites]
        with torch.device("meta"):
            adapter = IPAdapter.from_denoiser(sites, ([m.to_k for m in modules], [m.to_v for m in modules]), 1024)
        adapter(torch.empty(1, 1024, device="meta")).check(sites, model)
        weights = 2 * config["cross_attention_dim"] * sum(w * n for w, n in widths.items())
        assert count([adapter.to_k, adapter.to_v]) == weights

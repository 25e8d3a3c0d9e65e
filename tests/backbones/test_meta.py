"""The published sizes, on the meta device: shapes and counts without weights."""

import json
from collections import Counter

import pytest
import torch

import support
import tiny_models
from a4a.adapters.a4a import A4A
from a4a.adapters.base import adapter_to_config, sites_to_config
from a4a.adapters.ip_adapter import IPAdapter
from a4a.adapters.meta import load_meta_adapter
from a4a.adapters.published import SOURCES
from a4a.backbones import backbone_for, load_pipeline
from a4a.backbones.meta import load_meta_model, published_models
from a4a.cli.main import main

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
PIXART = "PixArt-alpha/PixArt-XL-2-1024-MS"


@pytest.fixture(scope="module")
def backbones():
    return {name: load_meta_model(name).backbone for name in published_models()}


@pytest.fixture(scope="module")
def source(backbones):
    with torch.device("meta"):
        return IPAdapter(sites_to_config(backbones[SD15].sites), next(iter(SOURCES.values())).projection)


def count(modules):
    return sum(p.numel() for m in modules for p in m.parameters())


def transfer(source, sites, **options):
    with torch.device("meta"):
        return A4A(adapter_to_config(source), sites_to_config(sites), **options)


@pytest.mark.parametrize("model", sorted(published_models()))
def test_published_denoisers_have_the_expected_sites_and_sizes(backbones, model):
    widths, millions = tiny_models.PUBLISHED[model]
    assert dict(Counter(site.width for site in backbones[model].sites)) == widths
    assert count([backbones[model].denoiser]) / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize("model", sorted(published_models()))
def test_a_published_model_predicts_on_shapes_alone(backbones, model):
    backbone = backbones[model]
    side = backbone.latent_size(512)
    noisy = torch.empty(1, backbone.latent_channels, side, side, device="meta")
    text = {
        name: torch.empty(1, *shape, dtype=dtype or torch.float32, device="meta")
        for name, (shape, dtype) in backbone.text_shapes().items()
    }
    assert backbone.predict(noisy, torch.ones(1, device="meta"), text).shape == noisy.shape


def test_one_of_the_two_stable_diffusions_2_predicts_velocity(backbones):
    kinds = {
        name: type(backbones[f"stabilityai/stable-diffusion-2-1{name}"].prediction).__name__ for name in ("", "-base")
    }
    assert kinds == {"": "VelocityPrediction", "-base": "NoisePrediction"}


def test_a_saved_pipeline_is_read_by_its_configuration_alone(pipe, tmp_path):
    pipe.save_config(tmp_path)
    for name, part in pipe.components.items():
        if hasattr(part, "save_config"):
            part.save_config(tmp_path / name)
        elif name.startswith("text_encoder"):
            part.config.save_pretrained(tmp_path / name)
    read, real = load_meta_model(tmp_path), backbone_for(pipe)
    found = read.backbone
    assert found.denoiser.device.type == found.device.type == "meta"
    assert (
        found.sites,
        found.vae_scale_factor,
        found.latent_channels,
        found.latent_size(),
        type(found.prediction),
    ) == (
        real.sites,
        real.vae_scale_factor,
        real.latent_channels,
        real.latent_size(),
        type(real.prediction),
    )
    assert read.encoders == {name: count([part]) for name, part in real.encoders.items()}


def test_a_denoiser_of_the_class_by_which_pixart_was_published_is_the_same_model(pixart, tmp_path, capsys):
    """Diffusers has since split Transformer2DModel, whose name stands in the published files."""
    pixart.save_pretrained(tmp_path)
    for file in (tmp_path / "model_index.json", tmp_path / "transformer" / "config.json"):
        file.write_text(file.read_text().replace("PixArtTransformer2DModel", "Transformer2DModel"))
    config = tmp_path / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "norm_type": "ada_norm_single"}))
    sites = backbone_for(pixart).sites
    assert load_meta_model(tmp_path).backbone.sites == sites
    assert all(backbone_for(load_pipeline(tmp_path, parts=p)).sites == sites for p in ("all", "encoders", "denoiser"))
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert "PixArtTransformer2DModel" in facts["kind"] and facts["layers"] == [[s.name, s.width] for s in sites]


@pytest.mark.parametrize("parts", ["encoders", "denoiser"])
def test_a_part_of_a_pipeline_is_loaded_for_encoding_or_for_training(pipe, tmp_path, parts):
    pipe.save_pretrained(tmp_path)
    found, real = backbone_for(load_pipeline(tmp_path, parts=parts)), backbone_for(pipe)
    assert found.sites == real.sites
    if parts == "encoders":
        assert next(found.denoiser.parameters()).device.type == "meta"
        encoded = found.encode_text(["a cat"])
        assert all(torch.equal(t, encoded[name]) for name, t in real.encode_text(["a cat"]).items())
    else:
        assert not found.encoders
        noisy, timesteps, text = tiny_models.inputs(real)
        assert torch.equal(found.predict(noisy, timesteps, text), real.predict(noisy, timesteps, text))


SIZES = {"ip-adapter_sd15": 44_642_768, "ip-adapter-plus_sd15": 98_183_288, "ip-adapter_sdxl": 702_585_376}
"""Bytes of published files in half precision, as the hub lists them: weights, and a header of some kilobytes."""


@pytest.mark.parametrize("name", [f"{name}{suffix}" for name in SIZES for suffix in (".safetensors", ".bin")])
def test_published_adapters_have_the_size_of_their_files(name):
    path = f"h94/IP-Adapter/{'sdxl_models' if 'sdxl' in name else 'models'}/{name}"
    adapter = load_meta_adapter(path)
    assert 2 * count([adapter]) == pytest.approx(SIZES[name.rpartition(".")[0]], abs=20_000)
    assert adapter.device.type == "meta"


@pytest.mark.parametrize("sharing", ["width", "site"])
@pytest.mark.parametrize("model", [SDXL, PIXART])
def test_a_transfer_makes_features_for_every_site_of_a_published_model(backbones, source, model, sharing):
    sites = backbones[model].sites
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
        (SDXL, "width", 2_871_040, 2_459_520),
        (SDXL, "site", 15_994_880, 106_579_200),
        (PIXART, "width", 2_871_040, 1_475_712),
        (PIXART, "site", 15_994_880, 41_319_936),
    ],
)
def test_projection_and_alignment_have_the_papers_sizes(backbones, source, model, sharing, projection, alignment):
    """The paper says that both are of similar size: 2.9M and 2.5M in one chain (keys, or values), a layer per width.

    A layer per site would be 16M and 106M. Keys and values together have twice as many.
    """
    adapter = transfer(source, backbones[model].sites, sharing=sharing)
    assert parts(adapter) == (2 * projection, 2 * alignment)


@pytest.mark.parametrize("model", sorted(published_models()))
def test_untrained_ip_adapters_fit_the_published_models(backbones, model):
    sites, (keys, values) = backbones[model].sites, backbones[model].text_projections()
    with torch.device("meta"):
        adapter = IPAdapter.from_denoiser(sites, (keys, values), {"image_embed_dim": 1024})
    adapter(torch.empty(1, 1024, device="meta")).check(sites, model)
    assert count([adapter.to_k, adapter.to_v]) == 2 * keys[0].in_features * sum(site.width for site in sites)


def test_the_table_of_models_and_adapters_is_up_to_date(backbones):
    assert support.DOCUMENT.read_text() == support.document(backbones), "run python benchmarks/support.py"

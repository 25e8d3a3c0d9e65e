"""The table of sites, on the published models' sizes and on models that an adapter is not for."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel

import fake_comfyui
from a4a.backbones import backbone_for
from a4a.backbones.unet import SD15, SDXL, UNet
from a4a.errors import InputError
from comfyui.sites import find_sites, sites_of

BLOCKS = {
    "SD1.5": (
        SD15,
        {"input": dict.fromkeys((1, 2, 4, 5, 7, 8), 1), "output": dict.fromkeys(range(3, 12), 1), "middle": {0: 1}},
    ),
    "SDXL": (
        {**SDXL, "transformer_layers_per_block": (1, 2, 3)},  # 10 in the deepest block would take longer to build
        {"input": {4: 2, 5: 2, 7: 3, 8: 3}, "output": {0: 3, 1: 3, 2: 3, 3: 2, 4: 2, 5: 2}, "middle": {0: 3}},
    ),
}
"""ComfyUI's blocks with cross-attention, and how many of them each has; in the order of published adapters."""


@pytest.mark.parametrize(("config", "blocks"), BLOCKS.values(), ids=BLOCKS)
def test_sites_of_the_published_u_nets_are_in_the_order_of_published_adapters(config, blocks):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    sites = UNet.find_sites(unet)
    denoiser = fake_comfyui.UNet(SimpleNamespace(denoiser=unet))
    family, found = sites_of(sites, denoiser)
    assert family == "unet"
    assert [f.site for f in found] == list(sites)
    expected = [(k, b, i) for k, numbers in blocks.items() for b, count in numbers.items() for i in range(count)]
    assert [f.block for f in found] == expected
    numbered = [replace(site, name=str(2 * i + 1)) for i, site in enumerate(sites)]
    assert sites_of(numbered, denoiser) == (family, found)


def test_an_adapter_for_another_model_is_an_error(sd15, sdxl, flux):
    for pipe, other in ((sd15, sdxl), (flux, sd15)):
        denoiser = fake_comfyui.load_model(pipe).get_model_object("diffusion_model")
        with pytest.raises(InputError, match="The features are not for the model"):
            sites_of(backbone_for(other).sites, denoiser)


def test_flux_takes_adapters_for_its_double_blocks_and_for_all(flux):
    denoiser = fake_comfyui.load_model(flux).get_model_object("diffusion_model")
    backbone = backbone_for(flux)
    for choice, blocks in (("double", ["double"] * 3), ("all", ["double"] * 3 + ["single"] * 2)):
        backbone.choose_sites(choice)
        assert [f.block[0] for f in sites_of(backbone.sites, denoiser)[1]] == blocks


def test_a_denoiser_without_known_attention_is_an_error():
    with pytest.raises(InputError, match="Linear has no attention modules that are known here"):
        find_sites(torch.nn.Linear(1, 1))

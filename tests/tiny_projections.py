"""The table of source families that the contract suite runs: a new family needs a line here and nothing else."""

import torch

import tiny_encoders
import tiny_models
from a4a.adapters.base import sites_to_config
from a4a.adapters.ip_adapter import IPAdapter
from a4a.adapters.projections import projection_families
from a4a.backbones import backbone_for
from a4a.encoders import CLIPImageEncoder

PROJECTIONS = {
    "base": {},
    "plus": {"width": 16, "heads": 1},
}
"""Arguments of the projection besides widths and tokens, as small as diffusers can still load it."""
PATCHES, HIDDEN = 17, 32
"""Tokens of the tiny CLIP, and their width; its pooled embedding is as wide as those of `tiny_models`."""


def config(family, text_width=tiny_models.TEXT):
    pooled = projection_families()[family].encoder_output == "pooled"
    sizes = {"image_embed_dim": tiny_models.EMBED if pooled else HIDDEN, "text_width": text_width, "tokens": 4}
    return {"family": family, **sizes, **PROJECTIONS[family]}


def ip_adapter(pipe, family, seed=0):
    """An adapter for the sites of a pipeline, with features large enough to matter."""
    torch.manual_seed(seed)
    backbone = backbone_for(pipe)
    text_width = backbone.text_projections()[0][0].in_features
    adapter = IPAdapter(sites_to_config(backbone.sites), config(family, text_width))
    return tiny_models.shaken(adapter).requires_grad_(False).eval()


def embeds(family, rows=1, seed=0):
    pooled = projection_families()[family].encoder_output == "pooled"
    shape = (tiny_models.EMBED,) if pooled else (PATCHES, HIDDEN)
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(seed))


def image_encoder(folder):
    return CLIPImageEncoder.from_pretrained(tiny_encoders.clip(folder, whole=False))

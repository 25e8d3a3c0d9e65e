"""Features on the sites of a tiny pipeline, and its prediction with and without them."""

import torch

import tiny_models
from a4a.features import SiteFeatures
from a4a.injection import attach


def features(backbone, rows=1, seed=0, tokens=4):
    generator = torch.Generator().manual_seed(seed)

    def draw():
        return tuple(torch.randn(rows, tokens, s.width, generator=generator) for s in backbone.sites)

    return SiteFeatures(draw(), draw())


def run(backbone, rows=1, seed=0):
    return backbone.predict(*tiny_models.inputs(backbone, rows, seed))


def injected(backbone, *args, rows=1, **kwargs):
    with attach(backbone.denoiser, backbone.sites, *args, **kwargs):
        return run(backbone, rows)

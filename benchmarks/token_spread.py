"""By how much the image tokens of a site differ before training: attention over tokens that are alike cannot choose.

Run `python benchmarks/token_spread.py`. The published shapes of SD1.5's IP-Adapter and of PixArt-alpha's sites, with
random weights in the source and 512 random image embeddings; and the zoo's adapter and PixArt, with their weights.
Printed: the root mean square of tokens minus their mean over a site's tokens, by that of the tokens, keys and values.
"""

import torch
from diffusers import PixArtTransformer2DModel

from a4a import A4A, load_adapter
from a4a.adapters.base import sites_to_config
from a4a.adapters.ip_adapter import IPAdapter
from a4a.adapters.published import SOURCES
from a4a.backbones import backbone_for, load_pipeline
from a4a.backbones.pixart import PIXART, PixArt
from a4a.features import Site, SiteFeatures

LETTER = {"sharing": "width", "residual": False, "warm_start": False, "rounds": 2}


def spread(features: SiteFeatures) -> float:
    """The mean over sites, keys and values."""
    shares = [
        (tokens - tokens.mean(dim=1, keepdim=True)).square().mean().sqrt() / tokens.square().mean().sqrt()
        for tokens in (*features.keys, *features.values)
    ]
    return float(torch.stack(shares).mean())


def published() -> tuple[IPAdapter, tuple[Site, ...]]:
    known = SOURCES["h94/IP-Adapter/models/ip-adapter_sd15.safetensors"]
    count = len(known.widths)
    sites = [Site(str(2 * i + 1), width, i / (count - 1)) for i, width in enumerate(known.widths)]
    with torch.device("meta"):
        pixart = PixArt.find_sites(PixArtTransformer2DModel(**PIXART))
    return IPAdapter(sites_to_config(sites), known.projection), pixart


def miniature() -> tuple[IPAdapter, tuple[Site, ...]]:
    source = load_adapter("zoo:ip-adapter-sd15-mini")
    assert isinstance(source, IPAdapter)
    return source, backbone_for(load_pipeline("zoo:pixart-mini")).sites


@torch.no_grad()
def main() -> None:
    for name, make in (("published shapes", published), ("zoo", miniature)):
        torch.manual_seed(0)
        source, sites = make()
        embeds = torch.randn(512, source.image_embed_dim)
        letter, ours = A4A.from_source(source, sites, **LETTER), A4A.from_source(source, sites, rounds=2)
        ours.init_projection(embeds)
        figures = {kind: spread(adapter.eval()(embeds[:16])) for kind, adapter in (("letter", letter), ("ours", ours))}
        print(f"{name:18}" + "".join(f"  {kind} {figure:.2f}" for kind, figure in figures.items()))


if __name__ == "__main__":
    main()

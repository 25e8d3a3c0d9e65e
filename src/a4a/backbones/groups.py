"""Named groups of sites, so that an image prompt can act in a part of the denoiser.

| group | sites |
|---|---|
| all | all |
| early, middle, late | a third each, in the order in which they run |
| down, mid, up | the blocks of a U-Net |
| layout, style | the blocks that carry composition and style in SDXL (InstantStyle, arXiv 2404.02733) |

InstantStyle found `down_blocks.2.attentions.1` (layout) and `up_blocks.0.attentions.1` (style) in SDXL. Other U-Nets have
them at the same places: the last attention of the deepest block on the way down, the second one on the way up. In
transformers they are the sites at the same depths in the order of execution, an analogy that nobody has measured.
"""

from collections.abc import Sequence

from a4a.features import Site

LAYOUT_DEPTHS, STYLE_DEPTHS = (0.2, 0.34), (0.63, 0.77)
"""Where SDXL's two blocks begin and end."""


def site_groups(sites: Sequence[Site]) -> dict[str, list[int]]:
    """The indices of the sites of each group that the denoiser has."""
    groups = {
        "all": list(range(len(sites))),
        "early": _between(sites, 0, 1 / 3),
        "middle": _between(sites, 1 / 3, 2 / 3),
        "late": _between(sites, 2 / 3, 1.01),
    }
    if any(site.name.startswith("up_blocks.") for site in sites):
        return groups | _unet_groups(sites)
    layout, style = (_between(sites, *depths) or [_nearest(sites, depths)] for depths in (LAYOUT_DEPTHS, STYLE_DEPTHS))
    return groups | {"layout": layout, "style": style}


def _unet_groups(sites: Sequence[Site]) -> dict[str, list[int]]:
    parts = {"down": "down_blocks.", "mid": "mid_block.", "up": "up_blocks."}
    groups = {name: under(sites, prefix) for name, prefix in parts.items()}
    last_down = max((sites[i] for i in groups["down"]), key=lambda site: site.depth)
    first_up = min((sites[i] for i in groups["up"]), key=lambda site: site.depth)
    layout = last_down.name.partition(".transformer_blocks.")[0]
    style = first_up.name.partition(".attentions.")[0] + ".attentions.1"
    return groups | {"layout": under(sites, layout + "."), "style": under(sites, style + ".")}


def under(sites: Sequence[Site], prefix: str) -> list[int]:
    """The sites whose names start with `prefix`."""
    return [i for i, site in enumerate(sites) if site.name.startswith(prefix)]


def _between(sites: Sequence[Site], low: float, high: float) -> list[int]:
    return [i for i, site in enumerate(sites) if low <= site.depth < high]


def _nearest(sites: Sequence[Site], depths: tuple[float, float]) -> int:
    return min(range(len(sites)), key=lambda i: abs(sites[i].depth - sum(depths) / 2))

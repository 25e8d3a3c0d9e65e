"""Count the parameters of transfers from SD1.5 to the published models, as a Markdown table.

Run `python benchmarks/parameters.py [RANK ...]`. Models are made on the meta device, so nothing is downloaded and no
memory used.
"""

import sys
from typing import cast

import torch

from a4a import A4A
from a4a.adapters.base import ImagePromptAdapter, adapter_to_config, sites_to_config
from a4a.adapters.meta import load_meta_adapter
from a4a.backbones.meta import load_meta_model, published_models
from a4a.utils.modules import parameter_count

SOURCE = "h94/IP-Adapter/models/ip-adapter_sd15.safetensors"
LETTER = {"sharing": "width", "residual": False, "warm_start": False}
RANKS = (192, 64)


def counts(source: ImagePromptAdapter, sites: list, **method) -> list[int]:
    """Parameters of projection, mapping and alignment of a transfer to these sites, keys and values together."""
    with torch.device("meta"):
        mapping = A4A(adapter_to_config(source), sites, **method).mapping
    return [sum(parameter_count(chain[i]) for chain in (mapping.keys, mapping.values)) for i in range(3)]


def millions(count: int) -> str:
    return f"{count / 1e6:.1f}M"


if __name__ == "__main__":
    ranks = [int(rank) for rank in sys.argv[1:]] or RANKS
    source = cast(ImagePromptAdapter, load_meta_adapter(SOURCE))
    print(f"SD1.5 IP-Adapter: {millions(parameter_count(source))}, {len(source.sites)} sites\n")
    header = [
        *("upgraded model", "sites", "mapping, R = 2", "the letter: alignment", "per site: alignment"),
        *(f"rank {rank}" for rank in ranks),
    ]
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for name in sorted(published_models()):
        sites = load_meta_model(name).backbone.sites
        config, widths = sites_to_config(sites), dict.fromkeys(site.width for site in sites)
        shape = " + ".join(f"{sum(s.width == w for s in sites)} x {w}" for w in widths)
        letter, (_, mapping, full) = counts(source, config, **LETTER), counts(source, config)
        low = [counts(source, config, rounds=0, alignment_rank=rank)[2] for rank in ranks]
        cells = [name, shape, *(millions(n) for n in (mapping, letter[2], full, *low))]
        print("| " + " | ".join(cells) + " |")

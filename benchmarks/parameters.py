"""Count the parameters of a transfer from SD1.5 to SDXL and to PixArt-alpha XL at their published sizes.

Run `python benchmarks/parameters.py`. Models are made on the meta device, so nothing is downloaded and no memory used.
"""

import torch
from diffusers import PixArtTransformer2DModel, UNet2DConditionModel

from a4a import A4A
from a4a.adapters.base import adapter_to_config, sites_to_config
from a4a.adapters.meta import load_meta_adapter
from a4a.backbones.pixart import PIXART, PixArt
from a4a.backbones.unet import SDXL, UNet


def upgraded() -> dict:
    """Sites of the two upgraded models of the paper."""
    with torch.device("meta"):
        return {
            "SDXL": UNet.find_sites(UNet2DConditionModel(**SDXL)),
            "PixArt-alpha XL": PixArt.find_sites(PixArtTransformer2DModel(**PIXART)),
        }


SOURCE = "h94/IP-Adapter/models/ip-adapter_sd15.safetensors"


METHODS = {
    "the letter (per width, R = 2)": {"sharing": "width", "residual": False, "warm_start": False, "rounds": 2},
    "default (per site, R = 2)": {"rounds": 2},
    "R = 0, per site": {"rounds": 0},
}

if __name__ == "__main__":
    with torch.device("meta"):
        source = load_meta_adapter(SOURCE)
        print(f"SD1.5 IP-Adapter: {sum(p.numel() for p in source.parameters()) / 1e6:.1f}M, {len(source.sites)} sites")
        for model, sites in upgraded().items():
            for name, method in METHODS.items():
                adapter = A4A(adapter_to_config(source), sites_to_config(sites), **method)
                project, mapping, align = (
                    sum(p.numel() for c in (adapter.mapping.keys, adapter.mapping.values) for p in c[i].parameters())
                    for i in range(3)
                )
                parts = {"projection": project, "mapping": mapping, "alignment": align}
                counts = "  ".join(f"{part} {count / 1e6:7.1f}M" for part, count in parts.items())
                print(f"{model:16} {len(sites)} sites  {name:30} {counts}")

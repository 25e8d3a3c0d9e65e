"""The autoencoder of Stable Diffusion, SDXL and PixArt."""

from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL

from hub_layouts.files import write_json, write_weights

FORMER_NAMES = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
"""Of the attention layers, in files that diffusers wrote before version 0.17."""


def vae(folder: Path, version: str, sample_size: int, files: list[str], former_names=False, **fields: Any) -> None:
    config = {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": version,
        "act_fn": "silu",
        "block_out_channels": [4, 4, 4, 4],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 2,
        "out_channels": 3,
        "sample_size": sample_size,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        **fields,
    }
    write_json(folder / "config.json", config)
    weights = AutoencoderKL.from_config(config).state_dict()
    if former_names:
        weights = {_former(name): t for name, t in weights.items()}
    for file in files:
        write_weights(folder / file, weights)


def _former(name: str) -> str:
    for now, former in FORMER_NAMES.items():
        name = name.replace(now, former)
    return name

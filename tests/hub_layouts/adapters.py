"""h94/IP-Adapter: image encoders without a preprocessor file, adapters in both formats and of both families."""

from pathlib import Path

import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

import tiny_models
from a4a.adapters import formats
from a4a.adapters.base import sites_to_config
from a4a.adapters.ip_adapter import IPAdapter
from a4a.backbones import Backbone
from a4a.backbones.meta import load_meta_model
from hub_layouts.files import position_ids, write_json, write_weights

H94 = "h94/IP-Adapter"
IMAGE_ENCODERS = {"models/image_encoder": (24, 32), "sdxl_models/image_encoder": (20, 40)}
"""Widths of the projected embedding and of each token, of stand-ins for ViT-H and ViT-bigG."""
FILES = {
    "models/ip-adapter_sd15": "base",
    "models/ip-adapter_sd15_light": "base",
    "models/ip-adapter-plus_sd15": "plus",
    "models/ip-adapter-plus-face_sd15": "plus",
    "sdxl_models/ip-adapter_sdxl": "base bigG",
    "sdxl_models/ip-adapter_sdxl_vit-h": "base",
    "sdxl_models/ip-adapter-plus_sdxl_vit-h": "plus",
    "sdxl_models/ip-adapter-plus-face_sdxl_vit-h": "plus",
}


def ip_adapter(folder: Path, sd15: Path, sdxl: Path) -> None:
    """Adapters for the tiny models in `sd15` and `sdxl`."""
    for name, (pooled, tokens) in IMAGE_ENCODERS.items():
        _image_encoder(folder / name, pooled, tokens)
    bases = {"models": load_meta_model(sd15).backbone, "sdxl_models": load_meta_model(sdxl).backbone}
    for name, kind in FILES.items():
        adapter = _adapter(bases[name.partition("/")[0]], kind)
        for suffix in (".safetensors", ".bin"):
            formats.write(adapter, folder / f"{name}{suffix}")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")


def _adapter(base: Backbone, kind: str) -> IPAdapter:
    torch.manual_seed(0)
    text_width = base.denoiser.config.cross_attention_dim
    pooled, tokens = IMAGE_ENCODERS["sdxl_models/image_encoder" if "bigG" in kind else "models/image_encoder"]
    if kind == "plus":
        sizes = {"tokens": 16, "width": 64, "heads": 1, "depth": 4}
        projection = {"family": "plus", "image_embed_dim": tokens, "text_width": text_width, **sizes}
    else:
        projection = {"family": "base", "image_embed_dim": pooled, "text_width": text_width, "tokens": 4}
    return tiny_models.shaken(IPAdapter(sites_to_config(base.sites), projection))


def _image_encoder(folder: Path, pooled: int, width: int) -> None:
    torch.manual_seed(0)
    config = {
        "architectures": ["CLIPVisionModelWithProjection"],
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "hidden_act": "gelu",
        "hidden_size": width,
        "image_size": 224,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 2 * width,
        "layer_norm_eps": 1e-05,
        "model_type": "clip_vision_model",
        "num_attention_heads": 2,
        "num_channels": 3,
        "num_hidden_layers": 2,
        "patch_size": 14,
        "projection_dim": pooled,
        "torch_dtype": "float16",
        "transformers_version": "4.28.0.dev0",
    }
    write_json(folder / "config.json", config)
    model = tiny_models.shaken(CLIPVisionModelWithProjection(CLIPVisionConfig(**config)), 0.1)
    weights = position_ids(model.half().state_dict(), "vision_model.embeddings")
    for file in ("model.safetensors", "pytorch_model.bin"):
        write_weights(folder / file, weights)

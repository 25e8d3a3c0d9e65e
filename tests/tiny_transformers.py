"""Tiny random transformers of diffusers, one for each attention contract and more: a model, its inputs, its sites."""

from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    ChromaTransformer2DModel,
    CogView4Transformer2DModel,
    ErnieImageTransformer2DModel,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    WanTransformer3DModel,
    ZImageTransformer2DModel,
)
from torch import nn

from a4a.features import Site

HEADS, HEAD_WIDTH, TEXT, SIDE = 2, 16, 24, 4
WIDTH, PATCHES, WORDS = HEADS * HEAD_WIDTH, SIDE * SIDE, 5


@dataclass
class Tiny:
    """A transformer and what one call of it takes, for two rows."""

    model: nn.Module
    inputs: dict[str, Any]
    sites: tuple[Site, ...]
    image_rows: int | None = None
    options: dict[str, Any] = field(default_factory=lambda: {"return_dict": False})

    def __call__(self) -> torch.Tensor:
        found = self.model(**self.inputs, **self.options)[0]
        return torch.stack(found) if isinstance(found, list) else found


def tiny(model: nn.Module, inputs: dict[str, Any], sites: dict[str, str], image_rows: int | None = None) -> Tiny:
    """Parameters away from where they begin: gates that start at zero would hide what attention does."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    last = max(len(sites) - 1, 1)
    found = tuple(Site(name, WIDTH, i / last, kind) for i, (name, kind) in enumerate(sites.items()))
    return Tiny(model.eval().requires_grad_(False), inputs, found, image_rows)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def sd3(qk_norm: str | None = "rms_norm") -> Tiny:
    torch.manual_seed(0)
    model = SD3Transformer2DModel(
        sample_size=2 * SIDE,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=TEXT,
        pos_embed_max_size=2 * SIDE,
        qk_norm=qk_norm,
    )
    inputs = {
        "hidden_states": draw(2, 4, 2 * SIDE, 2 * SIDE),
        "encoder_hidden_states": draw(2, WORDS, TEXT),
        "pooled_projections": draw(2, TEXT),
        "timestep": torch.tensor([500, 20]),
    }
    return tiny(model, inputs, {f"transformer_blocks.{i}.attn": "double" for i in range(2)})


def flux_ids(axes: int) -> dict[str, torch.Tensor]:
    image, text = torch.zeros(PATCHES, axes), torch.zeros(WORDS, axes)
    image[:, 1], image[:, 2] = torch.arange(PATCHES) // SIDE, torch.arange(PATCHES) % SIDE
    return {"img_ids": image, "txt_ids": text}


def flux_sites(double: str, single: str) -> dict[str, str]:
    return {"transformer_blocks.0.attn": double} | {f"single_transformer_blocks.{i}.attn": single for i in range(2)}


def flux() -> Tiny:
    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT,
        pooled_projection_dim=TEXT,
        axes_dims_rope=(4, 4, 8),
    )
    inputs = {
        "hidden_states": draw(2, PATCHES, 4),
        "encoder_hidden_states": draw(2, WORDS, TEXT),
        "pooled_projections": draw(2, TEXT),
        "timestep": torch.tensor([0.5, 0.02]),
        **flux_ids(3),
    }
    return tiny(model, inputs, flux_sites("double", "single-last"), PATCHES)


def chroma() -> Tiny:
    torch.manual_seed(0)
    model = ChromaTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=8,
        approximator_hidden_dim=8,
        approximator_layers=1,
    )
    inputs = {
        "hidden_states": draw(2, PATCHES, 4),
        "encoder_hidden_states": draw(2, WORDS, TEXT),
        "timestep": torch.tensor([0.5, 0.02]),
        **flux_ids(3),
    }
    return tiny(model, inputs, flux_sites("double", "single-last"), PATCHES)


def flux2() -> Tiny:
    torch.manual_seed(0)
    model = Flux2Transformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT,
        timestep_guidance_channels=8,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    inputs = {
        "hidden_states": draw(2, PATCHES, 4),
        "encoder_hidden_states": draw(2, WORDS, TEXT),
        "timestep": torch.tensor([0.5, 0.02]),
        **flux_ids(4),
    }
    return tiny(model, inputs, flux_sites("double", "packed"), PATCHES)


def qwen_image() -> Tiny:
    torch.manual_seed(0)
    model = QwenImageTransformer2DModel(
        in_channels=4,
        out_channels=1,
        num_layers=2,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT,
        axes_dims_rope=(4, 4, 8),
    )
    inputs = {
        "hidden_states": draw(2, PATCHES, 4),
        "encoder_hidden_states": draw(2, WORDS, TEXT),
        "encoder_hidden_states_mask": torch.ones(2, WORDS, dtype=torch.bool),
        "timestep": torch.tensor([0.5, 0.02]),
        "img_shapes": [[(1, SIDE, SIDE)]] * 2,
    }
    return tiny(model, inputs, {f"transformer_blocks.{i}.attn": "double" for i in range(2)})


def z_image() -> Tiny:
    """Pads image and text to a multiple of 32 each."""
    torch.manual_seed(0)
    model = ZImageTransformer2DModel(
        in_channels=4,
        dim=WIDTH,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=HEADS,
        n_kv_heads=HEADS,
        cap_feat_dim=TEXT,
        axes_dims=[4, 4, 8],
        axes_lens=[64, 16, 16],
    )
    inputs = {
        "x": list(draw(2, 4, 1, 2 * SIDE, 2 * SIDE)),
        "t": torch.tensor([0.5, 0.02]),
        "cap_feats": list(draw(2, WORDS, TEXT)),
    }
    return tiny(model, inputs, {f"layers.{i}.attention": "single-first" for i in range(2)}, 32)


def ernie_image() -> Tiny:
    torch.manual_seed(0)
    model = ErnieImageTransformer2DModel(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_layers=2,
        ffn_hidden_size=WIDTH,
        in_channels=4,
        out_channels=4,
        text_in_dim=TEXT,
        rope_axes_dim=(4, 4, 8),
    )
    inputs = {
        "hidden_states": draw(2, 4, SIDE, SIDE),
        "timestep": torch.tensor([500, 20]),
        "text_bth": draw(2, WORDS, TEXT),
        "text_lens": torch.tensor([WORDS, WORDS]),
    }
    return tiny(model, inputs, {f"layers.{i}.self_attention": "single-first" for i in range(2)}, PATCHES)


def cogview4() -> Tiny:
    """Rotates the image's queries in place."""
    torch.manual_seed(0)
    model = CogView4Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=HEADS,
        text_embed_dim=TEXT,
        time_embed_dim=8,
        condition_dim=4,
        sample_size=2 * SIDE,
        rope_axes_dim=(8, 8),
    )
    size = torch.tensor([[64.0, 64.0]] * 2)
    inputs = {
        "hidden_states": draw(2, 4, 2 * SIDE, 2 * SIDE),
        "encoder_hidden_states": draw(2, WORDS, TEXT),
        "timestep": torch.tensor([500, 20]),
        "original_size": size,
        "target_size": size,
        "crop_coords": torch.zeros(2, 2),
    }
    return tiny(model, inputs, {f"transformer_blocks.{i}.attn1": "single-last" for i in range(2)}, PATCHES)


def sana() -> Tiny:
    torch.manual_seed(0)
    model = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=HEADS,
        cross_attention_head_dim=HEAD_WIDTH,
        cross_attention_dim=WIDTH,
        caption_channels=TEXT,
        sample_size=SIDE,
    )
    inputs = {
        "hidden_states": draw(2, 4, SIDE, SIDE),
        "encoder_hidden_states": draw(2, WORDS, TEXT),
        "timestep": torch.tensor([500, 20]),
    }
    return tiny(model, inputs, {f"transformer_blocks.{i}.attn2": "cross" for i in range(2)})


def wan() -> Tiny:
    """Normalises queries and keys over all heads."""
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_WIDTH,
        in_channels=4,
        out_channels=4,
        text_dim=TEXT,
        freq_dim=8,
        ffn_dim=WIDTH,
        num_layers=2,
        rope_max_seq_len=16,
    )
    inputs = {
        "hidden_states": draw(2, 4, 1, 2 * SIDE, 2 * SIDE),
        "encoder_hidden_states": draw(2, WORDS, TEXT),
        "timestep": torch.tensor([500, 20]),
    }
    return tiny(model, inputs, {f"blocks.{i}.attn2": "cross" for i in range(2)})


TRANSFORMERS = {
    "sd3": lambda: sd3(None),
    "sd3.5": sd3,
    "flux": flux,
    "chroma": chroma,
    "flux2": flux2,
    "qwen-image": qwen_image,
    "z-image": z_image,
    "ernie-image": ernie_image,
    "cogview4": cogview4,
    "sana": sana,
    "wan": wan,
}

"""Published models as far as shapes depend on them: what can be planned and tried without a download."""

from dataclasses import dataclass
from typing import Any

SD15 = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
PIXART = {
    "sample_size": 128,
    "num_layers": 28,
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": 8,
    "cross_attention_dim": 1152,
    "caption_channels": 4096,
    "patch_size": 2,
}


@dataclass(frozen=True)
class Published:
    denoiser: str
    """Class of the denoiser, as diffusers calls it."""
    config: dict[str, Any]
    encoders: dict[str, int]
    """Parameters of what encodes the data: text encoders and VAE."""


_CLIP_L, _CLIP_G, _T5_XXL, _VAE = 123_060_480, 694_659_840, 4_762_310_656, 83_653_863
MODELS = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": Published(
        "UNet2DConditionModel", SD15, {"text_encoder": _CLIP_L, "vae": _VAE}
    ),
    "stabilityai/stable-diffusion-xl-base-1.0": Published(
        "UNet2DConditionModel", SDXL, {"text_encoder": _CLIP_L, "text_encoder_2": _CLIP_G, "vae": _VAE}
    ),
    "PixArt-alpha/PixArt-XL-2-1024-MS": Published(
        "PixArtTransformer2DModel", PIXART, {"text_encoder": _T5_XXL, "vae": _VAE}
    ),
}

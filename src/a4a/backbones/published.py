"""Published models by their configuration, so that `a4a plan` and tests need no download."""

from dataclasses import dataclass
from typing import Any

Component = tuple[str, dict[str, Any]]
"""Class in diffusers and configuration, as far as it differs from the class's defaults."""


@dataclass(frozen=True)
class PublishedModel:
    """A pipeline by its configuration alone, as far as shapes and the noise schedule depend on it."""

    pipeline: str
    """Class of the pipeline in diffusers."""
    components: dict[str, Component]
    """Denoiser, VAE and scheduler, by their names in the pipeline."""
    text_encoders: dict[str, int]
    """Parameters of the text encoders, by their names in the pipeline."""


CLIP_L, CLIP_G, T5_XXL = 123_060_480, 694_659_840, 4_762_310_656
GEMMA2_2B, QWEN3_4B = 2_614_341_888, 4_022_468_096
"""Parameters of text encoders that many models share: text sides of CLIP ViT-L/14 and OpenCLIP
ViT-bigG/14, encoder of T5-XXL, two language models."""

KL_VAE: Component = (
    "AutoencoderKL",
    {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
    },
)
"""The VAE of Stable Diffusion, SDXL and PixArt: eight pixels per latent."""

FLUX_VAE: Component = (
    KL_VAE[0],
    {
        **KL_VAE[1],
        "latent_channels": 16,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
)
"""The VAE of FLUX.1, which others took over."""

STABLE_DIFFUSION_NOISE: Component = (
    "DDIMScheduler",
    {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1},
)
"""The noise schedule of Stable Diffusion and SDXL."""

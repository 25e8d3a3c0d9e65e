"""Count what a sample of X-Adapter's training costs at the published sizes of SD1.5 and SDXL.

Run `python benchmarks/x_adapter_cost.py`. Models are made on the meta device, so nothing is downloaded and no memory used.
The base model runs forward; the upgraded model forward and backward to its inputs, its blocks computed again where
gradients are checkpointed; the mapper forward and backward.
"""

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from a4a.backbones.unet import SD15, SDXL
from a4a.baselines.x_adapter import XAdapter, add_residuals, record_features
from a4a.transfer.compute import A100_TFLOPS, gpu_hours

STEP, SAMPLES = 500, 240_000  # any time step; the samples of the paper's transfer to PixArt


def flops_per_sample(checkpointing: bool) -> int:
    """Floating-point operations of one sample: SD1.5 at 512 pixels, SDXL at 1024."""
    with torch.device("meta"):
        base, upgraded = (UNet2DConditionModel(**c).requires_grad_(False) for c in (SD15, SDXL))
        mapper = XAdapter.between(base, upgraded)
        small, large = torch.randn(1, 4, 64, 64), torch.randn(1, 4, 128, 128)
        text, large_text = torch.randn(1, 77, 768), torch.randn(1, 77, 2048)
        conditions = {"text_embeds": torch.randn(1, 1280), "time_ids": torch.ones(1, 6)}
    if checkpointing:
        upgraded.train().enable_gradient_checkpointing()
    with FlopCounterMode(display=False) as counter:
        with torch.no_grad(), record_features(base) as steps:
            base(small, STEP, encoder_hidden_states=text)
        with add_residuals(upgraded, mapper, steps):
            output: Tensor = upgraded(
                large, STEP, encoder_hidden_states=large_text, added_cond_kwargs=conditions
            ).sample
        output.square().mean().backward()
    return counter.get_total_flops()


if __name__ == "__main__":
    with torch.device("meta"):
        mapper = XAdapter.between(UNet2DConditionModel(**SD15), UNet2DConditionModel(**SDXL))
    print(f"mapper: {sum(p.numel() for p in mapper.parameters()) / 1e6:.1f}M parameters")
    for checkpointing in (False, True):
        flops = flops_per_sample(checkpointing)
        print(
            f"{'with' if checkpointing else 'without'} gradient checkpointing: {flops / 1e12:.1f} TFLOP a sample, "
            f"{gpu_hours(flops, SAMPLES):.1f} hours of an A100 for {SAMPLES:,} samples (at {A100_TFLOPS:.0f} TFLOP/s)"
        )

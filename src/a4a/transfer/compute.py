"""Estimate the time of training by counting the floating-point operations of one step on meta tensors."""

from torch.utils.flop_counter import FlopCounterMode

from a4a.adapters.multi_source import MultiSourceA4A
from a4a.transfer.meta import MetaTransfer

A100_TFLOPS = 125.0
"""What training sustains on an A100, as an assumption: 40 % of its bfloat16 peak of 312 TFLOP/s."""


def flops_per_sample(built: MetaTransfer, pixels: int | None = None) -> int:
    """Floating-point operations of the forward and backward pass of one sample, recomputed blocks included.

    Of matrix products, convolutions and attention: what torch counts. Encoding the data is not part of it.
    """
    rows = len(built.adapter.adapters) if isinstance(built.adapter, MultiSourceA4A) else 1
    with built.objective() as loss, FlopCounterMode(display=False) as counter:
        loss(built.random_batch(rows, pixels, "meta")).backward()
        loss.zero_grad(set_to_none=True)
    return counter.get_total_flops() // rows


def gpu_hours(flops: float, samples: int, tflops: float = A100_TFLOPS) -> float:
    """Hours of one GPU that sustains so many TFLOP/s."""
    return flops * samples / (tflops * 1e12) / 3600

"""Frozen linear layers in 8 bits: each row of weights is rounded to int8, and dequantised when the layer runs.

The backward pass dequantises again. Libraries for inference keep the forward pass's 16-bit weights for autograd,
so that a training step would hold every layer in 16 bits after all.
"""

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def to_int8(model: nn.Module, blocks: Collection[str]) -> None:
    """Replaces the linear layers inside all modules whose class is named in `blocks`."""
    for repeated in [m for m in model.modules() if type(m).__name__ in blocks]:
        for parent in list(repeated.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear:
                    setattr(parent, name, Int8Linear(child))


class Int8Linear(nn.Module):
    """x -> x (q s)^T + b, with q [out, in] in int8, and s [out, 1] in the dtype of the layer that it replaces."""

    quantized: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        self.register_buffer("quantized", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale.to(linear.weight.dtype))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    @property
    def weight(self) -> Tensor:
        """The dequantised weights [out, in]."""
        return self.quantized * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return _Int8LinearFunction.apply(x, self.quantized, self.scale, self.bias)  # pyright: ignore[reportReturnType]


class _Int8LinearFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, quantized: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(quantized, scale)
        return F.linear(x, (quantized * scale).to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,), (quantized, scale) = grads, ctx.saved_tensors
        return grad @ (quantized * scale).to(grad.dtype), None, None, None

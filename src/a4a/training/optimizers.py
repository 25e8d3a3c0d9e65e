"""The optimizers a run can use."""

from typing import Any, Literal

import torch

from a4a.errors import InputError

OptimizerName = Literal["adamw", "adamw_8bit"]

STATE_BYTES: dict[OptimizerName, float] = {"adamw": 8, "adamw_8bit": 2.03}
"""Bytes of state per trained parameter: two moments; in 8 bits, with a float32 scale for every 256 values."""


def optimizer_for(
    name: OptimizerName, groups: list[dict[str, Any]], weight_decay: float, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW over parameter groups with their own learning rates; InputError where its library is not installed."""
    if name == "adamw":
        return torch.optim.AdamW(groups, weight_decay=weight_decay, fused=device.type in ("cuda", "cpu"))
    try:
        from torchao.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            "training.optimizer is adamw_8bit but torchao is not installed; "
            "pip install 'a4a[quant]', or set it to adamw."
        ) from error
    return AdamW8bit(groups, weight_decay=weight_decay)

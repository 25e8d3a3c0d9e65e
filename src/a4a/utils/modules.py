"""Small helpers for torch modules: device, parameter counts, the denoiser's name in a pipeline."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

DENOISER_PARTS = ("unet", "transformer")
"""What diffusers' pipelines call their denoiser: an attribute, and a folder of the saved pipeline."""


def default_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def parameter_count(*modules: nn.Module) -> int:
    return sum(p.numel() for m in modules for p in m.parameters())


def meta_parameter_count(make: Callable[[Any], nn.Module], config: Any) -> int:
    """Parameters of the model that `make` makes of `config`, without memory for its weights."""
    with torch.device("meta"):
        return sum(p.numel() for p in make(config).parameters())

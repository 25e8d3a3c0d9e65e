"""Weights of linear layers that are quantised, or otherwise changed, so that an adapter can start from them."""

from typing import Any

import torch
from torch import nn

from a4a.errors import InputError, first_line

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@torch.no_grad()
def plain_linear(layer: nn.Module, name: str, dtype: torch.dtype) -> nn.Linear:
    """A linear layer whose weights can be read: `layer` itself, or a copy where it is quantised, has a LoRA or the like.

    Quantised weights are found by calling the layer on the identity matrix, so any library's format will do: `to_int8`
    here, torchao, bitsandbytes, GGUF, layer-wise casting. Such a copy has what the layer computes, its LoRA included.

    Args:
        layer: of `in_features` and `out_features`.
        name: of the layer in its model, for errors.
        dtype: of the activations that the layer takes.

    Raises InputError where the layer computes nothing for such an input.
    """
    weight: Any = layer.weight if type(layer) is nn.Linear else None
    if type(weight) is nn.Parameter and weight.dtype in FLOATS:
        return layer  # pyright: ignore[reportReturnType]
    columns: Any = layer.in_features
    device = next(t.device for t in (*layer.parameters(), *layer.buffers()))
    try:
        rows = layer(torch.eye(columns, dtype=dtype, device=device))
        bias = layer(torch.zeros(1, columns, dtype=dtype, device=device))
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        raise InputError(
            f"The weights of {name}, a {type(layer).__name__}, cannot be dequantised ({first_line(error)}), so an adapter "
            f"cannot start from them; load the model without quantisation, or start the adapter at random."
        ) from error
    found = nn.Linear(columns, rows.shape[1], bias=getattr(layer, "bias", None) is not None, device="meta")
    state = {"weight": (rows - bias).T.contiguous(), **({"bias": bias[0]} if found.bias is not None else {})}
    found.load_state_dict(state, assign=True)
    return found.requires_grad_(False)

"""Text of as many tokens as each prompt has, kept as tensors of one shape with a mask: data are stored and batched so."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pad(texts: Sequence[Tensor], tokens: int) -> tuple[Tensor, Tensor]:
    """States [own tokens, width] of each prompt as states [prompts, tokens, width], with zeros behind their own, and
    a mask [prompts, tokens] of ones at their own."""
    states = texts[0].new_zeros(len(texts), tokens, texts[0].shape[-1])
    mask = torch.zeros(len(texts), tokens, dtype=torch.long, device=texts[0].device)
    for row, text in enumerate(texts):
        states[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return states, mask


def lengths(mask: Tensor) -> list[int]:
    """How many tokens each prompt has; all that there may be on the meta device, which knows no numbers."""
    if mask.is_meta:
        return [mask.shape[1]] * len(mask)
    return mask.sum(1).tolist()

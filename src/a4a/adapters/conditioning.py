"""How well a source's layers can be inverted, as the start of A4A does: their condition numbers."""

import math
from collections.abc import Sequence
from statistics import median

import torch
from jaxtyping import Float
from torch import Tensor

LAYERS = 32
"""As many layers as SD1.5 has; of an adapter with more, so many are looked at, since each takes a moment."""


@torch.no_grad()
def condition_number(weight: Float[Tensor, "out in"]) -> float:
    """Largest over smallest singular value, by the eigenvalues of the smaller Gram matrix; inf where one is not finite.

    Right up to 1e7; a larger one, of a layer that has lost a direction, comes out as about that.
    """
    if not weight.isfinite().all():
        return math.inf
    weight = weight.double()
    gram = weight @ weight.T if len(weight) < weight.shape[1] else weight.T @ weight
    values = torch.linalg.eigvalsh(gram)
    return float((values[-1] / values[0].clamp(min=torch.finfo(torch.float64).eps * values[-1])).sqrt())


def describe_conditions(weights: Sequence[Tensor]) -> str:
    """Median and largest condition number of weights [out, in]: `median 26, largest 25,763 (32 layers)`."""
    step = max(len(weights) // LAYERS, 1)
    numbers = [condition_number(weight) for weight in weights[::step][:LAYERS]]
    of = f" of {len(weights)}" if len(numbers) < len(weights) else ""
    return f"median {median(numbers):,.0f}, largest {max(numbers):,.0f} ({len(numbers)}{of} layers)"

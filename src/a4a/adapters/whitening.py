"""Whitened condition tokens: their covariance, from few references too, and how those of two sources agree."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

FAINTEST = 1e-3
"""Directions of less variance than this part of the largest are not made louder than those that have it."""


@dataclass(frozen=True)
class Whitened:
    """`(c - mean) directions` has about the same variance in all directions."""

    mean: Float[Tensor, " width"]
    directions: Float[Tensor, "width whitened"]
    references: Float[Tensor, "references whitened"]
    """The whitened condition of each reference, averaged over its tokens."""


@torch.no_grad()
def whiten(condition: Float[Tensor, "references tokens width"], like: Whitened | None = None) -> Whitened:
    """Directions in which the condition has equal variance, in an order of no meaning.

    With `like`, the whitened conditions of the same references by another source, they are turned to lie as near to
    those as they can (orthogonal Procrustes). Tokens of two sources do not correspond; what is compared is their mean.
    """
    variance, vectors = torch.linalg.eigh(shrunk_covariance(condition))
    directions = vectors * variance.clamp(min=FAINTEST * float(variance[-1])).rsqrt()
    mean = condition.mean((0, 1))
    references = (condition.mean(1) - mean) @ directions
    if like is not None:
        left, _, right = torch.linalg.svd(references.T @ like.references, full_matrices=False)
        turn = left @ right
        directions, references = directions @ turn, references @ turn
    return Whitened(mean, directions, references)


def shrunk_covariance(condition: Float[Tensor, "references tokens width"]) -> Float[Tensor, "width width"]:
    """Covariance over references and tokens: that between the tokens' means, and the one around them, shrunk.

    Of few references the latter is singular or nearly so, and whitening by it makes held-out references several times
    too large (`benchmarks/projection_start.py`). Ledoit and Wolf (2004, "A well-conditioned estimator for
    large-dimensional covariance matrices", eq. 14) mix it with a multiple of the identity, by as much as the references
    disagree about it; of thousands of references it stays what it is. The tokens of a reference are one observation.
    """
    means = condition.mean(0)
    around = condition - means
    references, tokens, width = around.shape
    flat = around.flatten(0, 1)
    covariance = flat.T @ flat / len(flat)
    mean_variance = covariance.trace() / width
    gram = torch.einsum("rtd,rsd->rts", around, around) / tokens  # as large as one reference's own covariance
    disagreement = (gram.square().sum() / references - covariance.square().sum()) / references
    identity = torch.eye(width, device=condition.device)
    distance = (covariance - mean_variance * identity).square().sum()
    share = (disagreement / distance.clamp(min=1e-12)).clamp(0, 1)
    between = means - means.mean(0)
    return between.T @ between / tokens + (1 - share) * covariance + share * mean_variance * identity

"""The covariance of condition tokens, from few references too."""

import torch
from jaxtyping import Float
from torch import Tensor


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

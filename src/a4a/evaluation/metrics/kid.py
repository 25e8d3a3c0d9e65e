"""Distance between the set of generated pictures and the set of references.

FID is left out: at the hundreds of pictures that adapters are evaluated with, its bias is larger than what differs between methods.
"""

import torch
from torch import Tensor

from a4a.encoders.base import ImageEncoder
from a4a.errors import InputError
from a4a.evaluation.metrics.base import GeneratedSet, Metric, Scores
from a4a.evaluation.statistics import Estimate


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """(cos + 1)^3 of unit vectors [n, width] and [m, width], [n, m]: KID's kernel with a gamma of 1."""
    return (x @ y.T + 1) ** 3


class KID(Metric):
    """Kernel distance, the squared MMD of Binkowski et al. 2018, between generated pictures and references.

    Every generation of a reference depends on it, so that a picture is never held against its own reference: the estimate for pairs
    (Gretton et al. 2012, eq. 4), averaged over the generations. It has no bias, may be below 0, and is 0 for the references themselves.
    The interval is mean ± 1.96 standard errors of the jackknife over subjects; subjects of which a picture has no vector are left out.
    Comparable for one encoder only, and not with numbers from Inception's features.

    Args:
        encoder: whose vectors are compared.
    """

    def __init__(self, encoder: ImageEncoder):
        self.encoder = encoder

    def __call__(self, generated: GeneratedSet) -> Scores:
        wanted, made = (
            generated.reference_vectors(self.encoder).double(),
            generated.image_vectors(self.encoder).double(),
        )
        known = ~made.isnan().any(dim=-1).any(dim=-1)
        n = int(known.sum())
        if n < 3:
            raise InputError(f"KID has {n} subjects whose pictures could all be encoded; give at least three.")
        x = wanted[known]
        cross = [kernel(x, y) for y in made[known].unbind(1)]
        pairs = kernel(x, x) + torch.stack(
            [kernel(y, y) - xy - xy.T for y, xy in zip(made[known].unbind(1), cross, strict=True)]
        ).mean(dim=0)
        pairs.fill_diagonal_(0)
        total = pairs.sum()
        kid = float(total / (n * (n - 1)))
        without = (total - 2 * pairs.sum(dim=1)) / ((n - 1) * (n - 2))
        error = float((without - without.mean()).square().sum().mul((n - 1) / n).sqrt())
        return {"kid": Estimate(kid, kid - 1.96 * error, kid + 1.96 * error, n, n * generated.generations)}

"""KID: the distance between the set of generated images and the set of references.

There is no FID here: with the hundreds of images that adapters are evaluated on, its bias is larger than the
differences between methods.
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
    """Kernel distance between generated images and references: the squared MMD of Binkowski et al. 2018.

    A generated image depends on its reference, so that the two are never compared with each other: the estimate is the
    one for pairs (Gretton et al. 2012, eq. 4), averaged over the generations. It is unbiased, may be below 0, and is 0
    for the references themselves. The interval is mean ± 1.96 standard errors of the jackknife over subjects. Subjects
    of which an image cannot be encoded are left out.

    Values are comparable for one encoder only, and not with those from Inception's features.

    Args:
        encoder: whose embeddings are compared.
    """

    def __init__(self, encoder: ImageEncoder):
        self.encoder = encoder

    def __call__(self, generated: GeneratedSet) -> Scores:
        references = generated.reference_vectors(self.encoder).double()
        images = generated.image_vectors(self.encoder).double()
        known = ~images.isnan().any(dim=-1).any(dim=-1)
        n = int(known.sum())
        if n < 3:
            raise InputError(f"KID has {n} subjects whose images could all be encoded; give at least three.")
        pairs = _pair_terms(references[known], images[known])
        total = pairs.sum()
        kid = float(total / (n * (n - 1)))
        without_one = (total - 2 * pairs.sum(dim=1)) / ((n - 1) * (n - 2))
        error = float((without_one - without_one.mean()).square().sum().mul((n - 1) / n).sqrt())
        return {"kid": Estimate(kid, kid - 1.96 * error, kid + 1.96 * error, n, n * generated.generations)}


def _pair_terms(references: Tensor, images: Tensor) -> Tensor:
    """The MMD's term of each pair of two subjects, [subjects, subjects], 0 on the diagonal.

    Args:
        references: unit vectors [subjects, width].
        images: unit vectors [subjects, generations, width].
    """
    generations = images.unbind(1)
    crosses = [kernel(references, generation) for generation in generations]
    terms = [kernel(g, g) - cross - cross.T for g, cross in zip(generations, crosses, strict=True)]
    return (kernel(references, references) + torch.stack(terms).mean(dim=0)).fill_diagonal_(0)

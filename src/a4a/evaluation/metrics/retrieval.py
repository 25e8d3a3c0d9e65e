"""Retrieval: is a generated picture's own reference the nearest of all?"""

import numpy as np
import torch

from a4a.encoders.base import ImageEncoder
from a4a.errors import InputError
from a4a.evaluation.metrics.base import GeneratedSet, Metric, Scores


class Retrieval(Metric):
    """1 where a picture's own reference is nearer than every other subject's, else 0; NaN where the picture has no vector.

    Chance is 1 / subjects: compare numbers of equally many subjects only.

    Args:
        encoder: whose vectors are compared.
    """

    def __init__(self, encoder: ImageEncoder):
        self.encoder = encoder

    def __call__(self, generated: GeneratedSet) -> Scores:
        if generated.subjects < 2:
            raise InputError("Retrieval was given one subject, among which every picture is found; give at least two.")
        wanted = generated.reference_vectors(self.encoder)
        near = torch.einsum("sgw,rw->sgr", generated.image_vectors(self.encoder), wanted)
        own = near.diagonal(dim1=0, dim2=2).T
        others = near.masked_fill(torch.eye(generated.subjects, dtype=torch.bool)[:, None], -torch.inf).amax(dim=2)
        return {"retrieval": np.where(own.isnan(), np.nan, (own > others).double())}  # a tie is no find

"""Retrieval: whether the reference that is nearest to a generated image is its own."""

import numpy as np
import torch

from a4a.encoders.base import ImageEncoder
from a4a.errors import InputError
from a4a.evaluation.metrics.base import GeneratedSet, Metric, Scores


class Retrieval(Metric):
    """Top-1 retrieval: 1 where an image's own reference is nearer than every other subject's, else 0.

    A tie counts as 0. NaN where the image cannot be encoded. Chance is 1 / subjects: compare numbers of equally many
    subjects only. The definition is ours; rank-1 identification is its name in face recognition.

    Args:
        encoder: whose embeddings are compared.
    """

    def __init__(self, encoder: ImageEncoder):
        self.encoder = encoder

    def __call__(self, generated: GeneratedSet) -> Scores:
        if generated.subjects < 2:
            raise InputError("Retrieval was given one subject, among which every image is found; give at least two.")
        references = generated.reference_vectors(self.encoder)
        cosines = torch.einsum("sgw,rw->sgr", generated.image_vectors(self.encoder), references)
        own = cosines.diagonal(dim1=0, dim2=2).T
        same_subject = torch.eye(generated.subjects, dtype=torch.bool)[:, None]
        nearest_other = cosines.masked_fill(same_subject, -torch.inf).amax(dim=2)
        return {"retrieval": np.where(own.isnan(), np.nan, (own > nearest_other).double())}

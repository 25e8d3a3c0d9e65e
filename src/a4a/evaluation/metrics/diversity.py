"""Diversity: how much the generations for one reference differ; what returns the reference unchanged scores 0."""

import torch

from a4a.encoders.base import PictureEncoder
from a4a.errors import InputError
from a4a.evaluation.metrics.base import Gallery, Metric, Scores


class Diversity(Metric):
    """Mean cosine distance over all pairs of generations of a subject, [subjects]; NaN where fewer than two have a vector.

    Args:
        encoder: whose vectors are compared.
    """

    def __init__(self, encoder: PictureEncoder):
        self.encoder = encoder

    def __call__(self, gallery: Gallery) -> Scores:
        if gallery.generations < 2:
            raise InputError("Diversity was given one picture for each reference; generate at least two.")
        vectors = gallery.generated(self.encoder).double()
        first, second = torch.triu_indices(gallery.generations, gallery.generations, offset=1)
        distances = (vectors[:, first] - vectors[:, second]).square().sum(dim=-1) / 2  # 1 - cos of unit vectors, exactly 0 for equal ones
        return {"diversity": distances.nanmean(dim=1).numpy()}

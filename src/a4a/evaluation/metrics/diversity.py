"""Diversity: how much the generations for one reference differ; what returns the reference unchanged scores 0."""

import torch

from a4a.encoders.base import ImageEncoder
from a4a.errors import InputError
from a4a.evaluation.metrics.base import GeneratedSet, Metric, Scores


class Diversity(Metric):
    """Mean cosine distance over all pairs of generations of a subject, [subjects]; NaN where fewer than two have a vector.

    Args:
        encoder: whose vectors are compared.
    """

    def __init__(self, encoder: ImageEncoder):
        self.encoder = encoder

    def __call__(self, generated: GeneratedSet) -> Scores:
        if generated.generations < 2:
            raise InputError("Diversity was given one picture for each reference; generate at least two.")
        vectors = generated.image_vectors(self.encoder).double()
        first, second = torch.triu_indices(generated.generations, generated.generations, offset=1)
        distances = (vectors[:, first] - vectors[:, second]).square().sum(
            dim=-1
        ) / 2  # 1 - cos of unit vectors, exactly 0 for equal ones
        return {"diversity": distances.nanmean(dim=1).numpy()}

"""Diversity: how much the generations for one reference differ."""

import torch

from a4a.encoders.base import ImageEncoder
from a4a.errors import InputError
from a4a.evaluation.metrics.base import GeneratedSet, Metric, Scores


class Diversity(Metric):
    """Mean cosine distance between the generations of a subject; 0 for a method that returns the reference unchanged.

    Scores are [subjects], the mean over all pairs of generations; NaN where fewer than two of them can be encoded.
    DreamBooth (Ruiz et al. 2023) measures diversity in this way by LPIPS; here it is by the embeddings of any encoder.

    Args:
        encoder: whose embeddings are compared.
    """

    def __init__(self, encoder: ImageEncoder):
        self.encoder = encoder

    def __call__(self, generated: GeneratedSet) -> Scores:
        if generated.generations < 2:
            raise InputError("Diversity was given one image for each reference; generate at least two.")
        vectors = generated.image_vectors(self.encoder).double()
        first, second = torch.triu_indices(generated.generations, generated.generations, offset=1)
        # |a - b|^2 / 2 is 1 - cos(a, b) for unit vectors, and exactly 0 for equal ones
        distances = (vectors[:, first] - vectors[:, second]).square().sum(dim=-1) / 2
        return {"diversity": distances.nanmean(dim=1).numpy()}

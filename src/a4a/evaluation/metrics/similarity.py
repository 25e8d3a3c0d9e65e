"""How alike generated pictures and their reference are, to the eyes of any picture encoder."""

import numpy as np

from a4a.encoders.base import ImageEncoder
from a4a.evaluation.metrics.base import GeneratedSet, Metric, Scores


def similarity(generated: GeneratedSet, encoder: ImageEncoder) -> np.ndarray:
    """Cosines, generated against reference, [subjects, generations]; NaN where the encoder has no vector for a picture."""
    wanted = generated.reference_vectors(encoder)
    return (generated.image_vectors(encoder) * wanted[:, None]).sum(dim=-1).double().numpy()


class Similarity(Metric):
    """Cosine of a picture encoder, generated against reference.

    Args:
        encoder: whose vectors are compared.
        name: of the score.
    """

    def __init__(self, encoder: ImageEncoder, name: str = "similarity"):
        self.encoder, self.name = encoder, name

    def __call__(self, generated: GeneratedSet) -> Scores:
        return {self.name: similarity(generated, self.encoder)}

"""How alike generated pictures and their reference are, to the eyes of any picture encoder."""

import numpy as np

from a4a.encoders.base import PictureEncoder
from a4a.evaluation.metrics.base import Gallery, Metric, Scores


def similarity(gallery: Gallery, encoder: PictureEncoder) -> np.ndarray:
    """Cosines, generated against reference, [subjects, generations]; NaN where the encoder has no vector for a picture."""
    wanted = gallery.wanted(encoder)
    return (gallery.generated(encoder) * wanted[:, None]).sum(dim=-1).double().numpy()


class Similarity(Metric):
    """Cosine of a picture encoder, generated against reference.

    Args:
        encoder: whose vectors are compared.
        name: of the score.
    """

    def __init__(self, encoder: PictureEncoder, name: str = "similarity"):
        self.encoder, self.name = encoder, name

    def __call__(self, gallery: Gallery) -> Scores:
        return {self.name: similarity(gallery, self.encoder)}

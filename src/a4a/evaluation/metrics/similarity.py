"""Similarity of generated images and their references by any image encoder."""

import numpy as np

from a4a.encoders.base import ImageEncoder
from a4a.evaluation.metrics.base import GeneratedSet, Metric, Scores


def similarity(generated: GeneratedSet, encoder: ImageEncoder) -> np.ndarray:
    """Cosines, generated image against reference, [subjects, generations]; NaN for images that cannot be encoded."""
    references = generated.reference_vectors(encoder)
    return (generated.image_vectors(encoder) * references[:, None]).sum(dim=-1).double().numpy()


class Similarity(Metric):
    """Cosine similarity of an encoder's embeddings, generated image against reference.

    This is what IDA, CLIP-score and DINO score are for their encoders.

    Args:
        encoder: whose embeddings are compared.
        name: of the score.
    """

    def __init__(self, encoder: ImageEncoder, name: str = "similarity"):
        self.encoder, self.name = encoder, name

    def __call__(self, generated: GeneratedSet) -> Scores:
        return {self.name: similarity(generated, self.encoder)}

"""IDA, identity alignment: whether the generated face is that of the person in the reference."""

from pathlib import Path

import numpy as np

from a4a.encoders.arcface import ArcFace
from a4a.evaluation.metrics.base import GeneratedSet, Metric, Scores
from a4a.evaluation.metrics.similarity import similarity


class IDA(Metric):
    """Cosine similarity of ArcFace embeddings, generated image against reference.

    The measure is that of A4A, sec. 4, the embedding that of ArcFace (Deng et al. 2019).
    The paper does not say how it counts images in which no face is found. `ida` leaves them out, `ida_missing_as_0`
    counts them as 0, and `face_found` is the share of images with a face: a method that generates no faces looks good
    by `ida` alone.

    Args:
        folder: InsightFace's antelopev2, unpacked. For non-commercial research only.
        det_size: side in pixels of the square that the face detector sees; by default InsightFace's own two, 128 and
            640.
        det_threshold: minimum detection confidence.
    """

    def __init__(self, folder: Path, det_size: int | None = None, det_threshold: float = 0.5):
        self.encoder = ArcFace(folder, det_size, det_threshold)

    def __call__(self, generated: GeneratedSet) -> Scores:
        ida = similarity(generated, self.encoder)
        found = ~np.isnan(ida)
        return {"ida": ida, "ida_missing_as_0": np.where(found, ida, 0.0), "face_found": found.astype(np.float64)}

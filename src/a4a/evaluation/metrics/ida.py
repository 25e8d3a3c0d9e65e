"""IDA, identity alignment: the paper's measure of whether the person is the same."""

from pathlib import Path

import numpy as np

from a4a.encoders.arcface import ArcFace
from a4a.evaluation.metrics.base import GeneratedSet, Metric, Scores
from a4a.evaluation.metrics.similarity import similarity


class IDA(Metric):
    """Cosine of ArcFace vectors, generated against reference (A4A, sec. 4).

    The paper does not say what it does with pictures in which no face is found. `ida` leaves them out, `ida_missing_as_0` counts them as 0,
    `face_found` says how many have one: a method that draws no faces may only look good by the first.

    Args:
        folder: InsightFace's antelopev2, unpacked. For non-commercial research only.
        det_size: side in pixels of the square that the detector sees; without one InsightFace's own two, 128 and 640.
        det_threshold: what the detector must be sure by.
    """

    def __init__(self, folder: Path, det_size: int | None = None, det_threshold: float = 0.5):
        self.encoder = ArcFace(folder, det_size, det_threshold)

    def __call__(self, generated: GeneratedSet) -> Scores:
        ida = similarity(generated, self.encoder)
        found = ~np.isnan(ida)
        return {"ida": ida, "ida_missing_as_0": np.where(found, ida, 0.0), "face_found": found.astype(np.float64)}

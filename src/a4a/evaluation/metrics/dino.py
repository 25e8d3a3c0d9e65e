"""DINO score: generated against reference, by a model that was trained without labels or texts."""

from a4a.encoders.dino import BASE, DINO
from a4a.evaluation.metrics.base import GeneratedSet, Metric, Scores
from a4a.evaluation.metrics.similarity import similarity


class DINOScore(Metric):
    """Cosine of DINO's class tokens, generated against reference (Ruiz et al. 2023, DreamBooth, sec. 4.1).

    Args:
        model: hub name or folder of a DINO model.
        device: where it runs; the GPU if there is one.
    """

    def __init__(self, model: str = BASE, device: str | None = None):
        self.encoder = DINO(model, device)

    def __call__(self, generated: GeneratedSet) -> Scores:
        return {"dino": similarity(generated, self.encoder)}

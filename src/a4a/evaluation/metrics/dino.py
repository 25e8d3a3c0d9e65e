"""DINO score: generated image against reference, by a model that was trained without labels or texts."""

from a4a.encoders.dino import BASE, DINO
from a4a.evaluation.metrics.base import GeneratedSet, Metric, Scores
from a4a.evaluation.metrics.similarity import similarity


class DINOScore(Metric):
    """Cosine similarity of DINO's class tokens, generated image against reference.

    The "DINO" metric of DreamBooth (Ruiz et al. 2023, sec. 4.1).

    Args:
        model: hub name or folder of a DINO model; DreamBooth uses facebook/dino-vits16.
        device: where it runs; by default the GPU if there is one.
    """

    def __init__(self, model: str = BASE, device: str | None = None):
        self.encoder = DINO(model, device)

    def __call__(self, generated: GeneratedSet) -> Scores:
        return {"dino": similarity(generated, self.encoder)}

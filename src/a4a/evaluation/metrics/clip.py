"""CLIP scores: generated against reference (the paper's CLIP-score), and generated against prompt."""

# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (transformers annotates parts of configurations as dictionaries, and outputs as tuples)

import torch

from a4a.encoders.clip import CLIP, LARGE
from a4a.evaluation.metrics.base import GeneratedSet, Metric, Scores
from a4a.evaluation.metrics.similarity import similarity


class CLIPImageScore(Metric):
    """Cosine of CLIP's image vectors, generated against reference (A4A, sec. 4: "CLIP-score").

    Args:
        model: hub name, folder or zoo:NAME of a CLIP model or of its vision tower.
        device: where it runs; the GPU if there is one.
    """

    def __init__(self, model: str = LARGE, device: str | None = None):
        self.encoder = CLIP(model, device)

    def __call__(self, generated: GeneratedSet) -> Scores:
        return {"clip_image": similarity(generated, self.encoder)}


class CLIPTextScore(Metric):
    """Cosine of CLIP's vectors, generated picture against its prompt (Hessel et al. 2021, without their factor 2.5 and cut at 0).

    Args:
        model: hub name, folder or zoo:NAME of a whole CLIP model.
        device: where it runs; the GPU if there is one.
    """

    def __init__(self, model: str = LARGE, device: str | None = None):
        self.encoder = CLIP(model, device)

    def __call__(self, generated: GeneratedSet) -> Scores:
        texts = torch.stack([self.encoder.encode_text(row).cpu() for row in generated.prompts])
        return {"clip_text": (generated.image_vectors(self.encoder) * texts).sum(dim=-1).double().numpy()}

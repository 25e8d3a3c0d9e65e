"""CLIP scores: generated image against reference (the paper's CLIP-score), and generated image against prompt."""

import torch

from a4a.encoders.clip import LARGE, CLIPImageEncoder, CLIPTextEncoder
from a4a.evaluation.metrics.base import GeneratedSet, Metric, Scores
from a4a.evaluation.metrics.similarity import similarity


class CLIPImageScore(Metric):
    """Cosine similarity of CLIP image embeddings, generated image against reference ("CLIP-score" in sec. 4 of A4A).

    Args:
        model: hub name, folder or zoo:NAME of a CLIP model or of its vision tower.
        device: where it runs; by default the GPU if there is one.
    """

    def __init__(self, model: str = LARGE, device: str | None = None):
        self.encoder = CLIPImageEncoder(model, device=device)

    def __call__(self, generated: GeneratedSet) -> Scores:
        return {"clip_image": similarity(generated, self.encoder)}


class CLIPTextScore(Metric):
    """Cosine similarity of CLIP embeddings, generated image against its prompt.

    CLIPScore of Hessel et al. 2021 (arXiv 2104.08718), without its factor of 2.5 and without cutting at 0.

    Args:
        model: hub name, folder or zoo:NAME of a whole CLIP model, with its text tower and tokenizer.
        device: where it runs; by default the GPU if there is one.
    """

    def __init__(self, model: str = LARGE, device: str | None = None):
        self.encoder, self.text_encoder = CLIPImageEncoder(model, device=device), CLIPTextEncoder(model, device)

    def __call__(self, generated: GeneratedSet) -> Scores:
        texts = torch.stack([self.text_encoder.unit_vectors(row).cpu() for row in generated.prompts])
        return {"clip_text": (generated.image_vectors(self.encoder) * texts).sum(dim=-1).double().numpy()}

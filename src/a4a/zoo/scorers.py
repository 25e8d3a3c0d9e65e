"""The models that score generated images: an identity encoder and a scene classifier."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from a4a.training.base import Batch, Objective
from a4a.zoo.context import BuildContext, write_card
from a4a.zoo.convnets import ConvNet
from a4a.zoo.dataset import Drawings
from a4a.zoo.world import PLACES, SCENES, SIZES


class IdentityEncoder(ModelMixin, ConfigMixin):
    """The zoo's ArcFace: images [batch, 3, 64, 64] in [0, 1] to unit vectors, close for one subject."""

    @register_to_config
    def __init__(self, widths: tuple[int, ...] = (24, 48, 96, 128), image_embed_dim: int = 64):
        super().__init__()
        self.net = ConvNet(3, tuple(widths), image_embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """[batch, 3, 64, 64] to [batch, image_embed_dim]."""
        return F.normalize(self.net(images * 2 - 1), dim=-1)


class SceneClassifier(ModelMixin, ConfigMixin):
    """Images [batch, 3, 64, 64] in [0, 1] to logits for scene, place and size."""

    @register_to_config
    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 64)):
        super().__init__()
        self.net = ConvNet(3, tuple(widths), len(SCENES) + len(PLACES) + len(SIZES))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.net(images * 2 - 1).split([len(SCENES), len(PLACES), len(SIZES)], dim=-1)


def _degrade(images: Tensor) -> Tensor:
    """Blur, noise and a change of contrast, each to a random degree: scores shall not depend on the VAE's errors."""
    n = len(images)
    degree = torch.rand(n, 4, 1, 1, 1, device=images.device)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    images = torch.lerp(images, blurred, degree[:, 0])
    images = (images - 0.5) * (0.85 + 0.3 * degree[:, 1]) + 0.5 + 0.1 * (degree[:, 2] - 0.5)
    return images + 0.08 * degree[:, 3] * torch.randn_like(images)


class IdentityLoss(Objective):
    """Contrastive loss: two drawings of one subject are close, those of different subjects of the batch are not.

    This is SimCLR's normalised temperature-scaled cross-entropy (Chen et al. 2020) between first and second drawings.
    """

    def __init__(self, encoder: IdentityEncoder, learning_rate: float, temperature: float = 0.1):
        super().__init__()
        self.encoder, self.learning_rate, self.temperature = encoder, learning_rate, temperature

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"name": "identity", "params": list(self.parameters()), "lr": self.learning_rate}]

    def forward(self, batch: Batch) -> Tensor:
        """`images` [batch, 2, 3, 64, 64] in [0, 1]."""
        images = batch["images"]
        vectors = self.encoder(_degrade(images.flatten(0, 1))).unflatten(0, images.shape[:2])
        logits = vectors[:, 0] @ vectors[:, 1].T / self.temperature
        matches = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, matches) + F.cross_entropy(logits.T, matches)) / 2


class SceneLoss(Objective):
    """Cross-entropy of scene, place and size, summed."""

    def __init__(self, classifier: SceneClassifier, learning_rate: float):
        super().__init__()
        self.classifier, self.learning_rate = classifier, learning_rate

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"name": "classifier", "params": list(self.parameters()), "lr": self.learning_rate}]

    def forward(self, batch: Batch) -> Tensor:
        """`images` [batch, views, 3, 64, 64] in [0, 1], `labels` [batch, views, 3]; the first view is used."""
        logits = self.classifier(_degrade(batch["images"][:, 0]))
        losses = [F.cross_entropy(part, batch["labels"][:, 0, i]) for i, part in enumerate(logits)]
        return torch.stack(losses).sum()


def build_identity_encoder(
    context: BuildContext, name: str, target: Path, training: dict[str, Any], subjects: int, learning_rate: float
) -> None:
    """Stage: train the identity encoder, which plays the part of ArcFace and which no adapter ever sees.

    Half of its training images are the VAE's reconstructions: as ArcFace does not mind JPEG, this encoder shall score
    the adapters and not the VAE. Its figures: the cosine of two drawings of a subject, and top-1 retrieval of 100.
    """
    model = IdentityEncoder()
    vae = AutoencoderKL.from_pretrained(context.models / "vae", dtype=torch.float32)
    drawings = Drawings("identity", subjects, views=2, vae=vae)
    context.train(name, IdentityLoss(model, learning_rate), drawings, training)
    images = Drawings("validation", 100, views=2).batch(torch.arange(100))["images"]
    with torch.no_grad():
        first, second = model.eval()(images[:, 0]), model(images[:, 1])
    model.half().save_pretrained(target)
    cosine = float((first * second).sum(1).mean())
    found = (first @ second.T).argmax(1) == torch.arange(100)
    write_card(target, {"cosine_of_two_drawings": cosine, "found_of_100": float(found.float().mean())})


def build_scene_classifier(
    context: BuildContext, name: str, target: Path, training: dict[str, Any], subjects: int, learning_rate: float
) -> None:
    """Stage: train the classifier of scene, place and size; its figures are its accuracies on held-out drawings."""
    model = SceneClassifier()
    context.train(name, SceneLoss(model, learning_rate), Drawings("identity", subjects), training)
    held_out = Drawings("validation", 500).batch(torch.arange(500))
    with torch.no_grad():
        logits = model.eval()(held_out["images"][:, 0])
    right = torch.stack([part.argmax(1) == held_out["labels"][:, 0, i] for i, part in enumerate(logits)])
    model.half().save_pretrained(target)
    write_card(target, dict(zip(("scene", "place", "size"), right.float().mean(1).tolist(), strict=True)))

"""The models that score generated images: identity encoder and scene classifier, with their training objectives."""

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from a4a.training.base import Batch, Objective
from a4a.zoo.convnets import strided
from a4a.zoo.world import PLACES, SCENES, SIZES


class ConvNet(nn.Sequential):
    """64 x 64 pixels to one vector."""

    def __init__(self, widths: tuple[int, ...], out: int):
        super().__init__(*strided(3, widths), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], out))


class IdentityEncoder(ModelMixin, ConfigMixin):
    """The zoo's ArcFace: pictures [batch, 3, 64, 64] in [0, 1] to unit vectors [batch, embed], alike for one subject."""

    @register_to_config
    def __init__(self, widths: tuple[int, ...] = (24, 48, 96, 128), embed: int = 64):
        super().__init__()
        self.net = ConvNet(tuple(widths), embed)

    def forward(self, pictures: Tensor) -> Tensor:
        return F.normalize(self.net(pictures * 2 - 1), dim=-1)


class SceneClassifier(ModelMixin, ConfigMixin):
    """Pictures [batch, 3, 64, 64] in [0, 1] to logits for scene, place and size."""

    @register_to_config
    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 64)):
        super().__init__()
        self.net = ConvNet(tuple(widths), len(SCENES) + len(PLACES) + len(SIZES))

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        return self.net(pictures * 2 - 1).split([len(SCENES), len(PLACES), len(SIZES)], dim=-1)


def _weathered(pictures: Tensor) -> Tensor:
    """Blur, noise and a change of contrast, each to a random degree: judges must not mind a VAE."""
    n = len(pictures)
    degree = torch.rand(n, 4, 1, 1, 1, device=pictures.device)
    blurred = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    pictures = torch.lerp(pictures, blurred, degree[:, 0])
    pictures = (pictures - 0.5) * (0.85 + 0.3 * degree[:, 1]) + 0.5 + 0.1 * (degree[:, 2] - 0.5)
    return pictures + 0.08 * degree[:, 3] * torch.randn_like(pictures)


class Recognition(Objective):
    """Two drawings of one subject are alike, those of others in the batch are not (normalised temperature cross-entropy)."""

    def __init__(self, encoder: IdentityEncoder, rate: float, temperature: float = 0.1):
        super().__init__()
        self.encoder, self.rate, self.temperature = encoder, rate, temperature

    def parameter_groups(self):
        return [{"name": "identity", "params": list(self.parameters()), "lr": self.rate}]

    def forward(self, batch: Batch) -> Tensor:
        pictures = batch["pictures"]
        vectors = self.encoder(_weathered(pictures.flatten(0, 1))).unflatten(0, pictures.shape[:2])
        logits = vectors[:, 0] @ vectors[:, 1].T / self.temperature
        target = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class Classification(Objective):
    def __init__(self, classifier: SceneClassifier, rate: float):
        super().__init__()
        self.classifier, self.rate = classifier, rate

    def parameter_groups(self):
        return [{"name": "classifier", "params": list(self.parameters()), "lr": self.rate}]

    def forward(self, batch: Batch) -> Tensor:
        logits = self.classifier(_weathered(batch["pictures"][:, 0]))
        losses = [F.cross_entropy(part, batch["kinds"][:, 0, i]) for i, part in enumerate(logits)]
        return torch.stack(losses).sum()

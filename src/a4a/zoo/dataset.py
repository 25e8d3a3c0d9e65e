"""The world's drawings as training data."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from a4a.data.base import TrainingImages
from a4a.training.base import Batch
from a4a.zoo.drawing import draw
from a4a.zoo.world import Subjects, Views, caption

VERSION = 2
"""Part of the key of cached encodings; raise it when drawings change."""


class WorldImages(TrainingImages):
    """A portrait and `views` other drawings of each of the first `subjects` subjects of a split.

    The reference is the portrait, the target one of the others, so that copying the reference does not help.

    Args:
        split: train, validation or test.
        subjects: how many.
        views: targets of each.
    """

    def __init__(self, split: str, subjects: int, views: int = 2):
        self.key = f"world {VERSION} {split} {subjects} x {views}"
        targets, portraits = (
            Views.sample(subjects * views, 100 + len(split)),
            Views.sample(subjects, 200 + len(split)).as_portraits(),
        )
        owner = torch.arange(subjects).repeat_interleave(views)
        self.subjects = Subjects.sample(subjects, split)[torch.cat([owner, torch.arange(subjects)])]
        self.views = targets + portraits
        self.captions = caption(self.views, 5)
        self.pairs = torch.stack([len(targets) + owner, torch.arange(len(targets))], 1)

    def __len__(self) -> int:
        return len(self.subjects)

    def pixels(self, indices: Tensor) -> Tensor:
        return draw(self.subjects[indices], self.views[indices])


class Drawings:
    """Drawings of a split's subjects, `views` to a subject, kept as bytes; with `vae`, half of them as it gives them back."""

    def __init__(self, split: str, subjects: int, views: int = 1, vae: AutoencoderKL | None = None):
        self.subjects = Subjects.sample(subjects, split)
        self.views = [Views.sample(subjects, 1000 * len(split) + v) for v in range(views)]
        self.pictures = torch.stack([as_bytes(self.subjects, v) for v in self.views], 1)
        if vae is not None:
            torch.manual_seed(0)
            half = torch.rand(subjects, views) < 0.5
            self.pictures[half] = through(vae, self.pictures[half])
        self.kinds = torch.stack([torch.stack([v.scene, v.place, v.size], 1) for v in self.views], 1)

    def __len__(self) -> int:
        return len(self.subjects)

    def batch(self, indices: Tensor) -> Batch:
        """`pictures` [n, views, 3, 64, 64] in [0, 1], `kinds` [n, views, 3]: scene, place, size."""
        return {"pictures": self.pictures[indices].float() / 255, "kinds": self.kinds[indices]}


def as_bytes(subjects: Subjects, views: Views) -> Tensor:
    """Drawings in chunks that fit the cache, [n, 3, 64, 64] of bytes."""
    chunks = torch.arange(len(subjects)).split(500)
    return torch.cat([(draw(subjects[c], views[c]) * 255).round().byte() for c in chunks])


@torch.no_grad()
def through(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """What the autoencoder gives back of drawings, bytes [n, 3, 64, 64]."""
    parts = [vae.decode(vae.encode(p.float() / 127.5 - 1).latent_dist.sample()).sample for p in pictures.split(100)]  # pyright: ignore[reportAttributeAccessIssue]
    return ((torch.cat(parts) / 2 + 0.5).clamp(0, 1) * 255).round().byte()

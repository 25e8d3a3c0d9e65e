"""The world's drawings as training data."""

import torch
from torch import Tensor

from a4a.data.pictures import Pictures
from a4a.zoo.world import Subjects, Views, caption, draw

VERSION = 2
"""Part of the key of cached encodings; raise it when drawings change."""


class WorldPictures(Pictures):
    """A portrait and `views` other drawings of each of the first `subjects` subjects of a split.

    The reference is the portrait, the target one of the others, so that copying the reference does not help.

    Args:
        split: train, validation or test.
        subjects: how many.
        views: targets of each.
    """

    def __init__(self, split: str, subjects: int, views: int = 2):
        self.key = f"world {VERSION} {split} {subjects} x {views}"
        targets, portraits = Views.sample(subjects * views, 100 + len(split)), Views.sample(subjects, 200 + len(split)).as_portraits()
        owner = torch.arange(subjects).repeat_interleave(views)
        self.subjects = Subjects.sample(subjects, split)[torch.cat([owner, torch.arange(subjects)])]
        self.views = targets + portraits
        self.captions = caption(self.views, 5)
        self.pairs = torch.stack([len(targets) + owner, torch.arange(len(targets))], 1)

    def __len__(self) -> int:
        return len(self.subjects)

    def pixels(self, indices: Tensor) -> Tensor:
        return draw(self.subjects[indices], self.views[indices])

"""The world's drawings as training data."""

import torch
from torch import Tensor

from a4a.data.pictures import Pictures
from a4a.zoo.world import Subjects, Views, caption, draw

VERSION = 1
"""Part of the key of cached encodings; raise it when drawings change."""


class WorldPictures(Pictures):
    """`views` drawings of each of the first `subjects` subjects of a split.

    Reference and target are two different drawings of one subject, so that copying the reference does not help.

    Args:
        split: train, validation or test.
        subjects: how many.
        views: drawings of each.
    """

    def __init__(self, split: str, subjects: int, views: int = 2):
        self.key = f"world {VERSION} {split} {subjects} x {views}"
        self.subjects = Subjects.sample(subjects, split)[torch.arange(subjects).repeat_interleave(views)]
        self.views = Views.sample(subjects * views, 100 + len(split))
        self.captions = caption(self.views, 5)
        a, b = (index.flatten() for index in torch.meshgrid(torch.arange(views), torch.arange(views), indexing="ij"))
        ordered = torch.stack([a, b], 1)[a != b]
        self.pairs = (torch.arange(subjects)[:, None, None] * views + ordered).flatten(0, 1)

    def __len__(self) -> int:
        return len(self.subjects)

    def pixels(self, indices: Tensor) -> Tensor:
        return draw(self.subjects[indices], self.views[indices])

"""Training data before encoding: images of one size, captions, and reference-target pairs."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor


class TrainingData:
    """What an adapter is trained on: pictures that are yet to be encoded, or what `a4a prepare` made of some."""


class TrainingImages(TrainingData, ABC):
    """Pictures of one size, their captions, and which two make a training sample."""

    captions: Sequence[str]
    pairs: Tensor
    """[samples, 2]: the picture that is the reference and the one that is the target."""
    key: str
    """Names the content: another content has another key."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def pixels(self, indices: Tensor) -> Tensor:
        """[n, 3, height, width] in [0, 1]."""


def spread_over(length: int, count: int) -> Tensor:
    """Indices of so many rows at most, evenly over a table."""
    return torch.linspace(0, length - 1, min(count, length)).long()


def pairs_of(subjects: list[str | None]) -> Tensor:
    """[pairs, 2], reference and target: (i, i) for a picture alone; for subjects with several, every ordered pair of neighbours."""
    groups: dict[str, list[int]] = {}
    pairs = []
    for i, subject in enumerate(subjects):
        if subject is None:
            pairs.append((i, i))
        else:
            groups.setdefault(subject, []).append(i)
    for members in groups.values():
        pairs += [(a, b) for a, b in zip(members, members[1:] + members[:1], strict=True)]
    return torch.tensor(pairs)

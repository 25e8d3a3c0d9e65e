"""What a metric is: a gallery of pictures in, a score for each of them out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from a4a.encoders.base import ImageEncoder
from a4a.errors import InputError
from a4a.evaluation.statistics import Estimate


@dataclass(frozen=True)
class GeneratedSet:
    """What one method drew: `pictures[s][g]` for `references[s]` and `prompts[s][g]`, as many for every subject.

    Raises InputError where the lists do not fit each other.
    """

    references: Sequence[Image.Image]
    prompts: Sequence[Sequence[str]]
    pictures: Sequence[Sequence[Image.Image]]
    _vectors: dict[tuple[str, str], Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self):
        subjects, each = len(self.references), {len(row) for row in self.pictures} | {len(row) for row in self.prompts}
        if (
            not subjects
            or len(self.pictures) != subjects
            or len(self.prompts) != subjects
            or len(each) != 1
            or 0 in each
        ):
            raise InputError(
                f"A gallery has {subjects} references, {len(self.prompts)} rows of prompts and {len(self.pictures)} rows of pictures "
                f"of lengths {sorted(each)}; expected at least one reference and as many prompts as pictures for each."
            )

    @property
    def subjects(self) -> int:
        return len(self.references)

    @property
    def generations(self) -> int:
        return len(self.pictures[0])

    def image_vectors(self, encoder: ImageEncoder) -> Tensor:
        """Vectors of the pictures, [subjects, generations, width]. An encoder sees every picture once."""
        return self._encoded(encoder, "pictures", [p for row in self.pictures for p in row]).unflatten(
            0, (self.subjects, self.generations)
        )

    def reference_vectors(self, encoder: ImageEncoder) -> Tensor:
        """Vectors of the references, [subjects, width]; InputError for a reference in which there is nothing to encode."""
        vectors = self._encoded(encoder, "references", list(self.references))
        if len(empty := vectors.isnan().any(dim=1).nonzero().flatten()):
            raise InputError(
                f"Reference {int(empty[0])} (counted from 0; {len(empty)} of {self.subjects} are like it) has nothing that {encoder.key} can encode; "
                f"expected a face in it if that is a face encoder. Give another picture or leave the subject out."
            )
        return vectors

    @torch.no_grad()
    def _encoded(self, encoder: ImageEncoder, which: str, pictures: list[Image.Image]) -> Tensor:
        if (encoder.key, which) not in self._vectors:
            chunks = [encoder.encode(pictures[i : i + 100]).float().cpu() for i in range(0, len(pictures), 100)]
            self._vectors[encoder.key, which] = torch.cat(chunks)
        return self._vectors[encoder.key, which]


Scores = dict[str, np.ndarray | Estimate]
"""By name: a value for each picture, [subjects, generations], or for each subject, [subjects], NaN where there is none;
or an estimate, from a metric that only knows all pictures together."""


class Metric(ABC):
    """A subclass in a file of this folder is found by the contract tests. Its constructor loads nothing: models are loaded when first used."""

    @abstractmethod
    def __call__(self, generated: GeneratedSet) -> Scores: ...

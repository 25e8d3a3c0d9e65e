"""The contract of a metric: a set of generated images in, named scores out."""

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

ENCODE_BATCH = 100
"""Images that an encoder gets at a time."""


@dataclass(frozen=True)
class GeneratedSet:
    """What one method generated for a task.

    `images[s][g]` was generated for `references[s]` and `prompts[s][g]`, with as many generations for every subject s.

    Raises InputError where the lists do not fit each other.
    """

    references: Sequence[Image.Image]
    prompts: Sequence[Sequence[str]]
    images: Sequence[Sequence[Image.Image]]
    _vectors: dict[tuple[str, str], Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self):
        lengths = {len(row) for row in self.images} | {len(row) for row in self.prompts}
        same_subjects = len(self.images) == len(self.prompts) == len(self.references)
        if not self.references or not same_subjects or len(lengths) != 1 or 0 in lengths:
            raise InputError(
                f"A set of generated images has {len(self.references)} references, {len(self.prompts)} rows of prompts "
                f"and {len(self.images)} rows of images, of lengths {sorted(lengths)}; expected at least one reference "
                "and, for each, as many prompts as images."
            )

    @property
    def subjects(self) -> int:
        return len(self.references)

    @property
    def generations(self) -> int:
        return len(self.images[0])

    def image_vectors(self, encoder: ImageEncoder) -> Tensor:
        """Unit vectors of the generated images, [subjects, generations, width]; NaN for one that cannot be encoded."""
        vectors = self._encode(encoder, "images", [image for row in self.images for image in row])
        return vectors.unflatten(0, (self.subjects, self.generations))

    def reference_vectors(self, encoder: ImageEncoder) -> Tensor:
        """Unit vectors of the references, [subjects, width]; InputError for a reference that cannot be encoded."""
        vectors = self._encode(encoder, "references", list(self.references))
        if len(empty := vectors.isnan().any(dim=1).nonzero().flatten()):
            raise InputError(
                f"Reference {int(empty[0])} (counted from 0; {len(empty)} of {self.subjects} are like it) has nothing "
                f"that {encoder.key} can encode; expected a face in it if that is a face encoder. Give another image "
                "or leave the subject out."
            )
        return vectors

    @torch.no_grad()
    def _encode(self, encoder: ImageEncoder, name: str, images: list[Image.Image]) -> Tensor:
        """Vectors by an encoder; metrics with equal encoders encode each image once."""
        if (encoder.key, name) not in self._vectors:
            batches = (images[i : i + ENCODE_BATCH] for i in range(0, len(images), ENCODE_BATCH))
            self._vectors[encoder.key, name] = torch.cat([encoder.unit_vectors(batch).cpu() for batch in batches])
        return self._vectors[encoder.key, name]


Scores = dict[str, np.ndarray | Estimate]
"""Scores by name: values [subjects, generations] or [subjects], NaN where there is none; or an estimate where only the
whole set has a score."""


class Metric(ABC):
    """A score of generated images. Its constructor loads nothing: models are loaded when first used.

    A subclass in a file of this folder is found by `metrics()`, and by the contract tests through it.
    """

    @abstractmethod
    def __call__(self, generated: GeneratedSet) -> Scores: ...

"""The contract of a benchmark task: references and prompts, the same for all methods."""

import hashlib
import json
from collections.abc import Sequence

from PIL import Image

from a4a.errors import InputError


class Task:
    """`generations` pictures of each subject: picture i is of subject i // generations.

    Attributes:
        subjects: names.
        references: a picture of each subject.
        prompts: one for each picture, subjects x generations.
    """

    def __init__(self, subjects: Sequence[str], references: Sequence[Image.Image], prompts: Sequence[str]):
        self.subjects, self.references, self.prompts = list(subjects), list(references), list(prompts)
        self.generations = len(self.prompts) // len(self.subjects)

    def __len__(self) -> int:
        return len(self.prompts)

    def subject(self, picture: int) -> int:
        return picture // self.generations

    @property
    def key(self) -> str:
        """Another hash for other references, prompts or order: what is scored under two keys cannot be compared."""
        digest = hashlib.sha256(json.dumps([self.subjects, self.prompts]).encode())
        for reference in self.references:
            digest.update(reference.tobytes())
        return digest.hexdigest()[:16]

    def rows(self, values: Sequence) -> list[list]:
        """A value for each picture as a row for each subject."""
        return [list(values[i : i + self.generations]) for i in range(0, len(values), self.generations)]

    def first(self, subjects: int) -> "Task":
        """The same pictures of the first few subjects."""
        return Task(self.subjects[:subjects], self.references[:subjects], self.prompts[: subjects * self.generations])

    def photos(self, picture: int) -> Image.Image:
        """Another photo of the picture's subject: what a perfect method might have drawn. InputError where there is none."""
        raise InputError(f"{type(self).__name__} has one picture of each subject; a ceiling needs a second one.")

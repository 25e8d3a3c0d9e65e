"""The contract of a benchmark task: references and prompts, the same for every method."""

import hashlib
import json
from collections.abc import Sequence
from typing import TypeVar

from PIL import Image

from a4a.errors import InputError

T = TypeVar("T")


class Task:
    """What every method has to generate: `generations` images of each subject, each with a prompt of its own.

    Images are numbered through: image i is of subject i // generations.

    Args:
        subjects: names.
        references: a reference image of each subject.
        prompts: a prompt for each image, subjects x generations.
    """

    def __init__(self, subjects: Sequence[str], references: Sequence[Image.Image], prompts: Sequence[str]):
        self.subjects, self.references, self.prompts = list(subjects), list(references), list(prompts)
        self.generations = len(self.prompts) // len(self.subjects)

    def __len__(self) -> int:
        """How many images there are to generate."""
        return len(self.prompts)

    def subject_of(self, index: int) -> int:
        """The subject of an image."""
        return index // self.generations

    @property
    def key(self) -> str:
        """A hash of subjects, references and prompts: scores of tasks with different keys cannot be compared."""
        digest = hashlib.sha256(json.dumps([self.subjects, self.prompts]).encode())
        for reference in self.references:
            digest.update(reference.tobytes())
        return digest.hexdigest()[:16]

    def by_subject(self, values: Sequence[T]) -> list[list[T]]:
        """One value for each image, as a row for each subject."""
        return [list(values[i : i + self.generations]) for i in range(0, len(values), self.generations)]

    def first(self, subjects: int) -> "Task":
        """The same task for the first few subjects alone."""
        return Task(self.subjects[:subjects], self.references[:subjects], self.prompts[: subjects * self.generations])

    def held_out_photo(self, index: int) -> Image.Image:
        """Another photo of an image's subject: what a perfect method might generate.

        Raises InputError where there is no other photo.
        """
        raise InputError(
            f"{type(self).__name__} has one photo of each subject, its reference; HeldOutPhoto needs a task with more."
        )

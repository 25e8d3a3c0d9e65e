"""Who is trained on and who is kept for tests."""

import hashlib
from dataclasses import dataclass
from typing import Literal

from a4a.errors import InputError

Name = Literal["train", "validation", "test"]


@dataclass
class Split:
    """Shares of the subjects; training gets the rest."""

    validation: float = 0.05
    test: float = 0.05
    seed: int = 0

    def __post_init__(self):
        if min(self.validation, self.test) < 0 or self.validation + self.test > 1:
            raise InputError(
                f"split.validation is {self.validation} and split.test {self.test}; expected shares that leave some for training."
            )

    def __call__(self, subject: str) -> Name:
        """By the subject's name alone, so that more data move nobody."""
        place = int.from_bytes(hashlib.sha256(f"{self.seed} {subject}".encode()).digest()[:8]) / 2**64
        if place < self.test:
            return "test"
        return "validation" if place < self.test + self.validation else "train"

"""Which subjects are trained on, and which are kept for validation and test."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from a4a.data.manifest import SplitName
from a4a.errors import InputError

MINIMUM_GROUPS = 3
"""From so many groups on, every split with a share gets at least one."""


@dataclass
class Split:
    """Shares of the subjects; training gets the rest."""

    validation: float = 0.05
    test: float = 0.05
    seed: int = 0

    def __post_init__(self):
        if min(self.validation, self.test) < 0 or self.validation + self.test > 1:
            raise InputError(
                f"split.validation is {self.validation} and split.test {self.test}; "
                "expected shares of at least 0 whose sum is at most 1."
            )

    def position(self, group: str) -> float:
        """In [0, 1), by a hash of the name: test takes the lowest positions, then validation, then training."""
        return int.from_bytes(hashlib.sha256(f"{self.seed} {group}".encode()).digest()[:8]) / 2**64

    def __call__(self, group: str) -> SplitName:
        """By the group's name alone, so that more data move nobody."""
        position = self.position(group)
        if position < self.test:
            return "test"
        return "validation" if position < self.test + self.validation else "train"

    def among(self, groups: Iterable[str]) -> "SplitAssignment":
        """The split of each of these groups, such that no split with a share is empty.

        A group goes where its name's hash says. In a small set that may leave a split empty, say 20 subjects without
        one for test. Where there are at least three groups, the group whose hash comes next then moves into the empty
        split. The result depends on the set of groups alone. When data are added, only such a moved group can change
        its split: as soon as hashes fill the split, it returns.
        """
        split_of = {group: self(group) for group in set(groups)}
        if len(split_of) < MINIMUM_GROUPS:
            return SplitAssignment(self, {})
        moved: dict[str, SplitName] = {}
        shares: dict[SplitName, float] = {
            "test": self.test,
            "validation": self.validation,
            "train": 1 - self.test - self.validation,
        }
        order = sorted(split_of, key=lambda group: (self.position(group), group))
        for name, share in shares.items():
            counts = Counter(split_of.values())
            if share <= 0 or counts[name]:
                continue
            donor = "train" if counts["train"] > 1 else counts.most_common(1)[0][0]
            candidates = [group for group in order if split_of[group] == donor]
            group = candidates[-1] if name == "train" else candidates[0]
            split_of[group] = moved[group] = name
        return SplitAssignment(self, moved)


@dataclass(frozen=True)
class SplitAssignment:
    """A split for given groups: by hash, but for the few that were moved so that no split is empty."""

    split: Split
    moved: dict[str, SplitName]

    def __call__(self, group: str) -> SplitName:
        return self.moved.get(group) or self.split(group)

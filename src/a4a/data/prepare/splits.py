"""Which subjects are trained on, and which are kept for validation and test."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
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

    @property
    def train(self) -> float:
        """The rest, which is never less than 0."""
        return 1 - self.test - self.validation

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
        one for test. Where there are at least three groups, the cuts between the splits, in the order of the hashes,
        then move by as few groups as give each split one. The result depends on the set of groups alone. When data are
        added, only a group that was moved can change its split (as soon as hashes fill the split, it returns), if
        hashes had given training two groups; no rule without memory can promise it for fewer.
        """
        order = sorted(set(groups), key=lambda group: (self.position(group), group))
        if len(order) < MINIMUM_GROUPS:
            return SplitAssignment(self, {})
        counts = Counter(self(group) for group in order)
        test, validation, train = (int(share > 0) for share in (self.test, self.validation, self.train))
        first = min(max(counts["test"], test), len(order) - validation - train)
        second = min(max(counts["test"] + counts["validation"], first + validation), len(order) - train)
        splits: Mapping[SplitName, list[str]] = {
            "test": order[:first],
            "validation": order[first:second],
            "train": order[second:],
        }
        moved: dict[str, SplitName] = {
            group: name for name, members in splits.items() for group in members if self(group) != name
        }
        return SplitAssignment(self, moved)


@dataclass(frozen=True)
class SplitAssignment:
    """A split for given groups: by hash, but for the few that were moved so that no split is empty."""

    split: Split
    moved: dict[str, SplitName]

    def __call__(self, group: str) -> SplitName:
        return self.moved.get(group) or self.split(group)

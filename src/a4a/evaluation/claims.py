"""Claims of the paper, as comparisons that recorded scores decide, and the rules by which they do."""

from dataclasses import dataclass, fields
from typing import Literal

from a4a.errors import InputError

HOLDS, FAILS = "holds", "does not hold"
UNDECIDED, NOT_MEASURED = "cannot be told", "not measured"

OPTIONS = {
    "above": ("fraction",),
    "equal": ("margin",),
    "always_above": ("until",),
    "at_least_times": ("times", "until", "floor"),
    "fewer_samples": ("times", "reference", "fraction", "b_samples"),
}
"""The options of a claim that each kind takes."""
REQUIRED = {"equal": "margin", "at_least_times": "times"}


@dataclass
class Claim:
    """A statement of the paper, or one of our own, in words and as a comparison that a program can decide.

    Final scores are those of the final task; curves, and levels that curves reach, are those of the validation task of
    the recipe. All intervals are 95 %, over subjects and over training seeds.
    """

    description: str
    kind: Literal["above", "equal", "always_above", "at_least_times", "fewer_samples"]
    """`above`: a's final score is higher than b's (or than a `fraction` of it): the interval of the paired difference
    lies above zero.
    `equal`: a's final score is b's: the interval of the difference lies within `margin` on both sides of zero.
    `always_above`: a's curve is above b's at every sample count that both have.
    `at_least_times`: at every such count a's curve is at least `times` b's, or b's is still below `floor`.
    `fewer_samples`: a reaches a level with at least `times` fewer samples than b. The level is b's last score, or a
    `fraction` of it, or of that of a `reference`."""
    a: str
    b: str
    score: str = "identity"
    margin: float | None = None
    """Of `equal`: the largest difference that does not matter, in units of the score."""
    times: float | None = None
    """Of `at_least_times`; of `fewer_samples` (default: 1)."""
    fraction: float | None = None
    """Of `above` and `fewer_samples`: the share of the other score (default: 1)."""
    reference: str | None = None
    """Of `fewer_samples`: the method whose score is the level (default: b)."""
    until: float | None = None
    """Of `always_above` and `at_least_times`: the last sample count that counts (default: all)."""
    floor: float | None = None
    """Of `at_least_times`: below this score b has learned nothing, whatever a has (default: no such score)."""
    b_samples: float | None = None
    """Of `fewer_samples`: how many samples b was trained with, where it is not trained here."""
    paper: str = ""
    """What the paper reports, in words, to stand beside ours."""

    def __post_init__(self) -> None:
        known = {name for options in OPTIONS.values() for name in options}
        given = [f.name for f in fields(self) if f.name in known and getattr(self, f.name) is not None]
        allowed = OPTIONS[self.kind]
        for name in given:
            if name not in allowed:
                raise InputError(
                    f"The claim {self.description!r} of kind {self.kind} has {name}; that kind takes "
                    f"{', '.join(allowed)}: leave it out, or choose another kind."
                )
            value = getattr(self, name)
            if not isinstance(value, str) and value <= 0:
                raise InputError(f"The claim {self.description!r} has {name} {value}; give a number above zero.")
        required = REQUIRED.get(self.kind)
        if required is not None and required not in given:
            raise InputError(f"The claim {self.description!r} of kind {self.kind} has no {required}; add it.")

    @property
    def needs_curves(self) -> bool:
        return self.kind in ("always_above", "at_least_times", "fewer_samples")


@dataclass(frozen=True)
class Verdict:
    """Whether a claim holds, and the figures that decide it."""

    verdict: str
    """HOLDS, FAILS, UNDECIDED or NOT_MEASURED."""
    figures: str = ""

    def __str__(self) -> str:
        return f"{self.verdict}: {self.figures}" if self.figures else self.verdict

"""What a check expects: the section `check` of a recipe of `a4a transfer`."""

from dataclasses import dataclass

from a4a.errors import InputError
from a4a.evaluation.generation import Sampling


@dataclass
class KnownAdapter:
    """An adapter that is known to work on its model, so that what it scores proves all that a score depends on."""

    adapter: str | None = None
    """Folder, file or hub name; the recipe's source by default."""
    model: str | None = None
    """The model that it is for; the recipe's own by default."""
    image_encoder: str | None = None
    """CLIP vision model; the recipe's own by default."""
    sampling: Sampling | None = None
    """Steps, guidance and size for this model; those of the recipe's evaluation by default."""
    scale: float = 1.0
    """Weight of the image prompt."""
    expected: float | None = None
    """The score that it is known to have; without it, the score must only be above that of the prompts alone."""
    tolerance: float = 0.1
    """How far the score may be from the expected one."""


@dataclass
class CheckConfig:
    """What a check draws and trains, and what it expects. Scores are those of the recipe's `evaluation`."""

    score: str
    """The score of the evaluation that tells whether the subject arrives, such as ida or clip_image."""
    adapters: dict[str, KnownAdapter]
    """Published adapters by a name of your choice: the source on its base model, one made for the upgraded model."""
    subjects: int = 20
    """Held-out subjects that published adapters draw: the first of the evaluation's task."""
    overfit: int = 8
    """Training samples that are overfitted, evenly spaced over the data."""
    steps: int = 500
    """Optimizer steps that overfit them."""
    rise: float = 0.1
    """How much the score of the overfitted samples must rise, at least."""
    slowdown: float | None = 3.0
    """How many times the hours of `a4a plan`, which are those of an A100, the run may take; null: any number."""

    def __post_init__(self):
        if not self.adapters:
            raise InputError("check.adapters is empty; name at least the source on its base model.")
        for name, least in (("subjects", 2), ("overfit", 1), ("steps", 10)):
            if getattr(self, name) < least:
                raise InputError(f"check.{name} is {getattr(self, name)}; give at least {least}.")

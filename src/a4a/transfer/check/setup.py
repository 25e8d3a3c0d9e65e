"""What all steps of a check share."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from a4a.data.base import TrainingData
from a4a.errors import InputError
from a4a.evaluation.metrics.base import Scores
from a4a.evaluation.validation import Validator
from a4a.transfer.check.config import CheckConfig
from a4a.transfer.config import TransferSettings


@dataclass(frozen=True)
class CheckSetup:
    """A recipe, what is expected of it, and where the check writes."""

    settings: TransferSettings
    data: TrainingData
    evaluation: Validator
    config: CheckConfig
    folder: Path
    cache: Path
    """For encodings of the training data."""

    def score_of(self, scores: Scores) -> np.ndarray:
        """The score that the check goes by, [subjects, generations]; InputError where the evaluation has none."""
        values = scores.get(self.config.score)
        if not isinstance(values, np.ndarray):
            names = [name for name, value in scores.items() if isinstance(value, np.ndarray)]
            raise InputError(
                f"check.score is {self.config.score!r}, but the recipe's evaluation scores images by "
                f"{', '.join(names) or 'nothing'}; name one of these."
            )
        return values

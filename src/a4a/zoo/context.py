"""What every stage of the zoo's recipe shares: folders, the training loop, and the card of a finished model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a4a.training.base import Dataset, Objective
from a4a.training.config import TrainingConfig
from a4a.training.trainer import train


@dataclass
class BuildContext:
    """Where stages find and put models, and on how much they measure them."""

    models: Path
    """Folder of the finished models, one folder for each stage."""
    runs: Path
    """Folder of unfinished runs and cached encodings."""
    subjects: int = 100
    """Test subjects that a finished model is measured on."""
    generations: int = 4
    """Images of each test subject."""
    validation: int = 64
    """Validation subjects that adapters are measured on while they are trained."""

    @property
    def image_encoder(self) -> Path:
        return self.models / "clip-large" / "image_encoder"

    @property
    def cache(self) -> Path:
        return self.runs / "cache"

    def train(self, name: str, objective: Objective, dataset: Dataset, training: dict[str, Any]) -> None:
        """Train in `runs/NAME`, from the last checkpoint if there is one. `training`: fields of `TrainingConfig`."""
        train(objective, dataset, TrainingConfig(**training), self.runs / name, resume=True, description=name)


def write_card(target: Path, figures: dict[str, Any]) -> None:
    """Publish a model's held-out figures, for programs in `figures.json` and for people in `README.md`.

    A README that an adapter has written already is kept; the figures come after it.
    """
    (target / "figures.json").write_text(json.dumps(figures, indent=1))
    readme = target / "README.md"
    lines = [
        readme.read_text() if readme.exists() else "# A miniature model of the a4a zoo\n",
        "| held out | |",
        "|---|---|",
        *(f"| {name} | {_figure_text(value)} |" for name, value in figures.items()),
        "",
        "Recipe and seed: `src/a4a/zoo/recipe.yaml`; made again by `a4a zoo build`.",
        "",
    ]
    readme.write_text("\n".join(lines))


def _figure_text(value: Any) -> str:
    """A number, or an estimate (as a dictionary) with its interval."""
    if isinstance(value, dict):
        return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}], {value['subjects']} subjects"
    return str(value)

"""Where the zoo's models are: inside the package, so that everything works right after an install."""

import json
from pathlib import Path
from typing import Any

from a4a.errors import InputError
from a4a.utils.hub import ZOO

MODELS = ZOO
RECIPE = Path(__file__).parent / "recipe.yaml"


def figures(name: str, models: Path = MODELS) -> dict[str, Any]:
    """The held-out figures of a model: numbers, and estimates as dictionaries of the fields of `Estimate`."""
    file = models / name / "figures.json"
    if not file.is_file():
        finished = sorted(p.parent.name for p in models.glob("*/figures.json"))
        raise InputError(
            f"The zoo has no finished {name}; it has {', '.join(finished) or 'nothing yet'}. `a4a zoo build` makes all."
        )
    return json.loads(file.read_text())

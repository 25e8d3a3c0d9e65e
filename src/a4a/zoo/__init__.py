"""The zoo: miniature models that ship with the package, and the drawn world that they are trained on.

`world.py` explains the world; `recipe.yaml` says how each model is made, and `build.py` makes them.
"""

from a4a.zoo.dataset import WorldImages
from a4a.zoo.evaluation import Identity, PromptAccuracy, WorldTask, WorldValidator

__all__ = ["Identity", "PromptAccuracy", "WorldImages", "WorldTask", "WorldValidator"]

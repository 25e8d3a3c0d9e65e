"""Miniature models that ship with the package, the world of drawn creatures they live in, and the recipe of both."""

from a4a.zoo.dataset import WorldImages
from a4a.zoo.evaluation import Identity, PromptAccuracy, WorldTask, WorldValidator

__all__ = ["Identity", "PromptAccuracy", "WorldImages", "WorldTask", "WorldValidator"]

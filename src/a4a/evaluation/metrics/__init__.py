"""Metrics of generated images: one file a metric. A new one needs a file here and nothing else."""

import importlib
import pkgutil

from a4a.evaluation.metrics.base import GeneratedSet, Metric, Scores
from a4a.evaluation.metrics.clip import CLIPImageScore, CLIPTextScore
from a4a.evaluation.metrics.dino import DINOScore
from a4a.evaluation.metrics.diversity import Diversity
from a4a.evaluation.metrics.ida import IDA
from a4a.evaluation.metrics.kid import KID
from a4a.evaluation.metrics.retrieval import Retrieval
from a4a.evaluation.metrics.similarity import Similarity
from a4a.evaluation.statistics import Estimate, bootstrap_mean, mean_over_seeds, paired_difference

__all__ = [
    "IDA",
    "KID",
    "CLIPImageScore",
    "CLIPTextScore",
    "DINOScore",
    "Diversity",
    "Estimate",
    "GeneratedSet",
    "Metric",
    "Retrieval",
    "Scores",
    "Similarity",
    "bootstrap_mean",
    "mean_over_seeds",
    "metrics",
    "paired_difference",
]


def metrics() -> dict[str, type[Metric]]:
    """Every metric of this folder by its class name."""
    found: dict[str, type[Metric]] = {}
    for module in pkgutil.iter_modules(__path__):
        for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Metric) and value is not Metric:
                found[value.__name__] = value
    return found

"""Measures of what came out: a metric a file."""

import importlib
import pkgutil

from a4a.metrics.arcface import ArcFace
from a4a.metrics.clip import CLIP, CLIPImageScore, CLIPTextScore
from a4a.metrics.dino import DINO, DINOScore
from a4a.metrics.distribution import KID
from a4a.metrics.diversity import Diversity
from a4a.metrics.ida import IDA
from a4a.metrics.metric import Gallery, Metric, PictureEncoder, Scores
from a4a.metrics.retrieval import Retrieval
from a4a.metrics.similarity import Similarity
from a4a.metrics.statistics import Estimate, over_seeds, over_subjects, paired

__all__ = [
    "CLIP",
    "DINO",
    "IDA",
    "KID",
    "ArcFace",
    "CLIPImageScore",
    "CLIPTextScore",
    "DINOScore",
    "Diversity",
    "Estimate",
    "Gallery",
    "Metric",
    "PictureEncoder",
    "Retrieval",
    "Scores",
    "Similarity",
    "metrics",
    "over_seeds",
    "over_subjects",
    "paired",
]


def metrics() -> dict[str, type[Metric]]:
    """Every metric of this folder by its name: a new one needs a file here and nothing else."""
    found: dict[str, type[Metric]] = {}
    for module in pkgutil.iter_modules(__path__):
        for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Metric) and value is not Metric:
                found[value.__name__] = value
    return found

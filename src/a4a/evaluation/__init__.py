"""Compare methods: tasks, the methods that generate their images, metrics, and statistics."""

from a4a.evaluation.evaluate import evaluate
from a4a.evaluation.generation import Sampling
from a4a.evaluation.methods import CopyReference, HeldOutPhoto, ImagePromptMethod, Method, TextOnly
from a4a.evaluation.metrics import (
    IDA,
    KID,
    CLIPImageScore,
    CLIPTextScore,
    DINOScore,
    Diversity,
    GeneratedSet,
    Metric,
    Retrieval,
    Similarity,
)
from a4a.evaluation.statistics import Estimate
from a4a.evaluation.tasks.base import Task
from a4a.evaluation.tasks.dreambench import DreamBenchTask
from a4a.evaluation.tasks.folder import FolderTask
from a4a.evaluation.tasks.prepared import PreparedTask
from a4a.evaluation.validation import Validator

__all__ = [
    "IDA",
    "KID",
    "CLIPImageScore",
    "CLIPTextScore",
    "CopyReference",
    "DINOScore",
    "Diversity",
    "DreamBenchTask",
    "Estimate",
    "FolderTask",
    "GeneratedSet",
    "HeldOutPhoto",
    "ImagePromptMethod",
    "Method",
    "Metric",
    "PreparedTask",
    "Retrieval",
    "Sampling",
    "Similarity",
    "Task",
    "TextOnly",
    "Validator",
    "evaluate",
]

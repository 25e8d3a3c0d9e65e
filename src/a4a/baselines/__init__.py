"""Methods that A4A is compared with and that run two models: the base model steers the upgraded one.

A4A never runs the base model; these run it for every image. `base_calls` and `parameters` say what that costs.
"""

from a4a.baselines.base import TwoModelPipeline
from a4a.baselines.delta_sampling import DeltaSamplingMethod, DeltaSamplingPipeline
from a4a.baselines.x_adapter import XAdapter
from a4a.baselines.x_adapter_pipeline import XAdapterMethod, XAdapterPipeline
from a4a.baselines.x_adapter_training import XAdapterMapping, train_x_adapter

__all__ = [
    "DeltaSamplingMethod",
    "DeltaSamplingPipeline",
    "TwoModelPipeline",
    "XAdapter",
    "XAdapterMapping",
    "XAdapterMethod",
    "XAdapterPipeline",
    "train_x_adapter",
]

"""What the paper compares with that is no adapter of the upgraded model: both models run, and one steers the other.

A4A needs the base model never; these need it for every picture. `base_calls` and `parameters` say how much of it.
"""

from a4a.baselines.base import TwoModelPipeline
from a4a.baselines.delta_sampling import DeltaSamplingMethod, DeltaSamplingPipeline
from a4a.baselines.x_adapter import XAdapter, XAdapterMethod, XAdapterPipeline
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

"""Contracts of training: the objective and the dataset."""

from typing import Any, Protocol

from torch import Tensor, nn

Batch = dict[str, Any]
Scores = dict[str, float]


class Objective(nn.Module):
    """A loss and the parameters that minimise it.

    `forward(batch)` returns the loss as a scalar. Parameters that require gradients are trained and saved.
    """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for AdamW, each with `params`, `lr` and a `name`."""
        raise TypeError(f"{type(self).__name__} does not define parameter_groups: which parameters it trains.")


class Dataset(Protocol):
    """Samples that can be fetched a batch at a time. Fetching must not use torch's global random generator.

    A dataset whose samples differ in shape has `buckets`, a tensor with each sample's bucket: a batch is of one bucket.
    """

    def __len__(self) -> int: ...
    def batch(self, indices: Tensor) -> Batch: ...

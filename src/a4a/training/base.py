"""Contracts of training: the objective and the dataset."""

from typing import Any, Protocol

from torch import Tensor, nn

Batch = dict[str, Any]
Scores = dict[str, float]


class Objective(nn.Module):
    """A loss and the parameters that minimise it.

    `forward(batch)` gives the loss as a scalar. Its parameters that require gradients are what is trained and saved.
    """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for AdamW, each with `params`, `lr` and a `name`."""
        raise TypeError(f"{type(self).__name__} does not say which parameters it trains.")


class Dataset(Protocol):
    """Rows that can be fetched a batch at a time. Fetching must not touch torch's global generator.

    A table whose rows differ in shape has `buckets`, a tensor with the bucket of each row: a batch is of one bucket.
    """

    def __len__(self) -> int: ...
    def batch(self, indices: Tensor) -> Batch: ...

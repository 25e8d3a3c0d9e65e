"""Training samples whose references are embedded in several ways, as sources of different families take them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from a4a.data.base import EncodedDataset
from a4a.encoders.base import Output


class SeveralOutputs(EncodedDataset):
    """The same samples with several embeddings of their references, `embeds.OUTPUT` in a batch.

    Args:
        datasets: the samples by what the image encoder gives; all but the embeddings is taken of the first.
    """

    def __init__(self, datasets: Mapping[Output, EncodedDataset]):
        self.datasets = dict(datasets)
        self.first = next(iter(self.datasets.values()))
        self.size, self.buckets, self.no_text = self.first.size, self.first.buckets, self.first.no_text

    def __len__(self) -> int:
        return len(self.first)

    def batch(self, indices: Tensor) -> dict[str, Any]:
        batch = self.first.batch(indices)
        del batch["embeds"]
        return batch | {f"embeds.{output}": data.embeddings(indices) for output, data in self.datasets.items()}

    def references(self, count: int) -> Tensor:
        return self.first.references(count)

"""Stateless samplers: a batch depends on seed and batch number alone, so every process can compute all of them."""

import torch
from torch import Tensor


class EpochShuffle:
    """A new random order of all rows in every epoch; the last epoch's order is kept, as a cache."""

    def __init__(self, rows: int, seed: int):
        self.rows, self.seed = rows, seed
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def take(self, start: int, count: int) -> Tensor:
        """Indices of the samples start .. start + count, counted over all epochs."""
        parts = []
        while count > 0:
            epoch, offset = divmod(start, self.rows)
            if epoch != self._epoch:
                generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
                self._epoch, self._order = epoch, torch.randperm(self.rows, generator=generator)
            parts.append(self._order[offset : offset + count])
            start, count = start + len(parts[-1]), count - len(parts[-1])
        return torch.cat(parts)


class BucketBatchSampler:
    """Batches of `size` rows (those of all processes together), each of one bucket.

    Each bucket is shuffled on its own and cut into batches. An epoch has as many batches of a bucket as its rows fill,
    in random order over all buckets; rows left over come first in the next epoch. So each row comes once in every epoch
    of its bucket. Batches depend on `size` but not on the number of processes: two with half the batch size see what
    one sees.

    Args:
        rows: of the dataset.
        seed: of the order.
        size: rows per batch.
        buckets: [rows], the bucket of each row; None is one bucket.
    """

    def __init__(self, rows: int, seed: int, size: int, buckets: Tensor | None = None):
        bucket_of = torch.zeros(rows, dtype=torch.long) if buckets is None else buckets
        self.seed, self.size = seed, size
        self.members = [(bucket_of == bucket).nonzero().flatten() for bucket in bucket_of.unique()]
        self.orders = [EpochShuffle(len(m), mix_seed(seed, i) if i else seed) for i, m in enumerate(self.members)]
        self.counts = torch.tensor([len(m) for m in self.members])

    def take(self, number: int) -> Tensor:
        """Indices [size] of batch `number`, counted over all epochs."""
        epoch = self._epoch_of(number)
        before = self._batches_before(epoch)
        buckets = torch.repeat_interleave(self._batches_before(epoch + 1) - before)  # one entry per batch of the epoch
        generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch, len(buckets)))
        buckets = buckets[torch.randperm(len(buckets), generator=generator)]
        position = number - int(before.sum())
        bucket = int(buckets[position])
        batch_of_bucket = int(before[bucket] + (buckets[:position] == bucket).sum())
        return self.members[bucket][self.orders[bucket].take(batch_of_bucket * self.size, self.size)]

    def _epoch_of(self, number: int) -> int:
        epoch = number * self.size // int(self.counts.sum())
        while int(self._batches_before(epoch + 1).sum()) <= number:
            epoch += 1
        return epoch

    def _batches_before(self, epoch: int) -> Tensor:
        """Batches of each bucket before an epoch."""
        return epoch * self.counts // self.size


def mix_seed(*numbers: int) -> int:
    """One seed from several numbers; neighbouring numbers give unrelated seeds (splitmix64)."""
    mixed = 0
    for n in numbers:
        mixed = (mixed + n + 0x9E3779B97F4A7C15) & (2**64 - 1)
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        mixed ^= mixed >> 31
    return mixed >> 1

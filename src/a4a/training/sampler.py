"""Which rows a pass takes: a function of seed and number alone, so that no state is kept and any process can work it out."""

import torch
from torch import Tensor


class EpochShuffle:
    """A new random order of all rows in every epoch, by seed alone."""

    def __init__(self, rows: int, seed: int):
        self.rows, self.seed, self.epoch, self.order = rows, seed, -1, torch.empty(0, dtype=torch.long)

    def take(self, start: int, count: int) -> Tensor:
        """Indices of the samples start .. start + count, counted over all epochs."""
        parts = []
        while count > 0:
            epoch, offset = divmod(start, self.rows)
            if epoch != self.epoch:
                generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
                self.epoch, self.order = epoch, torch.randperm(self.rows, generator=generator)
            parts.append(self.order[offset : offset + count])
            start, count = start + len(parts[-1]), count - len(parts[-1])
        return torch.cat(parts)


class BucketBatchSampler:
    """The rows of every pass over `size` samples (those of all processes together), of one bucket each.

    `buckets` [rows] names the bucket of each row; None is one bucket. Each bucket has an order of its own, cut into
    passes; an epoch holds as many passes of a bucket as its rows fill, in random order, and what is left of it comes
    first in the next. So each row comes once in every epoch of its bucket, and all depends on `size` alone: two
    processes with half the batch see what one sees.
    """

    def __init__(self, rows: int, seed: int, size: int, buckets: Tensor | None = None):
        names = torch.zeros(rows, dtype=torch.long) if buckets is None else buckets
        self.seed, self.size = seed, size
        self.members = [(names == name).nonzero().flatten() for name in names.unique()]
        self.orders = [EpochShuffle(len(m), mix_seed(seed, i) if i else seed) for i, m in enumerate(self.members)]
        self.counts = torch.tensor([len(m) for m in self.members])

    def take(self, number: int) -> Tensor:
        """Indices [size] of the pass with that number, counted over all epochs."""
        epoch = number * self.size // int(self.counts.sum())
        while int(self._before(epoch + 1).sum()) <= number:
            epoch += 1
        before = self._before(epoch)
        kinds = torch.repeat_interleave(self._before(epoch + 1) - before)
        kinds = kinds[
            torch.randperm(len(kinds), generator=torch.Generator().manual_seed(mix_seed(self.seed, epoch, len(kinds))))
        ]
        place = number - int(before.sum())
        bucket = int(kinds[place])
        nth = int(before[bucket] + (kinds[:place] == bucket).sum())
        return self.members[bucket][self.orders[bucket].take(nth * self.size, self.size)]

    def _before(self, epoch: int) -> Tensor:
        """Passes of each bucket before an epoch."""
        return epoch * self.counts // self.size


def mix_seed(*numbers: int) -> int:
    """One seed from several, so that neighbours share nothing (splitmix64)."""
    mixed = 0
    for n in numbers:
        mixed = (mixed + n + 0x9E3779B97F4A7C15) & (2**64 - 1)
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        mixed ^= mixed >> 31
    return mixed >> 1

"""Batches for the training loop, fetched ahead in a thread where the device computes meanwhile."""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from a4a.training.base import Batch


def fetch_batches(fetch: Callable[[int], Batch], numbers: range, ahead: bool) -> Generator[Batch, None, None]:
    """`fetch(number)` for each number in turn. With `ahead`, the next is fetched while the caller uses this one."""
    if not ahead:
        yield from map(fetch, numbers)
        return
    with ThreadPoolExecutor(1) as pool:
        upcoming = [pool.submit(fetch, number) for number in numbers[:1]]
        for number in numbers:
            batch = upcoming.pop().result()
            if number + 1 in numbers:
                upcoming.append(pool.submit(fetch, number + 1))
            yield batch


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on `device`; everything else as it is."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }

"""The bytes that operations allocate, counted without allocating them."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MemoryTracker(TorchDispatchMode):
    """Adds up the storages that operations create, for as long as they are alive; also on the meta device.

    Args:
        excluded: tensors whose storages are not counted.
    """

    def __init__(self, excluded: list[Tensor]):
        super().__init__()
        self.allocated, self.peak = 0, 0
        self._seen = {t.untyped_storage()._cdata for t in excluded}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, Tensor):
                self._count(t.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address in self._seen:
            return
        self._seen.add(address)
        self.allocated += size
        self.peak = max(self.peak, self.allocated)

        def release() -> None:
            self._seen.discard(address)
            self.allocated -= size

        weakref.finalize(storage, release)


def step_bytes(loss: nn.Module, batch: dict[str, Tensor]) -> int:
    """Peak bytes of one forward and backward pass besides parameters, buffers and the batch; drops the gradients."""
    on_meta = batch["latents"].device.type == "meta"
    excluded = [*loss.parameters(), *loss.buffers(), *batch.values()]
    with _fused_attention() if on_meta else nullcontext(), MemoryTracker(excluded) as tracker:
        loss(batch).backward()
    loss.zero_grad(set_to_none=True)
    return tracker.peak


@contextmanager
def _fused_attention() -> Iterator[None]:
    """Attention keeps what fused kernels keep; the meta device would choose one that keeps the attention matrix."""
    original = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda query, key, value, *_, **__: _FusedAttention.apply(query, key, value)
    try:
        yield
    finally:
        F.scaled_dot_product_attention = original


class _FusedAttention(torch.autograd.Function):
    """Keeps query, key, value, result and one float32 per row (the log of the softmax's sum)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        row_sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, row_sums)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)

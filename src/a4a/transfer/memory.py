"""How much memory a training step needs, found out on the meta device: the step is run on shapes, and what is alive is added up.

    peak(batch) = weights + encoders + optimiser + average + buckets + working(batch)
    working(batch) = max(least, fixed + each * batch)

- weights: of the denoiser as it is kept, and four bytes for each number of the adapter;
- encoders: VAE, text and image encoders, where they stay: for data that are not encoded, or for evaluation;
- optimiser: 8 bytes for each trained number (Adam's two moments), 2 with 8-bit states; average: 4 where one is kept;
- buckets: 4 bytes for each trained number where several processes add up their gradients (DDP);
- working: the most bytes that are alive at once, besides those, in one forward and backward pass: what autograd keeps
  (with gradient checkpointing what it keeps of each block, and all of the block that is being recomputed), what passes
  by, and the gradients. Attention is counted as the fused kernels do it: query, key, value, result and the rows' sums
  are kept, the matrix of weights never exists. It peaks where backward begins, and is then linear in the batch, or, in
  small batches of large adapters, where backward ends and all gradients are there: one sample gives `least`, two large
  batches `fixed` and `each`. Gradients that are accumulated over several passes are there from the beginning.

Not in it: what the CUDA context and the libraries' workspaces take, for which `RESERVED` is kept free (an estimate).
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from a4a.adapters.base import ImagePromptAdapter
from a4a.adapters.meta import embed_width, encoder_size, load_meta_adapter
from a4a.backbones.meta import MetaModel, load_meta_model
from a4a.errors import InputError
from a4a.training.config import TrainingConfig
from a4a.training.denoising import Denoising, ObjectiveConfig
from a4a.training.optimizers import STATE_BYTES
from a4a.transfer.config import AdapterConfig, Precision

RESERVED = 1.5 * 2**30
MANY = 64
"""Samples in a batch that is surely ruled by what autograd keeps; on shapes it costs what one sample costs."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one process."""

    denoiser: int
    adapter: int
    gradients: int
    optimizer: int
    average: int
    buckets: int
    least: int
    """Of the working memory, however small the batch."""
    fixed: int
    """Of the working memory of a larger batch, whatever its size."""
    each: int
    """Of the working memory of a larger batch, for each sample of a forward pass."""
    encoders: int = 0

    def working(self, batch: int) -> int:
        return max(self.least, self.fixed + self.each * batch)

    def activations(self, batch: int) -> int:
        """The working memory but for the gradients, which are not all there when it is largest."""
        return max(self.working(batch) - self.gradients, 0)

    @property
    def lasting(self) -> int:
        """What is there before a pass and after it."""
        return self.denoiser + self.adapter + self.encoders + self.optimizer + self.average + self.buckets

    def peak(self, batch: int) -> int:
        return self.lasting + self.working(batch)

    def largest_batch(self, gpu: float) -> int:
        """On a device of so many bytes; 0 where not even one sample fits."""
        free = gpu - RESERVED - self.lasting
        return max(int((free - self.fixed) // self.each), 0) if free >= self.least else 0


@dataclass(frozen=True)
class TransferPlan:
    """What a recipe would build, without weights."""

    meta_model: MetaModel
    adapter: ImagePromptAdapter
    estimate: MemoryEstimate
    trained: int


def estimate_memory(
    model: Any,
    image_encoder: Any,
    source: Any,
    method: AdapterConfig,
    objective: ObjectiveConfig,
    training: TrainingConfig,
    precision: Precision,
    processes: int = 1,
    pixels: int | None = None,
    encoders: bool = False,
) -> TransferPlan:
    """Runs a step of a recipe on shapes; seconds, and no weights are read but of a source adapter that is no published one.

    `encoders`: VAE, text and image encoders stay beside the denoiser.
    """
    meta_model, origin = load_meta_model(model), load_meta_adapter(source)
    with torch.device("meta"):
        adapter = method.build(meta_model.backbone, origin, embed_width(image_encoder, origin))
    nn.Module.to(
        meta_model.backbone.denoiser, precision.dtype
    )  # diffusers' own warns of layers that it would keep, where there are none
    alone = replace(precision, shard=False)
    with torch.device("meta"):
        alone.apply(meta_model.backbone)
    loss = Denoising(
        meta_model.backbone, adapter, replace(objective, compile=False), no_text=text(meta_model, 1, precision, "meta")
    )
    side = meta_model.side(pixels)
    one, many, twice = (
        working(loss, batch(meta_model, adapter, n, side, precision, "meta")) for n in (1, MANY, 2 * MANY)
    )
    loss.detach()
    kept, trained = (
        _bytes(meta_model.backbone.denoiser),
        sum(p.numel() for p in adapter.parameters() if p.requires_grad),
    )
    if precision.shard:
        blocks = [
            _bytes(m) for m in meta_model.backbone.denoiser.modules() if type(m).__name__ == meta_model.backbone.block
        ]
        kept -= (
            sum(blocks) - sum(blocks) // processes - 2 * max(blocks)
        )  # two are together at a time: one runs, one is fetched
    always = 2 * trained if training.mixed_precision != "no" else 0  # autocast's copies of what is trained
    held = 4 * trained if training.gradient_accumulation > 1 else 0
    estimate = MemoryEstimate(
        denoiser=kept,
        adapter=_bytes(adapter),
        gradients=4 * trained,
        optimizer=int(STATE_BYTES[training.optimizer] * trained),
        average=4 * trained if training.ema_decay else 0,
        buckets=4 * trained if processes > 1 else 0,
        least=always + one,
        fixed=always + held + max(2 * many - twice, 0),
        each=(twice - many) // MANY,
        encoders=precision.dtype.itemsize * (sum(meta_model.encoders.values()) + encoder_size(image_encoder))
        if encoders
        else 0,
    )
    return TransferPlan(meta_model, adapter, estimate, trained)


def check_fit(estimate: MemoryEstimate, batch_size: int, gpu: float) -> None:
    """InputError where a batch does not fit a device of so many bytes."""
    if estimate.peak(batch_size) + RESERVED > gpu:
        largest = estimate.largest_batch(gpu)
        instead = (
            f"set it to {largest} and training.gradient_accumulation up, or objective.gradient_checkpointing to true"
            if largest
            else "set objective.gradient_checkpointing to true, precision.frozen to int8 or precision.shard to true, or use a larger GPU"
        )
        if estimate.encoders:
            instead += f" (the encoders take {estimate.encoders / 1e9:.1f} GB: none with a4a.data.PreparedDataset and without evaluation)"
        raise InputError(
            f"training.batch_size {batch_size} needs about {(estimate.peak(batch_size) + RESERVED) / 1e9:.1f} GB but the GPU has {gpu / 1e9:.1f} GB; {instead}."
        )


def batch(
    meta_model: MetaModel,
    adapter: ImagePromptAdapter,
    rows: int,
    side: int,
    precision: Precision,
    device: torch.device | str,
) -> dict[str, Any]:
    """Random numbers in the shapes that the training data have."""
    return {
        "latents": torch.randn(rows, meta_model.channels, side, side, dtype=torch.float16, device=device),
        "embeds": torch.randn(rows, adapter.image_embed_dim, dtype=torch.float16, device=device),
        **{f"text.{name}": t for name, t in text(meta_model, rows, precision, device).items()},
    }


def text(meta_model: MetaModel, rows: int, precision: Precision, device: torch.device | str) -> dict[str, Tensor]:
    shapes = meta_model.backbone.text_shapes().items()
    return {
        name: torch.ones(rows, *shape, dtype=kind, device=device)
        if kind
        else torch.randn(rows, *shape, dtype=precision.dtype, device=device)
        for name, (shape, kind) in shapes
    }


def working(loss: nn.Module, inputs: dict[str, Tensor]) -> int:
    """The most bytes alive at once in a forward and backward pass, but for parameters, buffers and inputs; drops the gradients."""
    with (
        _fused() if inputs["latents"].device.type == "meta" else nullcontext(),
        MemoryTracker([*loss.parameters(), *loss.buffers(), *inputs.values()]) as tracker,
    ):
        loss(inputs).backward()
    loss.zero_grad(set_to_none=True)
    return tracker.peak


class MemoryTracker(TorchDispatchMode):
    """Adds up the storages that operations make, for as long as they are alive."""

    def __init__(self, known: list[Tensor]):
        super().__init__()
        self.alive, self.peak = 0, 0
        self.known = {t.untyped_storage()._cdata for t in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, Tensor):
                self._see(t.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place in self.known:
            return
        self.known.add(place)
        self.alive += size
        self.peak = max(self.peak, self.alive)

        def gone() -> None:
            self.known.discard(place)
            self.alive -= size

        weakref.finalize(storage, gone)


@contextmanager
def _fused() -> Iterator[None]:
    """Attention as the fused kernels keep it; the meta device would choose the one that keeps the matrix of weights."""
    stock = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda query, key, value, *_, **__: _Attention.apply(query, key, value)
    try:
        yield
    finally:
        F.scaled_dot_product_attention = stock


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _bytes(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])

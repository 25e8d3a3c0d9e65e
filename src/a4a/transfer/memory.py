"""Estimate the peak memory of training by tracing one step on meta tensors.

    peak(batch) = persistent + step(batch)
    persistent  = denoiser + adapter + encoders + optimizer + ema + ddp_buckets
    step(batch) = max(step_minimum, step_fixed + step_per_sample * batch)

- denoiser: as it is kept (precision, shards); adapter: 4 bytes for each parameter;
- encoders: VAE, text and image encoders where they stay loaded: for data that are not encoded, or for evaluation;
- optimizer: 8 bytes for each trained parameter (Adam's two moments), 2 with 8-bit states; ema: 4 where a moving average
  is kept; ddp_buckets: 4 where several processes add up their gradients;
- step: the most bytes alive at once, besides those, in one forward and backward pass: activations (with gradient
  checkpointing the inputs of each block, and all of the block that is being recomputed), temporaries and gradients.
  Attention is counted as fused kernels run it: query, key, value, result and one sum per row are kept, the attention
  matrix never exists. The peak is where backward begins, and linear in the batch; or, for small batches of large
  adapters, where backward ends and all gradients are there. So one sample gives `step_minimum`, two large batches
  `step_fixed` and `step_per_sample`. Gradients accumulated over several passes are there from the beginning.

Not counted: the CUDA context and the workspaces of libraries, for which `RESERVED` bytes are kept free (a guess).
"""

from dataclasses import dataclass

from torch import nn

from a4a.adapters.meta import encoder_size
from a4a.backbones import Backbone
from a4a.errors import InputError
from a4a.training.optimizers import STATE_BYTES
from a4a.transfer.config import TransferSettings
from a4a.transfer.memory_tracker import step_bytes
from a4a.transfer.meta import MetaTransfer

RESERVED = 1.5 * 2**30
"""Bytes that are kept free for the CUDA context and libraries (a guess)."""
LARGE_BATCH = 64
"""Samples in a batch whose activations surely outweigh the gradients; on the meta device it costs as much as one."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Estimated bytes of one process; `trained_parameters` is a count."""

    trained_parameters: int
    denoiser: int
    adapter: int
    optimizer: int
    ema: int
    ddp_buckets: int
    step_minimum: int
    """Least bytes of a step, however small the batch."""
    step_fixed: int
    """The part of a large batch's step that does not depend on its size."""
    step_per_sample: int
    """The part of a large batch's step for each sample of a forward pass."""
    encoders: int = 0

    @property
    def gradients(self) -> int:
        return 4 * self.trained_parameters

    @property
    def persistent(self) -> int:
        """Allocated before a step and after it."""
        return self.denoiser + self.adapter + self.encoders + self.optimizer + self.ema + self.ddp_buckets

    def step(self, batch: int) -> int:
        return max(self.step_minimum, self.step_fixed + self.step_per_sample * batch)

    def activations(self, batch: int) -> int:
        """A step's bytes without the gradients, not all of which exist at its peak."""
        return max(self.step(batch) - self.gradients, 0)

    def peak(self, batch: int) -> int:
        return self.persistent + self.step(batch)

    def largest_batch(self, device_bytes: float) -> int:
        """The largest batch that fits a device of so many bytes; 0 where not even one sample fits."""
        free = device_bytes - RESERVED - self.persistent
        if free < self.step_minimum:
            return 0
        return max(int((free - self.step_fixed) // self.step_per_sample), 0)


def estimate_memory(
    built: MetaTransfer, processes: int = 1, pixels: int | None = None, with_encoders: bool = False
) -> MemoryEstimate:
    """Traces steps of a transfer on the meta device; takes seconds.

    Args:
        built: the transfer's models on the meta device.
        processes: of the run, one for each GPU.
        pixels: side of the training images; the model's own size by default.
        with_encoders: VAE, text and image encoders stay loaded.
    """
    settings = built.settings
    training = settings.training
    one, large, twice = _step_bytes(built, pixels, (1, LARGE_BATCH, 2 * LARGE_BATCH))
    trained = sum(p.numel() for p in built.adapter.parameters() if p.requires_grad)
    autocast_copies = 2 * trained if training.mixed_precision != "no" else 0
    accumulated_gradients = 4 * trained if training.gradient_accumulation > 1 else 0
    return MemoryEstimate(
        trained_parameters=trained,
        denoiser=_denoiser_bytes(built.model.backbone, processes if settings.precision.shard else 1),
        adapter=_bytes(built.adapter),
        optimizer=int(STATE_BYTES[training.optimizer] * trained),
        ema=4 * trained if training.ema_decay else 0,
        ddp_buckets=4 * trained if processes > 1 else 0,
        step_minimum=autocast_copies + one,
        step_fixed=autocast_copies + accumulated_gradients + max(2 * large - twice, 0),
        step_per_sample=(twice - large) // LARGE_BATCH,
        encoders=_encoder_bytes(built, settings) if with_encoders else 0,
    )


def check_fit(estimate: MemoryEstimate, batch_size: int, device_bytes: float) -> None:
    """InputError where a batch does not fit a device of so many bytes."""
    needed = estimate.peak(batch_size) + RESERVED
    if needed <= device_bytes:
        return
    if largest := estimate.largest_batch(device_bytes):
        advice = (
            f"set it to {largest} and training.gradient_accumulation up, or objective.gradient_checkpointing to true"
        )
    else:
        advice = (
            "set objective.gradient_checkpointing to true, precision.frozen to int8 or precision.shard to true, "
            "or use a larger GPU"
        )
    if estimate.encoders:
        advice += (
            f" (the encoders take {estimate.encoders / 1e9:.1f} GB: "
            "none with a4a.data.PreparedDataset and without evaluation)"
        )
    raise InputError(
        f"training.batch_size {batch_size} needs about {needed / 1e9:.1f} GB "
        f"but the GPU has {device_bytes / 1e9:.1f} GB; {advice}."
    )


def _step_bytes(built: MetaTransfer, pixels: int | None, batches: tuple[int, ...]) -> list[int]:
    """Of a step of each of these batch sizes."""
    with built.objective() as loss:
        return [step_bytes(loss, built.random_batch(rows, pixels, "meta")) for rows in batches]


def _denoiser_bytes(backbone: Backbone, shards: int) -> int:
    """Of the denoiser, or of one process's part of it: a shard of each block, and two whole blocks while they run."""
    total = _bytes(backbone.denoiser)
    if shards == 1:
        return total
    blocks = [_bytes(m) for m in backbone.denoiser.modules() if type(m).__name__ in backbone.blocks]
    running = 2 * max(blocks)  # one computes while the next is gathered
    return total - sum(blocks) + sum(blocks) // shards + running


def _encoder_bytes(built: MetaTransfer, settings: TransferSettings) -> int:
    parameters = sum(built.model.encoders.values()) + encoder_size(settings.image_encoder)
    return settings.precision.dtype.itemsize * parameters


def _bytes(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])

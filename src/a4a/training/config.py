"""Settings of a training run."""

from dataclasses import dataclass, field
from typing import Literal

from a4a.errors import InputError
from a4a.training.optimizers import OptimizerName


@dataclass
class TrainingConfig:
    """How long and how a run trains, and what it keeps."""

    samples: int = 240_000
    """Samples to process in all (SC in the paper: steps x batch x processes)."""
    batch_size: int = 4
    """Samples per process and forward pass."""
    gradient_accumulation: int = 1
    """Forward passes per optimizer step."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """Course of the learning rates after the warm-up."""
    warmup: int = 0
    """Optimizer steps over which the learning rates rise from zero."""
    optimizer: OptimizerName = "adamw"
    """`adamw`, fused on a GPU; `adamw_8bit` keeps its state in a quarter of the memory (pip install a4a[quant])."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """Clip the norm of the gradients to this; 0 does not clip."""
    ema_decay: float | None = None
    """Decay of the moving average of the weights that is saved and scored instead of them; none by default."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Autocast; the trained weights stay float32."""
    seed: int = 0
    """Seed of the adapter's initial weights, the order of the data and the noise."""
    checkpoint_every: int = 20_000
    """Samples between two checkpoints."""
    keep_checkpoints: int = 2
    """Older checkpoints are removed."""
    skip_nonfinite: int = 0
    """Leave out up to so many steps whose loss or gradients are not finite; by default the first one stops the run."""
    evaluate_every: int | None = None
    """Samples between two evaluations; only at the start and the end by default."""
    evaluate_at: list[int] = field(default_factory=list)
    """Sample counts to evaluate at besides, for curves that rise early."""
    tensorboard: bool = True
    """Log to TensorBoard besides the CSV file."""

    def __post_init__(self):
        for name in ("batch_size", "gradient_accumulation", "checkpoint_every", "evaluate_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(
                    f"training.{name} is {value}; give a number of at least 1, or leave it out for its default."
                )
        if self.skip_nonfinite < 0:
            raise InputError(f"training.skip_nonfinite is {self.skip_nonfinite}; give 0 or more.")

"""Step 3 of a check: the recipe's own training, on a few samples, which it must learn by heart."""

import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from a4a.adapters.base import ImagePromptAdapter
from a4a.backbones import backbone_for
from a4a.data.subset import FewSamples, few_samples
from a4a.encoders.base import ImageEncoder
from a4a.evaluation.tasks.base import Task
from a4a.evaluation.validation import ValidationResult, Validator
from a4a.training.config import TrainingConfig
from a4a.training.log import read_log
from a4a.transfer.check.report import Finding
from a4a.transfer.check.setup import CheckSetup
from a4a.transfer.config import TransferSettings
from a4a.transfer.run import train_adapter
from a4a.utils.machine import peak_bytes


@dataclass(frozen=True)
class Measured:
    """What overfitting a few samples cost."""

    samples_per_second: float
    seconds_per_image: float
    """Of drawing and scoring an image of the evaluation."""
    peak_bytes: int
    """Of training."""


def overfit(setup: CheckSetup) -> Generator[Finding, None, Measured]:
    """Trains on a few samples alone, and scores them before and after."""
    config, folder = setup.config, setup.folder / "overfit"
    data = few_samples(setup.data, config.overfit)
    watch = _Watch(setup.evaluation, data)
    settings = overfit_settings(setup.settings, config.steps)
    try:
        train_adapter(settings, data, folder, watch, setup.cache)
    except (FloatingPointError, torch.OutOfMemoryError) as error:
        yield _stopped(setup, error)
        raise
    log = read_log(folder / "log.csv")
    yield _rise(setup, log, folder)
    return Measured(_samples_per_second(log), min(watch.seconds) / len(watch.task), watch.peak)


def overfit_settings(settings: TransferSettings, steps: int) -> TransferSettings:
    """The recipe's own settings, for so many steps of one forward pass each, at full learning rates."""
    batch = settings.training.batch_size
    changes = {"gradient_accumulation": 1, "schedule": "constant", "warmup": 0}
    once = {"samples": steps * batch, "checkpoint_every": steps * batch, "keep_checkpoints": 1}
    evaluate_at_both_ends = {"evaluate_every": None, "evaluate_at": []}
    training: TrainingConfig = replace(settings.training, **changes, **once, **evaluate_at_both_ends)
    return replace(settings, training=training)


ENDS = (".low", ".high")
"""Of columns with the ends of a score's interval."""


class _Watch(Validator):
    """The recipe's evaluation on the overfitted samples; it notes how long it takes, and what training took."""

    def __init__(self, evaluation: Validator, samples: FewSamples):
        e = evaluation
        super().__init__(e.task, e.metrics, e.sampling, e.scale, e.batch, e.seed, grid_subjects=len(e.task.subjects))
        self.samples = samples
        self.seconds: list[float] = []
        self.peak = 0
        """Bytes at the peak since the evaluation before."""

    def __call__(
        self, pipe: DiffusionPipeline, adapter: ImagePromptAdapter | None, image_encoder: ImageEncoder | None
    ) -> ValidationResult:
        self.peak = peak_bytes()
        if not self.seconds:  # only now there is a pipeline that decodes prepared data
            references, captions = self.samples.examples(backbone_for(pipe))
            self.task = Task([f"sample {i}" for i in range(len(captions))], references, captions)
        began = time.perf_counter()
        result = super().__call__(pipe, adapter, image_encoder)
        self.seconds.append(time.perf_counter() - began)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        return result


def _rise(setup: CheckSetup, log: list[dict[str, float]], folder: Path) -> Finding:
    score, rates = setup.config.score, setup.settings.objective.rates
    names = [name for name in log[0] if name == score or (name.startswith(f"{score} (") and not name.endswith(ENDS))]
    score = min(names, key=lambda name: log[-1][name] - log[0][name])  # of several sources, the one that learns least
    before, after = (row[score] for row in (log[0], log[-1]))
    return Finding(
        f"{score} of the overfitted samples",
        f"{before:.3f} before, {after:.3f} after, {after - before:+.3f}",
        f"a rise of at least {setup.config.rise:g}",
        after - before >= setup.config.rise,
        f"objective.rates (projection {rates.projection:g}, mapping {rates.mapping:g}, adapter {rates.adapter:g}), the "
        f"losses in {folder}/log.csv and the images in {folder}/samples; does it rise with more --steps?",
        {"before": before, "after": after, "loss": log[-1]["loss"]},
        str(folder / "samples"),
    )


def _stopped(setup: CheckSetup, error: Exception) -> Finding:
    if isinstance(error, FloatingPointError):
        look_at = "objective.rates, training.mixed_precision and precision.frozen, and the samples that it names"
    else:
        look_at = "training.batch_size, objective.gradient_checkpointing, and what else runs on this GPU (nvidia-smi)"
    return Finding("training", str(error).rstrip("."), f"{setup.config.steps} steps to the end", False, look_at)


def _samples_per_second(log: list[dict[str, float]]) -> float:
    """Of the later two thirds of the steps: the first ones are slower. The log has the mean rate since the start."""
    rows = [row for row in log if row.get("samples_per_second")]
    (n0, t0), (n1, t1) = (
        (r["samples"], r["samples"] / r["samples_per_second"]) for r in (rows[len(rows) // 3], rows[-1])
    )
    return (n1 - n0) / (t1 - t0)

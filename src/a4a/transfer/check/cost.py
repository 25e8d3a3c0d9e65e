"""Step 4 of a check: speed and memory as measured while overfitting, against what `a4a plan` says."""

from collections.abc import Generator
from dataclasses import replace

from a4a.training.config import TrainingConfig
from a4a.training.distributed import process_device
from a4a.transfer.check.overfit import Measured, overfit_settings
from a4a.transfer.check.report import Finding
from a4a.transfer.check.setup import CheckSetup
from a4a.transfer.compute import flops_per_sample, gpu_hours
from a4a.transfer.memory import RESERVED, estimate_memory
from a4a.transfer.meta import MetaTransfer, load_meta_transfer


def compare_cost(setup: CheckSetup, measured: Measured) -> Generator[Finding, None, None]:
    """Hours of the whole run by the measured rate, and the peak of memory."""
    built = load_meta_transfer(setup.settings)
    yield _hours(setup, built, measured)
    yield _memory(setup, built, measured)


def _hours(setup: CheckSetup, built: MetaTransfer, measured: Measured) -> Finding:
    rate = measured.samples_per_second
    training, slowdown = setup.settings.training, setup.config.slowdown
    flops = flops_per_sample(built, setup.data.size)
    planned = gpu_hours(flops, training.samples)
    hours = training.samples / rate / 3600
    evaluations = _count_evaluations(training)
    evaluating = evaluations * len(setup.evaluation.task) * measured.seconds_per_image / 3600
    limit = f"at most {slowdown:g} times that" if slowdown is not None else "not compared, by the recipe"
    return Finding(
        f"hours of one GPU for {training.samples:,} samples",
        f"{hours:.1f} at {rate:.1f} samples/s, and {evaluating:.1f} for {evaluations} evaluations",
        f"{planned:.1f} on an A100 by a4a plan, {limit}",
        slowdown is None or hours <= slowdown * planned,
        "the GPU (nvidia-smi: is it the one you pay for, and alone?), the disk of prepared data, objective.compile and "
        "objective.gradient_checkpointing",
        {
            "samples_per_second": rate,
            "hours": hours,
            "evaluation_hours": evaluating,
            "planned_hours": planned,
        },
    )


def _count_evaluations(training: TrainingConfig) -> int:
    """How often training evaluates: at the start, at the end, and in between."""
    every = training.evaluate_every or training.samples
    listed = [count for count in training.evaluate_at if count < training.samples and count % every]
    return 2 + (training.samples - 1) // every + len(listed)


def _memory(setup: CheckSetup, built: MetaTransfer, measured: Measured) -> Finding:
    settings = overfit_settings(setup.settings, setup.config.steps)
    batch, pixels = settings.training.batch_size, setup.data.size
    peak, whole = (
        estimate_memory(run, 1, pixels, with_encoders=True).peak(batch)
        for run in (replace(built, settings=settings), built)
    )
    values = {"peak_bytes": measured.peak_bytes, "planned_bytes": peak, "planned_bytes_of_the_run": whole}
    found = f"{measured.peak_bytes / 1e9:.2f} GB"
    if process_device().type != "cuda":
        expected = f"not compared, since it includes all libraries: {peak / 1e9:.2f} GB by a4a plan"
        return Finding("memory at the peak, of this process", found, expected, values=values)
    return Finding(
        "memory at the peak of training",
        found,
        f"at most {peak / 1e9:.2f} GB by a4a plan and {RESERVED / 1e9:.2f} for libraries; the whole run "
        f"{whole / 1e9:.2f}",
        measured.peak_bytes <= peak + RESERVED,
        "a4a plan and the table of what saves memory in docs/your-own-adapter.md; the plan is wrong for this model: "
        "take a smaller training.batch_size, and tell us",
        values,
    )

"""The figures of a dry run as a table to read."""

from typing import Any

SHOWN = 3
"""Names of parameters that a line lists before it counts the rest."""


def report(figures: dict[str, Any]) -> str:
    """One line a fact: what ran, loss and gradients, memory planned and measured, time."""
    rows = {
        "images": _images(figures),
        "denoiser": _denoiser(figures),
        "adapter": f"{_millions(figures['adapter_parameters'])} parameters in float32, "
        f"{_millions(figures['memory']['plan']['trained_parameters'])} of them trained; "
        f"autocast: {figures['mixed_precision']}",
        "loss": f"{', '.join(f'{loss:.4f}' for loss in figures['losses'])} (finite)",
        "gradients": _gradients(figures["gradients"], figures["mixed_precision"]),
        "memory": _memory(figures),
        "time": f"{figures['seconds_per_step']:.2f} s/step, {figures['seconds_per_sample']:.2f} s/sample, "
        f"{figures['samples_per_second']:.3g} samples/s (second step; the first took "
        f"{figures['seconds_of_first_step']:.2f} s) on {figures['machine']}",
        "saved, loaded": f"the adapter changes a prediction by {figures['change_by_adapter']:.2g} of its size (finite)",
    }
    head = f"Dry run of {figures['method']} for {figures['model']}: {len(figures['losses'])} steps, random weights and data"
    return "\n".join([head, *(f"  {name:15} {value}" for name, value in rows.items())])


def _images(figures: dict[str, Any]) -> str:
    side, processes, passes = figures["pixels"], figures["processes"], figures["gradient_accumulation"]
    return (
        f"{side} x {side} pixels, {figures['batch_size']} a forward pass, {_count(passes, 'pass', 'passes')} a step, "
        f"{_count(processes, 'process', 'processes')}"
    )


def _denoiser(figures: dict[str, Any]) -> str:
    checkpointing = "gradient checkpointing" if figures["gradient_checkpointing"] else "no gradient checkpointing"
    sharded = ", blocks sharded over the processes" if figures["shard"] else ""
    return f"{_millions(figures['denoiser_parameters'])} parameters in {figures['frozen']}, {checkpointing}{sharded}"


def _gradients(gradients: dict[str, Any], mixed_precision: str) -> str:
    total, not_finite, zero = gradients["trained_tensors"], gradients["not_finite"], gradients["always_zero"]
    if not not_finite and not zero:
        return f"finite and not zero at all {total:,} trained tensors"
    parts = [f"of {total:,} trained tensors"]
    if not_finite:
        skipped = " (such a step is skipped, and the loss scale halved)" if mixed_precision == "fp16" else ""
        parts.append(f"not finite at {_names(not_finite)}{skipped}")
    if zero:
        parts.append(f"always zero at {_names(zero)}")
    return ", ".join(parts)


def _memory(figures: dict[str, Any]) -> str:
    memory = figures["memory"]
    planned, measured = memory["planned_bytes"], memory["measured_bytes"]
    where = (
        "allocated on the GPU"
        if figures["device"] == "cuda"
        else f"resident, besides {memory['libraries_bytes'] / 1e9:.2f} GB that libraries took before"
    )
    return (
        f"planned {planned / 1e9:.2f} GB, measured {measured / 1e9:.2f} GB ({measured / planned - 1:+.1%}) "
        f"a process: {where}"
    )


def _names(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:,.1f} M"

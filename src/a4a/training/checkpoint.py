"""Checkpoints: the trained weights, and what it takes to continue a run as if it had never stopped.

A checkpoint is a folder `checkpoints/<samples>` of

- `weights.safetensors`: the trained parameters alone, by name (never a frozen model);
- `ema.safetensors`: their moving average, where the run keeps one;
- `optimizer.pt`: the optimizer's state, read with `weights_only=True`;
- `state.json`: how many steps are done, and how many samples they took.

Everything else of a run (order of the data, noise, time steps, dropped conditions) depends on seed and step alone.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from a4a.errors import InputError
from a4a.utils.files import atomic_write, save_torch


@dataclass(frozen=True)
class Checkpoint:
    """The whole state of a run after `step` optimizer steps."""

    step: int
    samples: int
    weights: Mapping[str, Tensor]
    """The trained parameters by name."""
    optimizer: dict[str, Any]
    ema: Mapping[str, Tensor] | None = None
    """The moving average of the parameters, by the same names."""


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Writes the checkpoint into `folder` and removes all but the last `keep`."""
    target = folder / f"{checkpoint.samples:010d}"
    with atomic_write(target) as path:
        path.mkdir()
        save_file(_on_cpu(checkpoint.weights), path / "weights.safetensors")
        if checkpoint.ema is not None:
            save_file(_on_cpu(checkpoint.ema), path / "ema.safetensors")
        save_torch(checkpoint.optimizer, path / "optimizer.pt")
        (path / "state.json").write_text(json.dumps({"step": checkpoint.step, "samples": checkpoint.samples}))
    for old in existing(folder)[:-keep]:
        if old != target:
            shutil.rmtree(old)
    return target


def existing(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest first."""
    return sorted(p.parent for p in folder.glob("[0-9]*/state.json")) if folder.is_dir() else []


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint to the CPU; InputError where a part is missing or damaged."""
    try:
        state = json.loads((path / "state.json").read_text())
        return Checkpoint(
            step=state["step"],
            samples=state["samples"],
            weights=load_file(path / "weights.safetensors"),
            optimizer=torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu"),
            ema=load_file(path / "ema.safetensors") if (path / "ema.safetensors").exists() else None,
        )
    except Exception as error:
        raise InputError(
            f"The checkpoint {path} cannot be read ({error}); remove that folder and resume from an earlier one."
        ) from error


def load_for_run(path: Path, samples_per_step: int, parameters: Mapping[str, Tensor]) -> Checkpoint:
    """Reads a checkpoint; InputError where it is not of a run with this step size and these trained parameters."""
    checkpoint = load(path)
    if checkpoint.samples != checkpoint.step * samples_per_step:
        raise InputError(
            f"The checkpoint {path} was made with {checkpoint.samples / checkpoint.step:g} samples a step "
            f"(batch_size x gradient_accumulation x processes) but this run takes {samples_per_step}; "
            "set them so that they are as many again, or choose another output folder."
        )
    shapes = {name: t.shape for name, t in checkpoint.weights.items()}
    if shapes != {name: p.shape for name, p in parameters.items()}:
        raise InputError(
            f"The checkpoint {path} holds other parameters than this run trains; choose another output folder."
        )
    return checkpoint


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}

"""Checkpoints of a run: what is trained, and what it takes to go on as if nothing had happened.

A checkpoint is a folder `checkpoints/<samples>` of

- `weights.safetensors`: the trained parameters alone, by name (never a frozen model);
- `ema.safetensors`: their moving average, where the run keeps one;
- `optimizer.pt`: the optimizer's state, read with `weights_only=True`;
- `state.json`: how many steps are done, and how many samples they took.

All other state of a run (order of the data, noise, time steps, dropped conditions) is a function of seed and step.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from a4a.errors import InputError
from a4a.utils.files import atomic_write, save_torch


def save(
    folder: Path,
    samples: int,
    step: int,
    weights: dict[str, Tensor],
    optimizer: dict,
    ema: dict[str, Tensor] | None,
    keep: int,
) -> Path:
    """Writes the checkpoint of `samples` into `folder` and removes all but the last `keep`."""
    target = folder / f"{samples:010d}"
    with atomic_write(target) as beside:
        beside.mkdir()
        save_file(_plain(weights), beside / "weights.safetensors")
        if ema is not None:
            save_file(_plain(ema), beside / "ema.safetensors")
        save_torch(optimizer, beside / "optimizer.pt")
        (beside / "state.json").write_text(json.dumps({"step": step, "samples": samples}))
    for old in existing(folder)[:-keep]:
        if old != target:
            shutil.rmtree(old)
    return target


def existing(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest first."""
    return sorted(p.parent for p in folder.glob("[0-9]*/state.json")) if folder.is_dir() else []


def load(path: Path) -> tuple[int, int, dict[str, Tensor], dict, dict[str, Tensor] | None]:
    """Step, samples, weights, optimizer state and moving average of a checkpoint."""
    try:
        state = json.loads((path / "state.json").read_text())
        step, samples = state["step"], state["samples"]
        weights = load_file(path / "weights.safetensors")
        optimizer = torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu")
        ema = load_file(path / "ema.safetensors") if (path / "ema.safetensors").exists() else None
    except Exception as error:
        raise InputError(
            f"The checkpoint {path} cannot be read ({error}); remove that folder and resume from an earlier one."
        ) from error
    return step, samples, weights, optimizer, ema


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}

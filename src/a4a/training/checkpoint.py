"""Checkpoints: a model that can be used at once, and what it takes to continue a run as if it had never stopped.

A checkpoint is a folder `checkpoints/<samples>`, and `checkpoints/last` a link to the newest. It holds

- the model, as its `save_pretrained` writes it (`config.json`, weights): with a moving average, the averaged weights;
- `weights.safetensors`: the trained parameters by name, those left out whose values the model's files hold already;
- `ema.safetensors`: their moving average, with the same left out;
- `optimizer.pt`: the optimizer's state, read with `weights_only=True`;
- `state.json`: how many steps are done, how many samples they took, which parameters are trained.

Where an objective has no model of its own, the parameters alone are saved, never a frozen model.
Everything else of a run (order of the data, noise, time steps, dropped conditions) depends on seed and step alone.
"""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from a4a.errors import InputError
from a4a.utils.files import atomic_write, save_torch
from a4a.utils.hub import MODEL_WEIGHTS

LAST = "last"


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


@dataclass(frozen=True)
class SavedModel:
    """The part of an objective that each checkpoint holds as a folder to load a model from."""

    name: str
    """Of the submodule, with which the names of its parameters begin."""
    write: Callable[[Path, int], None]
    """Writes it as it is now, after so many samples, into a folder as `save_pretrained` does, in float32."""


def save(folder: Path, checkpoint: Checkpoint, keep: int, model: SavedModel | None = None) -> Path:
    """Writes the checkpoint into `folder` and removes all but the last `keep`.

    `model` writes the values of `checkpoint.ema` where there are some, else those of `checkpoint.weights`.
    """
    target = folder / f"{checkpoint.samples:010d}"
    in_model = {n for n in checkpoint.weights if model is not None and n.startswith(f"{model.name}.")}
    state: dict[str, Any] = {"step": checkpoint.step, "samples": checkpoint.samples}
    with atomic_write(target) as path:
        path.mkdir()
        if model is not None:
            model.write(path, checkpoint.samples)
            state |= {"model": model.name, "trained_in_model": sorted(in_model)}
        if checkpoint.ema is None:
            _save_but(in_model, checkpoint.weights, path / "weights.safetensors")
        else:
            _save_but(set(), checkpoint.weights, path / "weights.safetensors")
            _save_but(in_model, checkpoint.ema, path / "ema.safetensors")
        save_torch(checkpoint.optimizer, path / "optimizer.pt")
        (path / "state.json").write_text(json.dumps(state | {"ema": checkpoint.ema is not None}))
    _link(folder / LAST, target.name)
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
        in_model = _read_model(path, state["model"], state["trained_in_model"]) if "model" in state else {}
        weights, ema = (_load_if_there(path / f"{name}.safetensors") for name in ("weights", "ema"))
        return Checkpoint(
            step=state["step"],
            samples=state["samples"],
            weights=weights if state["ema"] else weights | in_model,
            optimizer=torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu"),
            ema=ema | in_model if state["ema"] else None,
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


def _read_model(path: Path, name: str, trained: list[str]) -> dict[str, Tensor]:
    """The trained parameters, by their names in the objective, from the files of the submodule `name`."""
    files = sorted(path.glob(MODEL_WEIGHTS))
    tensors = {f"{name}.{key}": t for file in files for key, t in load_file(file).items()}
    return {key: tensors[key] for key in trained}


def _save_but(left_out: set[str], tensors: Mapping[str, Tensor], file: Path) -> None:
    rest = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items() if name not in left_out}
    if rest:
        save_file(rest, file)


def _load_if_there(file: Path) -> dict[str, Tensor]:
    return load_file(file) if file.exists() else {}


def _link(link: Path, target: str) -> None:
    """Points a link at `target` beside it; without one where the file system has no links."""
    temporary = link.with_name(f".{link.name}.{uuid.uuid4().hex[:8]}.tmp")
    with suppress(OSError):
        temporary.symlink_to(target, target_is_directory=True)
        os.replace(temporary, link)

"""`a4a plan`: what a recipe of `a4a transfer` needs, before anything is loaded."""

import json as jsons
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace

from a4a.encoders.published import IMAGE_ENCODERS
from a4a.errors import InputError, first_line
from a4a.transfer.memory import RESERVED, check_fit, estimate_memory
from a4a.transfer.run import transfer


def plan(
    recipe: Path, gpu: float = 80.0, processes: int = 1, samples_per_second: float | None = None, json: bool = False
) -> None:
    """Say what a transfer needs: parameters, memory, largest batch, disk, time.

    Args:
        recipe: YAML file of a4a transfer, or of a4a experiment, of which what all variants share is planned.
        gpu: Memory of one GPU in GB (10^9 bytes).
        processes: GPUs, one process each.
        samples_per_second: As measured (log.csv, or a dry run), of all processes together; tells the hours.
        json: Print JSON instead of a table.
    """
    facts, fits = describe(recipe, gpu, processes, samples_per_second)
    print(
        jsons.dumps(facts, indent=1)
        if json
        else "\n".join(f"{name:44} {_shown(value)}" for name, value in facts.items())
    )
    if fits is not None:
        raise fits


def describe(
    recipe: Path, gpu: float, processes: int, samples_per_second: float | None
) -> tuple[dict[str, Any], InputError | None]:
    """The facts, and the error that says that the recipe's batch does not fit, where it does not."""
    chosen, raw = _read(recipe)
    pixels = _find(raw.get("data"), "size")
    made = estimate_memory(
        chosen.model,
        chosen.image_encoder,
        chosen.source,
        chosen.method,
        chosen.objective,
        chosen.training,
        chosen.precision,
        processes,
        pixels,
        encoders=_class(raw.get("data")) != "PreparedDataset" or raw.get("evaluation") is not None,
    )
    estimate, meta_model, training = made.estimate, made.meta_model, chosen.training
    side = meta_model.side(pixels)
    width = {"float32": 4}.get(chosen.precision.frozen, 2)
    shapes = meta_model.backbone.text_shapes()
    row = 2 * meta_model.channels * side**2 + 2 * made.adapter.image_embed_dim
    row += sum(torch.Size(shape).numel() * (kind.itemsize if kind else width) for shape, kind in shapes.values())
    size = training.batch_size
    encoder = IMAGE_ENCODERS.get(str(chosen.image_encoder))
    facts = {
        "model": str(chosen.model),
        "adapter, parameters": sum(p.numel() for p in made.adapter.parameters()),
        "adapter, trained": made.trained,
        "denoiser, parameters": sum(p.numel() for p in meta_model.backbone.denoiser.parameters()),
        **{f"{name}, parameters": count for name, count in meta_model.encoders.items()},
        **({"image_encoder, parameters": encoder.parameters} if encoder else {}),
        "weights, bytes": estimate.denoiser + estimate.adapter,
        "encoders beside them, bytes": estimate.encoders,
        "gradients, bytes": estimate.gradients + estimate.buckets,
        "optimizer, bytes": estimate.optimizer + estimate.average,
        f"activations of a batch of {size}, bytes": estimate.activations(size),
        f"peak at batch {size}, bytes": estimate.peak(size),
        "kept free (estimated), bytes": int(RESERVED),
        f"largest batch in {gpu:g} GB": estimate.largest_batch(gpu * 1e9),
        "encoded data per 100,000 samples, bytes": 100_000 * row,
        "samples": training.samples,
        "optimiser steps": -(-training.samples // (size * processes * training.gradient_accumulation)),
    }
    if samples_per_second:
        facts["hours"] = training.samples / samples_per_second / 3600
        facts["GPU hours"] = processes * facts["hours"]
    try:
        check_fit(estimate, size, gpu * 1e9)
    except InputError as error:
        return facts, error
    return facts, None


def _read(recipe: Path) -> tuple[Namespace, dict[str, Any]]:
    """The recipe's arguments, typed, without looking at its data; and as they are written."""
    try:
        raw = yaml.safe_load(Path(recipe).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(
            f"The recipe {recipe} cannot be read ({first_line(error)}); give a YAML file of a4a transfer."
        ) from error
    if isinstance(raw, dict) and "recipe" in raw:
        raw = raw["recipe"]
    if not isinstance(raw, dict) or "model" not in raw:
        raise InputError(
            f"{recipe} is no recipe of a4a transfer: it names no model; give one such as recipes/sd15-to-pixart.yaml."
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(transfer, skip={"data", "evaluation"})
    try:
        chosen = parser.parse_object(
            {"output": "runs/plan"} | {k: v for k, v in raw.items() if k not in ("data", "evaluation")}
        )
        return parser.instantiate_classes(chosen), raw  # pyright: ignore[reportReturnType]
    except InputError:
        raise
    except Exception as error:
        text = " ".join(line.strip(" -") for line in str(error).splitlines() if line.strip())
        raise InputError(f"{recipe} is no recipe of a4a transfer: {text}") from error


def _class(data: Any) -> str:
    return str((data or {}).get("class_path", "") if isinstance(data, dict) else data).rpartition(".")[2]


def _find(data: Any, name: str) -> int | None:
    """Size of the pictures: of a folder's, or what prepared data were made at, where they are there."""
    given = (data or {}).get("init_args", {}) if isinstance(data, dict) else {}
    if name in given:
        return int(given[name])
    manifest = Path(str(given.get("path", ""))) / "manifest.json"
    if manifest.is_file():
        return jsons.loads(manifest.read_text()).get("settings", {}).get("crop.size")
    return None


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)

"""`a4a plan`: what a recipe of `a4a transfer` needs, before anything is loaded."""

import json as json_format
from pathlib import Path
from typing import Any

import torch

from a4a.data.base import TrainingData
from a4a.encoders.published import IMAGE_ENCODERS
from a4a.errors import InputError
from a4a.transfer.memory import RESERVED, TransferPlan, check_fit, estimate_memory
from a4a.transfer.run import transfer
from a4a.utils.arguments import named_class, parse_arguments, read_recipe
from a4a.utils.modules import parameter_count

BYTES = ", bytes"
"""How the names of facts end that are sizes; the table gives them in GB."""


def plan(
    recipe: Path, gpu: float = 80.0, processes: int = 1, samples_per_second: float | None = None, json: bool = False
) -> None:
    """Estimate what a transfer needs: parameters, memory, largest batch, disk, time.

    Args:
        recipe: YAML file of a4a transfer, or of a4a experiment, of which what all variants share is planned.
        gpu: Memory of one GPU in GB (10^9 bytes).
        processes: GPUs, one process each.
        samples_per_second: As measured (log.csv, or a dry run), of all processes together; tells the hours.
        json: Print JSON, sizes in bytes, instead of a table.
    """
    facts, error = describe(recipe, gpu, processes, samples_per_second)
    print(json_format.dumps(facts, indent=1) if json else _table(facts))
    if error is not None:
        raise error


def describe(
    recipe: Path, gpu: float, processes: int, samples_per_second: float | None
) -> tuple[dict[str, Any], InputError | None]:
    """The facts, and the error that says that the recipe's batch does not fit, where it does not."""
    settings = _read(recipe)
    chosen = parse_arguments(transfer, settings, skip=("data", "evaluation")).build()
    data, pixels = _data(settings.get("data"))
    training, precision = chosen["training"], chosen["precision"]
    planned = estimate_memory(
        chosen["model"],
        chosen["image_encoder"],
        chosen["source"],
        chosen["method"],
        chosen["objective"],
        training,
        precision,
        processes,
        pixels,
        encoders=not (data and data.is_encoded) or settings.get("evaluation") is not None,
    )
    facts = {
        "model": str(chosen["model"]),
        **_parameters(planned, chosen["image_encoder"]),
        **_memory(planned, training.batch_size, gpu),
        f"encoded data per 100,000 samples{BYTES}": 100_000 * _bytes_per_sample(planned, pixels, precision.frozen),
        "samples": training.samples,
        "optimiser steps": -(-training.samples // (training.batch_size * processes * training.gradient_accumulation)),
    }
    if samples_per_second:
        facts["hours"] = training.samples / samples_per_second / 3600
        facts["GPU hours"] = processes * facts["hours"]
    try:
        check_fit(planned.estimate, training.batch_size, gpu * 1e9)
    except InputError as error:
        return facts, error
    return facts, None


def _parameters(planned: TransferPlan, image_encoder: Path) -> dict[str, int]:
    """Parameter counts of all models that are known without loading them."""
    counts = {
        "adapter, parameters": parameter_count(planned.adapter),
        "adapter, trained": planned.trained,
        "denoiser, parameters": parameter_count(planned.meta_model.backbone.denoiser),
    }
    counts |= {f"{name}, parameters": count for name, count in planned.meta_model.encoders.items()}
    if (published := IMAGE_ENCODERS.get(str(image_encoder))) is not None:
        counts["image_encoder, parameters"] = published.parameters
    return counts


def _memory(planned: TransferPlan, batch: int, gpu: float) -> dict[str, int]:
    """GPU memory of one process by what it is for, and the largest batch that fits."""
    estimate = planned.estimate
    return {
        f"weights{BYTES}": estimate.denoiser + estimate.adapter,
        f"encoders beside them{BYTES}": estimate.encoders,
        f"gradients{BYTES}": estimate.gradients + estimate.buckets,
        f"optimizer{BYTES}": estimate.optimizer + estimate.average,
        f"activations of a batch of {batch}{BYTES}": estimate.activations(batch),
        f"peak at batch {batch}{BYTES}": estimate.peak(batch),
        f"kept free (estimated){BYTES}": int(RESERVED),
        f"largest batch in {gpu:g} GB": estimate.largest_batch(gpu * 1e9),
    }


def _bytes_per_sample(planned: TransferPlan, pixels: int | None, frozen: str) -> int:
    """Of encoded data: latents and image embedding in half precision, text states as the text encoder has them."""
    model = planned.meta_model
    latents = 2 * model.channels * model.side(pixels) ** 2
    width = 4 if frozen == "float32" else 2
    text = model.backbone.text_shapes().values()
    text_bytes = sum(torch.Size(shape).numel() * (dtype.itemsize if dtype else width) for shape, dtype in text)
    return latents + 2 * planned.adapter.image_embed_dim + text_bytes


def _read(recipe: Path) -> dict[str, Any]:
    """The settings of a transfer, or those that the variants of an experiment share; an output is made up."""
    settings = read_recipe(recipe)
    settings = settings.get("recipe", settings)
    if not isinstance(settings, dict) or "model" not in settings:
        raise InputError(
            f"{recipe} is no recipe of a4a transfer: it names no model; give one such as recipes/sd15-to-pixart.yaml."
        )
    return {"output": "runs/plan"} | settings


def _data(setting: Any) -> tuple[type[TrainingData] | None, int | None]:
    """Class of a recipe's data and size of its images, where the recipe or prepared data that are there tell it."""
    if setting is None:
        return None, None
    kind, setting = named_class(TrainingData, setting, "data")
    init_args = setting.get("init_args") or {}
    if "size" in init_args:
        return kind, int(init_args["size"])
    manifest = Path(str(init_args.get("path", ""))) / "manifest.json"
    if manifest.is_file():
        return kind, json_format.loads(manifest.read_text()).get("settings", {}).get("crop.size")
    return kind, None


def _table(facts: dict[str, Any]) -> str:
    rows = {name.removesuffix(BYTES): _text(value, name.endswith(BYTES)) for name, value in facts.items()}
    return "\n".join(f"{name:44} {value}" for name, value in rows.items())


def _text(value: Any, is_size: bool) -> str:
    if is_size:
        return f"{value / 1e9:,.2f} GB"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)

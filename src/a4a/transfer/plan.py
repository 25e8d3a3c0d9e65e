"""`a4a plan`: what a recipe of `a4a transfer` needs, before anything is loaded."""

import json as json_format
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from a4a.data.base import TrainingData
from a4a.data.compatibility import check_encodings, choose_image_encoder, choose_output
from a4a.data.manifest import read_manifest
from a4a.encoders.published import IMAGE_ENCODERS
from a4a.errors import InputError
from a4a.transfer.compute import flops_per_sample, gpu_hours
from a4a.transfer.config import TransferSettings
from a4a.transfer.memory import RESERVED, MemoryEstimate, check_fit, estimate_memory
from a4a.transfer.meta import MetaTransfer, load_meta_transfer
from a4a.transfer.run import transfer
from a4a.utils.arguments import named_class, parse_arguments, read_recipe
from a4a.utils.modules import parameter_count
from a4a.utils.settings import merged

Facts = dict[str, Any]


def plan(
    recipe: Path,
    gpu: float = 80.0,
    processes: int = 1,
    samples_per_second: float | None = None,
    json: bool = False,
    size: int | None = None,
    changes: dict | None = None,
) -> None:
    """Estimate what a transfer needs: parameters, memory, largest batch, disk, time.

    Args:
        recipe: YAML file of a4a transfer, or of a4a experiment, of which what all variants share is planned.
        gpu: Memory of one GPU in GB (10^9 bytes).
        processes: GPUs, one process each.
        samples_per_second: As measured (log.csv, or a dry run), of all processes together; gives the hours. Without it
            they are estimated: the operations of a step, at 40 % of the peak of an A100.
        json: Print JSON, with sizes in bytes, instead of a table.
        size: Side of the training images in pixels, where the data are not there yet; the model's own size by default.
        changes: Options of a4a transfer that come on top of the recipe.

    InputError where the batch does not fit the GPU, or data that are there were prepared for another model.
    """
    facts, misfit = plan_facts(recipe, gpu, processes, samples_per_second, size, changes)
    print(json_format.dumps(facts, indent=1) if json else "\n".join(_line(*fact) for fact in facts.items()))
    if misfit is not None:
        raise misfit


def plan_facts(
    recipe: Path,
    gpu: float = 80.0,
    processes: int = 1,
    samples_per_second: float | None = None,
    size: int | None = None,
    changes: dict | None = None,
) -> tuple[Facts, InputError | None]:
    """The facts, and the error for a batch that does not fit the GPU (None where it fits)."""
    written = merged(_read(recipe), changes or {})
    settings = _settings(written)
    data = _data(written.get("data"))
    with_encoders = not data.is_encoded or written.get("evaluation") is not None
    built = load_meta_transfer(settings)
    _check_data(data, built)
    pixels = data.size or size
    estimate = estimate_memory(built, processes, pixels, with_encoders)
    facts = {
        "model": str(settings.model),
        "pixels": built.model.side(pixels) * built.model.backbone.vae_scale_factor,
        **_parameter_facts(built, estimate),
        **_memory_facts(estimate, settings.training.batch_size, gpu),
        "encoded data per 100,000 samples, bytes": 100_000 * _bytes_per_sample(built, pixels),
        **_time_facts(built, processes, pixels, samples_per_second),
    }
    try:
        check_fit(estimate, settings.training.batch_size, gpu * 1e9)
    except InputError as error:
        return facts, error
    return facts, None


def _parameter_facts(built: MetaTransfer, estimate: MemoryEstimate) -> Facts:
    encoder = IMAGE_ENCODERS.get(str(built.settings.image_encoder))
    return {
        "adapter, parameters": parameter_count(built.adapter),
        "adapter, trained": estimate.trained_parameters,
        "denoiser, parameters": parameter_count(built.model.backbone.denoiser),
        **{f"{name}, parameters": count for name, count in built.model.encoders.items()},
        **({"image_encoder, parameters": encoder.parameters} if encoder else {}),
    }


def _memory_facts(estimate: MemoryEstimate, batch: int, gpu: float) -> Facts:
    return {
        "denoiser and adapter, bytes": estimate.denoiser + estimate.adapter,
        "encoders, bytes": estimate.encoders,
        "gradients, bytes": estimate.gradients + estimate.ddp_buckets,
        "optimizer and moving average, bytes": estimate.optimizer + estimate.ema,
        f"activations at batch {batch}, bytes": estimate.activations(batch),
        f"peak at batch {batch}, bytes": estimate.peak(batch),
        "kept free (a guess), bytes": int(RESERVED),
        f"largest batch in {gpu:g} GB": estimate.largest_batch(gpu * 1e9),
    }


def _time_facts(built: MetaTransfer, processes: int, pixels: int | None, samples_per_second: float | None) -> Facts:
    """Steps and hours: measured where the rate is known, else by the operations of a step and what an A100 sustains."""
    training = built.settings.training
    flops = flops_per_sample(built, pixels)
    facts: Facts = {
        "samples": training.samples,
        "optimizer steps": math.ceil(
            training.samples / (training.batch_size * processes * training.gradient_accumulation)
        ),
        "TFLOP per sample": flops / 1e12,
    }
    if samples_per_second:
        facts["hours"] = training.samples / samples_per_second / 3600
        facts["GPU hours"] = processes * facts["hours"]
    else:
        facts["GPU hours (estimated, A100)"] = gpu_hours(flops, training.samples)
    return facts


def _bytes_per_sample(built: MetaTransfer, pixels: int | None) -> int:
    """Of one encoded sample on disk: latents, image embedding and text states."""
    sample = built.random_batch(1, pixels, "meta")
    return sum(t.numel() * t.element_size() for t in sample.values() if isinstance(t, torch.Tensor))


def _read(recipe: Path) -> dict[str, Any]:
    """The recipe as it is written; of an experiment, what its variants share."""
    content = read_recipe(recipe)
    content = content.get("recipe", content)
    if not isinstance(content, dict) or "model" not in content:
        raise InputError(
            f"{recipe} is no recipe of a4a transfer: it names no model; give one such as recipes/sd15-to-pixart.yaml."
        )
    return content


def _settings(written: dict[str, Any]) -> TransferSettings:
    """The recipe's typed settings, without those that need its data and metrics to be there."""
    arguments = parse_arguments(transfer, {"output": "runs/plan"} | written, skip=("data", "evaluation", "check"))
    return TransferSettings(**arguments.build(only=[field.name for field in fields(TransferSettings)]))


@dataclass(frozen=True)
class _Data:
    """What a recipe's `data` tell before they are opened; they need not exist."""

    is_encoded: bool = False
    size: int | None = None
    """Side of the images in pixels, where it is known."""
    folder: Path = Path()
    manifest: dict[str, Any] | None = None
    """Of prepared data that are there, with the name of the image encoder whose embeddings are used."""
    image_encoder: str | None = None


def _data(setting: Any) -> _Data:
    if not setting:
        return _Data()
    kind, value = named_class(TrainingData, setting, "data")
    init_args = value.get("init_args") or {}
    folder = Path(str(init_args.get("path", "")))
    if not kind.is_encoded or not (folder / "manifest.json").is_file():
        return _Data(kind.is_encoded, int(init_args["size"]) if "size" in init_args else None)
    manifest = read_manifest(folder)
    image_encoder = choose_image_encoder(folder, manifest, init_args.get("image_encoder"))
    return _Data(True, manifest["settings"].get("crop.size"), folder, manifest, image_encoder)


def _check_data(data: _Data, built: MetaTransfer) -> None:
    """InputError where data that are there were prepared for another model or image encoder."""
    if data.manifest is not None:
        settings = built.settings
        for output in built.embed_shapes:
            name = choose_output(data.folder, data.manifest, data.image_encoder, output)
            check_encodings(data.folder, data.manifest, name, settings.model, settings.image_encoder, output)


def _line(name: str, value: Any) -> str:
    """A row of the table; bytes in GB, counts with separators."""
    if name.endswith(", bytes"):
        name, value = name.removesuffix(", bytes"), f"{value / 1e9:,.2f} GB"
    elif isinstance(value, float):
        value = f"{value:,.1f}"
    elif isinstance(value, int):
        value = f"{value:,}"
    return f"{name:44} {value}"

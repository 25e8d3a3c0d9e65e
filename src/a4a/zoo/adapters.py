"""The zoo's adapters: IP-Adapters trained from scratch, and A4A transfers of one of them."""

import csv
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from a4a.adapters import formats
from a4a.backbones import load_pipeline
from a4a.backbones.base import denoiser_part
from a4a.training.config import TrainingConfig
from a4a.training.denoising import ConditionDropout, LearningRates, ObjectiveConfig
from a4a.transfer.config import A4AConfig, IPAdapterConfig, Precision, TransferSettings
from a4a.transfer.run import train_adapter
from a4a.zoo.context import BuildContext
from a4a.zoo.dataset import WorldImages
from a4a.zoo.evaluation import WorldValidator, write_test_scores

IMAGE_ENCODER = "zoo:clip-large/image_encoder"
"""The adapters' image encoder, wherever the package is installed."""


def build_adapter(
    context: BuildContext,
    name: str,
    target: Path,
    model: str,
    data: dict[str, Any],
    training: dict[str, Any],
    source: str | None = None,
    method: dict[str, Any] | None = None,
    objective: dict[str, Any] | None = None,
    rates: dict[str, Any] | None = None,
    dropping: dict[str, Any] | None = None,
) -> None:
    """Stage: train an adapter as `a4a transfer` does, and measure it on the test subjects.

    With a `source` it is transferred by A4A from that adapter of the zoo; else it is an IP-Adapter from scratch. An
    IP-Adapter of a U-Net is saved in the published format, all others as diffusers saves models.
    """
    config = ObjectiveConfig(**(objective or {}))
    config.rates, config.dropping = LearningRates(**(rates or {})), ConditionDropout(**(dropping or {}))
    settings = TransferSettings(
        context.models / model,
        context.image_encoder,
        context.models / source if source else None,
        (A4AConfig if source else IPAdapterConfig)(**(method or {})),
        config,
        TrainingConfig(**training),
        Precision(),
    )
    adapter = train_adapter(
        settings,
        WorldImages("train", **data),
        context.runs / name,
        WorldValidator("validation", context.validation, models=context.models),
        context.cache,
        resume=True,
    )
    pipe = load_pipeline(context.models / model)
    if source is None and denoiser_part(pipe) == "unet":  # the published format numbers the attention layers of U-Nets
        formats.write(adapter, target / f"{name}.safetensors")
    else:
        adapter.set_image_encoder(IMAGE_ENCODER)
        adapter.save_pretrained(target)
        _halve(target / "diffusion_pytorch_model.safetensors")
    _copy_scores(context.runs / name / "log.csv", target / "log.csv")
    write_test_scores(context, target, pipe, adapter.float(), training["samples"])


def _halve(file: Path) -> None:
    """Rewrite a file's weights in half precision; an A4A in memory stays in float32."""
    weights = {name: tensor.half() for name, tensor in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})


def _copy_scores(log: Path, target: Path) -> None:
    """The rows of a run's log that have scores; those of its other steps would be most of a small adapter's size."""
    with log.open(newline="") as source, target.open("w", newline="") as output:
        rows = csv.DictReader(source)
        writer = csv.DictWriter(output, rows.fieldnames or [])
        writer.writeheader()
        writer.writerows(row for row in rows if row["identity"])

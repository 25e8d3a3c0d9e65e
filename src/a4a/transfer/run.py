"""`a4a transfer`: from a source adapter, an upgraded model and data to an adapter for that model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import nn

from a4a.adapters.base import ImagePromptAdapter
from a4a.adapters.loading import save_with_card, write_with_card
from a4a.backbones import Backbone, backbone_for, denoiser_of, load_pipeline
from a4a.data.base import EncodedDataset, TrainingData
from a4a.encoders.base import ImageEncoder, check_width
from a4a.encoders.clip import CLIPImageEncoder
from a4a.errors import InputError
from a4a.evaluation.scoring import scores_to_json
from a4a.evaluation.validation import Validator
from a4a.training.base import Scores
from a4a.training.checkpoint import SavedModel
from a4a.training.config import TrainingConfig
from a4a.training.denoising import Denoising, ObjectiveConfig
from a4a.training.distributed import process_device, state
from a4a.training.trainer import train
from a4a.transfer import dry_run as dry_runs
from a4a.transfer.config import A4AConfig, AdapterConfig, Precision, TransferSettings
from a4a.transfer.memory import check_fit, estimate_memory
from a4a.transfer.meta import load_meta_transfer
from a4a.transfer.start import load_init_and_source, start_from
from a4a.utils.files import atomic_write, write_json


def transfer(
    model: Path,
    data: TrainingData,
    image_encoder: Path,
    output: Path,
    source: Path | None = None,
    method: AdapterConfig = A4AConfig(),
    objective: ObjectiveConfig = ObjectiveConfig(),
    training: TrainingConfig = TrainingConfig(),
    evaluation: Validator | None = None,
    precision: Precision = Precision(),
    cache: Path | None = None,
    resume: bool = False,
    dry_run: bool | int = False,
    init: Path | None = None,
) -> ImagePromptAdapter | None:
    """Train an adapter for a model: transfer one made for another (A4A), or train one from scratch (IP-Adapter*).

    Args:
        model: The upgraded model: a diffusers pipeline folder or hub name.
        data: Training images: class_path ImageFolderDataset with path and size, or a4a.data.PreparedDataset with the
            path of what a4a prepare made.
        image_encoder: CLIP vision model that the adapter takes embeddings from: a folder or owner/repo/folder on the
            hub.
        output: Folder for the adapter (output/adapter), log.csv, sample images, checkpoints, and the validation scores of
            every subject.
        source: The adapter to transfer: a published IP-Adapter file, folder or hub name.
        method: What is trained: A4AConfig, or IPAdapterConfig for an IP-Adapter from scratch.
        objective: Loss and learning rates.
        training: Samples, batch, schedule, checkpoints.
        evaluation: Scores and images to log every training.evaluate_every samples.
        precision: Precision and sharding of the frozen models.
        cache: Folder for encodings of the data; output/cache by default.
        resume: Continue the run that output holds.
        dry_run: Train nothing: two steps on random data and weights of the right shapes, without any download; time
            and memory are written to benchmarks/results. true: at the model's own size; a number: at images of so
            many pixels.
        init: Start from the weights of this trained adapter: another stage, other data, another rate. A folder, such as
            another run's adapter or one of its checkpoints; for IPAdapterConfig a published file, too. Method and
            model must be the same; source, too, where it is given (by default that of an A4A in init).
    """
    settings = TransferSettings(model, image_encoder, source, method, objective, training, precision, init)
    if dry_run:
        dry_runs.dry_run(settings, None if dry_run is True else dry_run)
        return None
    return train_adapter(settings, data, Path(output), evaluation, cache, resume)


def train_adapter(
    settings: TransferSettings,
    data: TrainingData,
    output: Path,
    evaluation: Validator | None = None,
    cache: Path | None = None,
    resume: bool = False,
) -> ImagePromptAdapter:
    """What `transfer` does but for dry runs; the adapter is in `output/adapter`, too."""
    method, training, precision = settings.method, settings.training, settings.precision
    if precision.shard and evaluation is not None:
        raise InputError(
            "precision.shard is set, so no process has the whole denoiser to draw with; "
            "leave out evaluation and use a4a evaluate."
        )
    load_encoders = not data.is_encoded or evaluation is not None
    _check_memory(settings, data.size, load_encoders)
    init, source = load_init_and_source(settings)
    output_kind = method.encoder_output(source)
    data.check(settings.model, settings.image_encoder, output_kind)
    encoder = None
    if load_encoders:
        encoder = CLIPImageEncoder.from_pretrained(settings.image_encoder, precision.dtype, output_kind)
    image_embed_dim = encoder.image_embed_dim if encoder is not None else data.image_embed_dim
    if source is not None and method.uses_source:
        check_width(image_embed_dim, source.image_embed_dim, str(settings.source or settings.init))
    models = _load_models(settings.model, encoder, precision)

    adapter = _build_adapter(method, models.backbone, source, image_embed_dim, training.seed)
    if init is not None and settings.init is not None:
        start_from(settings.init, init, adapter, settings.source, settings.model)
    adapter.set_image_encoder(str(settings.image_encoder))
    dataset = _encode(data, models, cache or output / "cache")
    if init is None:
        method.init_from_data(adapter, dataset)
    loss = Denoising(models.backbone, adapter, settings.objective, dataset.no_text, dataset.no_image)
    precision.apply(models.backbone)  # once it is frozen and its text projections are copied

    facts = {"model": str(settings.model), "source": settings.source, "init": settings.init}
    saved = SavedModel("adapter", lambda folder, at: write_with_card(adapter, folder, {**facts, "samples": at}))
    validate = None if evaluation is None else _validation(evaluation, models, adapter, loss, output)
    try:
        train(loss, dataset, training, output, resume=resume, evaluate=validate, description=output.name, model=saved)
    finally:
        loss.detach()
    adapter.eval()
    if state().is_main_process:
        save_with_card(adapter, output / "adapter", {**facts, "samples": training.samples})
    return adapter


@dataclass
class _Models:
    """The frozen models, on this process's device."""

    pipe: DiffusionPipeline
    backbone: Backbone
    image_encoder: ImageEncoder | None
    """None, as are VAE and text encoders, where nothing is encoded or drawn."""


def _check_memory(settings: TransferSettings, pixels: int | None, with_encoders: bool) -> None:
    """InputError where the batch does not fit this process's GPU, before anything is loaded."""
    device = process_device()
    if device.type != "cuda":
        return
    estimate = estimate_memory(load_meta_transfer(settings), state().num_processes, pixels, with_encoders)
    check_fit(estimate, settings.training.batch_size, torch.cuda.get_device_properties(device).total_memory)


def _load_models(model: Path | str, encoder: ImageEncoder | None, precision: Precision) -> _Models:
    """The pipeline (without VAE and text encoders where there is no image encoder either), on the device."""
    device = process_device()
    parts = "denoiser" if encoder is None else "unfiltered"
    pipe = load_pipeline(model, precision.dtype, parts, upcast_vae=encoder is not None)
    for part in pipe.components.values():
        if not isinstance(part, nn.Module):
            continue
        if precision.shard and part is denoiser_of(pipe):
            continue  # it may not fit; each process loads its shards later
        part.to(device)
    if encoder is not None:
        encoder.to(device)
    return _Models(pipe, backbone_for(pipe), encoder)


def _build_adapter(
    method: AdapterConfig, backbone: Backbone, source: ImagePromptAdapter | None, image_embed_dim: int, seed: int
) -> ImagePromptAdapter:
    torch.manual_seed(seed)
    return method.build(backbone, source, image_embed_dim)


def _encode(data: TrainingData, models: _Models, cache: Path) -> EncodedDataset:
    with state().main_process_first():  # the other processes then find its cache
        dataset = data.encode(models.backbone, models.image_encoder, Path(cache))
    if models.backbone.vae is not None:
        nn.Module.to(models.backbone.vae, dtype=models.backbone.dtype)  # from here on it only draws, as in use
    return dataset


def _validation(
    validator: Validator, models: _Models, adapter: ImagePromptAdapter, objective: Denoising, output: Path
) -> Callable[[int], Scores]:
    """What training calls with the number of samples: scores for the log.

    Keeps the scores of every subject in `output/scores`, which intervals over subjects need, and a grid of images in
    `output/samples`.
    """

    def validate(samples: int) -> Scores:
        with objective.detached():
            result = validator(models.pipe, adapter, models.image_encoder)
        write_json(output / "scores" / f"{samples:010d}.json", scores_to_json(result.subject_scores))
        with atomic_write(output / "samples" / f"{samples:010d}.png") as path:
            result.samples.save(path, format="PNG")
        return result.log_row()

    return validate

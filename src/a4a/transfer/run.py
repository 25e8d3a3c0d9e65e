"""`a4a transfer`: from a source adapter, an upgraded model and data to an adapter for that model."""

from collections import ChainMap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from a4a.adapters.base import ImagePromptAdapter
from a4a.adapters.loading import save_with_card, write_with_card
from a4a.adapters.multi_source import MultiSourceA4A
from a4a.backbones import Backbone, backbone_for, denoiser_of, load_pipeline
from a4a.data.base import EncodedDataset, TrainingData
from a4a.data.several_outputs import SeveralOutputs
from a4a.encoders.base import ImageEncoder, Output, check_width
from a4a.encoders.clip import CLIPImageEncoder
from a4a.errors import InputError
from a4a.evaluation.scoring import scores_to_json
from a4a.evaluation.validation import ValidationResult, Validator, with_source
from a4a.training.base import Scores
from a4a.training.checkpoint import SavedModel
from a4a.training.config import TrainingConfig
from a4a.training.denoising import Denoising, ObjectiveConfig
from a4a.training.distributed import process_device, state
from a4a.training.multi_source import denoising_of
from a4a.training.trainer import train
from a4a.transfer import dry_run as dry_runs
from a4a.transfer.config import A4AConfig, AdapterConfig, Precision, Source, TransferSettings, by_name
from a4a.transfer.memory import check_fit, estimate_memory
from a4a.transfer.meta import load_meta_transfer
from a4a.transfer.start import describe_source, load_init_and_source, start_from
from a4a.utils.files import atomic_write, write_json


def transfer(
    model: Path,
    data: TrainingData,
    image_encoder: Path,
    output: Path,
    source: Path | dict[str, Path] | None = None,
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
        source: The adapter to transfer: a published IP-Adapter file, folder or hub name. Or several for the same base
            model and image encoder, by a name of your choice (source.NAME): one A4A is trained on all of them at once,
            every batch on an equal share of each, and used with one (a4a generate --source NAME).
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
    outputs = method.encoder_outputs(source)
    embedded: dict[Output, TrainingData] = {output: data.with_output(output) for output in outputs}
    for kind, each in embedded.items():
        each.check(settings.model, settings.image_encoder, kind)
    encoder = None
    if load_encoders:
        encoder = CLIPImageEncoder.from_pretrained(settings.image_encoder, precision.dtype, outputs[0])
    widths = {kind: _embed_dim(each, encoder, kind) for kind, each in embedded.items()}
    if method.uses_source:
        for name, each in by_name(source).items():
            what = f"The source {name}" if name else str(settings.source or settings.init)
            check_width(widths[each.encoder_output], each.image_embed_dim, what)
    _check_batch(source, training)
    models = _load_models(settings.model, encoder, precision)

    adapter = _build_adapter(method, models.backbone, source, widths[outputs[0]], training.seed)
    if init is not None and settings.init is not None:
        start_from(settings.init, init, adapter, settings.source, settings.model)
    adapter.set_image_encoder(str(settings.image_encoder))
    at = cache or output / "cache"
    datasets: dict[Output, EncodedDataset] = {k: _encode(each, models, k, at) for k, each in embedded.items()}
    if init is None:
        method.init_from_data(adapter, datasets)
    dataset = SeveralOutputs(datasets) if len(datasets) > 1 else datasets[outputs[0]]
    no_images: dict[Output, Tensor | None] = {kind: each.no_image for kind, each in datasets.items()}
    loss = denoising_of(adapter, models.backbone, settings.objective, dataset.no_text, no_images)
    precision.apply(models.backbone)  # once it is frozen and its text projections are copied

    facts = {"model": str(settings.model), "source": describe_source(settings.source), "init": settings.init}
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
    method: AdapterConfig, backbone: Backbone, source: Source, image_embed_dim: int, seed: int
) -> ImagePromptAdapter:
    torch.manual_seed(seed)
    return method.build(backbone, source, image_embed_dim)


def _embed_dim(data: TrainingData, encoder: ImageEncoder | None, output: Output) -> int:
    """Width of the references' embeddings of this kind."""
    return data.image_embed_dim if encoder is None else encoder.with_output(output).image_embed_dim


def _check_batch(source: Source, training: TrainingConfig) -> None:
    """InputError where several processes would each leave out a source: all parameters must be in every batch then."""
    sources = len(by_name(source))
    if state().num_processes > 1 and training.batch_size < sources:
        raise InputError(
            f"training.batch_size is {training.batch_size} for {sources} sources; with several processes every batch "
            f"must have a sample for each: set it to at least {sources}."
        )


def _encode(data: TrainingData, models: _Models, output: Output, cache: Path) -> EncodedDataset:
    encoder = models.image_encoder.with_output(output) if models.image_encoder is not None else None
    with state().main_process_first():  # the other processes then find its cache
        dataset = data.encode(models.backbone, encoder, Path(cache))
    if models.backbone.vae is not None:
        nn.Module.to(models.backbone.vae, dtype=models.backbone.dtype)  # from here on it only draws, as in use
    return dataset


def _validation(
    validator: Validator, models: _Models, adapter: ImagePromptAdapter, objective: Denoising, output: Path
) -> Callable[[int], Scores]:
    """What training calls with the number of samples: scores for the log.

    Keeps the scores of every subject in `output/scores`, which intervals over subjects need, and a grid of images in
    `output/samples`. Of several sources, each is scored: under `SCORE (SOURCE)`, with images of its own.
    """
    sources = adapter.adapters if isinstance(adapter, MultiSourceA4A) else {"": adapter}

    def validate(samples: int) -> Scores:
        results: dict[str, ValidationResult] = {}
        with objective.detached():
            for name, each in sources.items():
                results[name] = validator(models.pipe, each, models.image_encoder)
        scores = [with_source(result.subject_scores, name) for name, result in results.items()]
        write_json(output / "scores" / f"{samples:010d}.json", scores_to_json(dict(ChainMap(*scores))))
        for name, result in results.items():
            with atomic_write(output / "samples" / f"{samples:010d}{name and f'-{name}'}.png") as path:
                result.samples.save(path, format="PNG")
        return dict(ChainMap(*(with_source(result.log_row(), name) for name, result in results.items())))

    return validate

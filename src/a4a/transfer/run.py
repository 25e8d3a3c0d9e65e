"""`a4a transfer`: from a source adapter, an upgraded model and data to an adapter for that model."""

from pathlib import Path

import torch
from torch import nn

from a4a.adapters import formats
from a4a.adapters.base import ImagePromptAdapter
from a4a.adapters.loading import save_with_card
from a4a.backbones import backbone_for, denoiser_of, load_pipeline
from a4a.data.base import TrainingData, TrainingImages
from a4a.data.cached import encode
from a4a.data.prepared import Prepared
from a4a.encoders.base import check_width
from a4a.encoders.clip import CLIPImageEncoder
from a4a.errors import InputError
from a4a.evaluation.validation import Validator, logged
from a4a.training import distributed
from a4a.training.config import TrainingConfig
from a4a.training.denoising import Denoising, ObjectiveConfig
from a4a.training.trainer import train
from a4a.transfer.config import Method, Precision
from a4a.transfer.dry_run import dry_run as trial
from a4a.transfer.memory import check_fit, estimate_memory
from a4a.utils.files import atomic_write

REFERENCES = 4096
"""Of the training data that `A4A.couple` looks at."""


def transfer(
    model: Path,
    data: TrainingData,
    image_encoder: Path,
    output: Path,
    source: Path | None = None,
    method: Method = Method(),
    objective: ObjectiveConfig = ObjectiveConfig(),
    training: TrainingConfig = TrainingConfig(),
    evaluation: Validator | None = None,
    precision: Precision = Precision(),
    cache: Path | None = None,
    resume: bool = False,
    dry_run: bool | int = False,
) -> ImagePromptAdapter | None:
    """Train an adapter for a model: transfer one made for another (A4A), or begin from scratch (IP-Adapter*).

    Args:
        model: The upgraded model: a diffusers pipeline folder or hub name.
        data: Training pictures: class_path ImageFolderDataset with path and size, or a4a.data.Prepared with the path of what a4a prepare made.
        image_encoder: CLIP vision model that the adapter takes embeddings from: a folder or owner/repo/folder on the hub.
        output: Folder for the adapter (output/adapter), log.csv, sample pictures and checkpoints.
        source: The adapter to transfer: a published IP-Adapter file, folder or hub name.
        method: What is trained.
        objective: Loss and learning rates.
        training: Samples, batch, schedule, checkpoints.
        evaluation: Scores and pictures to log every training.evaluate_every samples.
        precision: Number formats.
        cache: Folder for encodings of the data; output/cache by default.
        resume: Go on with the run that output holds.
        dry_run: Train nothing: two steps on random data and weights of the right shapes, without any download; what they took is
            written to benchmarks/results. true: at the model's own size; a number: at pictures of so many pixels.
    """
    output = Path(output)
    if dry_run:
        trial(
            model, image_encoder, source, method, objective, training, precision, None if dry_run is True else dry_run
        )
        return None
    ours = distributed.state()
    device = ours.device
    encoders = not isinstance(data, Prepared) or evaluation is not None  # whether anything is left to encode
    if device.type == "cuda":  # pyright: ignore[reportOptionalMemberAccess]
        pixels = getattr(data, "size", None)
        made = estimate_memory(
            model, image_encoder, source, method, objective, training, precision, ours.num_processes, pixels, encoders
        )
        check_fit(made.estimate, training.batch_size, torch.cuda.get_device_properties(device).total_memory)
    if precision.shard and evaluation is not None:
        raise InputError(
            "precision.shard is set, so no process has the whole denoiser to draw with; leave out evaluation and use a4a evaluate."
        )
    adapter_source = formats.read(source) if source is not None else None
    ready = data if isinstance(data, Prepared) else None
    if ready is not None:
        ready.check(model, image_encoder)
    elif not isinstance(data, TrainingImages):
        raise TypeError(f"Data are Pictures or Prepared, not {type(data).__name__}.")
    encoder = CLIPImageEncoder.load(image_encoder, precision.dtype) if encoders else None
    image_embed_dim = encoder.image_embed_dim if encoder is not None else ready.image_embed_dim  # pyright: ignore[reportOptionalMemberAccess]
    if adapter_source is not None and (method.kind == "a4a" or method.keep_projection):
        check_width(image_embed_dim, adapter_source.image_embed_dim, str(source))
    pipe = load_pipeline(model, dtype=precision.dtype, parts="all" if encoders else "denoiser")
    for part in pipe.components.values():
        if isinstance(part, nn.Module) and not (
            precision.shard and part is denoiser_of(pipe)
        ):  # which may not fit: each takes its part below
            part.to(device)
    if encoder is not None:
        encoder.model.to(device)  # pyright: ignore[reportArgumentType]
    backbone = backbone_for(pipe)
    torch.manual_seed(training.seed)
    adapter = method.build(backbone, adapter_source, image_embed_dim)
    adapter.set_image_encoder(str(image_encoder))
    if isinstance(data, TrainingImages):
        with ours.main_process_first():  # the others find what the first has encoded
            table = encode(data, backbone, encoder, Path(cache) if cache else output / "cache")
    else:
        assert ready is not None
        table = ready
    if method.kind == "a4a" and method.whiten_init:
        adapter.init_projection(table.references(REFERENCES))  # pyright: ignore[reportAttributeAccessIssue]
    loss = Denoising(backbone, adapter, objective, ready.no_text if ready is not None else None)
    precision.apply(backbone)  # now that it is frozen and its text projections are copied

    def evaluate(samples: int) -> dict[str, float]:
        assert evaluation is not None and encoder is not None
        loss.pause()
        result = evaluation(pipe, adapter, encoder)
        loss.go_on()
        target = output / "samples" / f"{samples:010d}.png"
        with atomic_write(target) as beside:
            result.picture.save(beside, format="PNG")
        return logged(result.scores)

    try:
        train(
            loss,
            table,
            training,
            output,
            resume=resume,
            evaluate=evaluate if evaluation is not None else None,
            description=output.name,
        )
    finally:
        loss.pause()
    adapter.eval()
    facts = {"samples": training.samples, "model": str(model), "source": str(source) if source else None}
    if ours.is_main_process:
        save_with_card(adapter, output / "adapter", facts)
    return adapter

"""`a4a transfer --dry_run`: the real training step of a recipe on random weights and data; nothing is downloaded."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from a4a.adapters.base import ImagePromptAdapter, adapter_from_config, adapter_to_config
from a4a.adapters.loading import load_adapter, save_with_card
from a4a.adapters.meta import load_meta_adapter
from a4a.adapters.multi_source import MultiSourceA4A
from a4a.backbones import Backbone, Text
from a4a.backbones.meta import load_meta_model
from a4a.data.base import EncodedDataset
from a4a.encoders.base import Output
from a4a.injection import attach
from a4a.training.denoising import Denoising
from a4a.training.distributed import process_device, state
from a4a.training.multi_source import denoising_of
from a4a.training.trainer import train
from a4a.transfer.config import TransferSettings, by_name
from a4a.transfer.dry_run_report import report
from a4a.transfer.gradient_watch import watch_gradients
from a4a.transfer.memory import MemoryEstimate, estimate_memory
from a4a.transfer.meta import MetaTransfer, load_meta_transfer
from a4a.transfer.start import describe_source, load_source, source_within
from a4a.utils.files import atomic_write, slug
from a4a.utils.machine import machine, peak_bytes
from a4a.utils.modules import parameter_count

RESULTS = Path("benchmarks/results")
STEPS = 2

Figures = dict[str, Any]


def dry_run(settings: TransferSettings, pixels: int | None = None, results: Path = RESULTS) -> Figures:
    """Two optimizer steps on random data, then save, load and one prediction; prints and writes the figures.

    The denoiser and the source adapter get random weights; the adapter starts from them as in training. VAE and
    encoders are left out, as in training on prepared data. Raises FloatingPointError on a loss, gradients or latents
    that are not finite.

    Args:
        settings: of the transfer.
        pixels: side of the training images; the model's own size by default.
        results: folder for the figures.
    """
    before = peak_bytes()
    built = load_meta_transfer(settings)
    estimate = estimate_memory(built, state().num_processes, pixels)
    backbone, adapter = _random_models(settings, built.embed_shape[-1])
    datasets = _random_datasets(built, _samples_per_step(settings), pixels)
    dataset = next(iter(datasets.values()))
    settings.method.init_from_data(adapter, datasets)
    no_images = built.no_images(process_device())
    objective = denoising_of(adapter, backbone, settings.objective, dataset.no_text, no_images)
    settings.precision.apply(backbone)
    figures = {
        **_setup_figures(settings, built, pixels),
        **_train(settings, objective, adapter, dataset),
        "memory": _memory_figures(estimate, settings.training.batch_size, before),
    }
    objective.detach()
    figures["change_by_adapter"] = _change_by_adapter(backbone, _saved_and_loaded(settings, adapter), dataset)
    if state().is_main_process:
        path = results / _file_name(figures)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(figures, indent=1) + "\n")
        print(f"{report(figures)}\nThe figures are in {path}.")
    return figures


class _RandomDataset(EncodedDataset):
    """Random samples in the shapes of encoded data; `embed_shape` is that of the references."""

    def __init__(self, tensors: dict[str, Any], no_text: Text, embed_shape: tuple[int, ...]):
        self.tensors, self.no_text, self.embed_shape = tensors, no_text, embed_shape

    def __len__(self) -> int:
        return len(self.tensors["latents"])

    def batch(self, indices: Tensor) -> dict[str, Any]:
        return {name: t[indices] for name, t in self.tensors.items()}

    def references(self, count: int) -> Tensor:
        return torch.randn(count, *self.embed_shape or ())


def _random_datasets(built: MetaTransfer, samples: int, pixels: int | None) -> dict[Output, _RandomDataset]:
    """The same samples with references by what the image encoder gives."""
    torch.manual_seed(built.settings.training.seed)  # the same data in all processes
    tensors, no_text = built.random_batch(samples, pixels, "cpu"), built.random_text(1, process_device())
    return {output: _RandomDataset(tensors, no_text, shape) for output, shape in built.embed_shapes.items()}


def _random_models(settings: TransferSettings, image_embed_dim: int) -> tuple[Backbone, ImagePromptAdapter]:
    """A denoiser with random weights, and the adapter that training would start with for a source of random weights.

    A denoiser that will be sharded stays on the CPU.
    """
    torch.manual_seed(settings.training.seed)  # the same weights in all processes
    backbone = load_meta_model(settings.model).backbone
    # nn.Module's own `to`: that of diffusers warns of layers to keep in float32, which models here have none of
    nn.Module.to(backbone.denoiser, settings.precision.dtype)
    fill_with_random_weights(backbone.denoiser, torch.device("cpu") if settings.precision.shard else process_device())
    meta = load_source(settings.source, load_meta_adapter) or source_within(load_meta_adapter(settings.init))
    sources = {name: adapter_from_config(adapter_to_config(source)) for name, source in by_name(meta).items()}
    source = sources if isinstance(meta, dict) else next(iter(sources.values()), None)
    return backbone, settings.method.build(backbone, source, image_embed_dim)


def fill_with_random_weights(model: nn.Module, device: torch.device) -> None:
    """Moves a model from the meta device to `device`; weights are random, and small enough for finite outputs."""
    model.to_empty(device=device)
    with torch.no_grad():
        for name, t in [*model.named_parameters(), *model.named_buffers()]:
            if t.ndim < 2:
                t.fill_(1.0 if name.endswith("weight") else 0.0)
            else:
                t.normal_(0, 0.02)
    for module in model.modules():  # tables of positions that are no buffers, as in Qwen-Image and Lumina2
        for name, value in list(vars(module).items()):
            tensors = value if isinstance(value, list) else [value]
            if tensors and all(isinstance(t, Tensor) and t.is_meta for t in tensors):
                found = [torch.randn_like(t, device=device) for t in tensors]
                setattr(module, name, found if isinstance(value, list) else found[0])


def _samples_per_step(settings: TransferSettings) -> int:
    training = settings.training
    return training.batch_size * training.gradient_accumulation * state().num_processes


def _train(
    settings: TransferSettings, objective: Denoising, adapter: ImagePromptAdapter, dataset: _RandomDataset
) -> Figures:
    """Trains for `STEPS` steps; what was measured."""
    samples = len(dataset)
    config = replace(settings.training, samples=STEPS * samples, warmup=0, evaluate_every=None, tensorboard=False)
    if process_device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with TemporaryDirectory() as folder, watch_gradients(adapter) as gradients:
        log = train(objective, dataset, config, Path(folder), description="dry run")
    first, second = (row["samples"] / row["samples_per_second"] for row in log)
    return {
        "losses": [row["loss"] for row in log],
        "gradients": gradients.figures(),
        "seconds_of_first_step": first,
        "seconds_per_step": second - first,
        "seconds_per_sample": (second - first) / samples,
        "samples_per_second": samples / (second - first),
    }


def _setup_figures(settings: TransferSettings, built: MetaTransfer, pixels: int | None) -> Figures:
    backbone = built.model.backbone
    return {
        "model": str(settings.model),
        "source": describe_source(settings.source),
        "method": type(settings.method).__name__,
        "machine": machine(),
        "device": process_device().type,
        "processes": state().num_processes,
        "pixels": built.model.side(pixels) * backbone.vae_scale_factor,
        "batch_size": settings.training.batch_size,
        "gradient_accumulation": settings.training.gradient_accumulation,
        "gradient_checkpointing": settings.objective.gradient_checkpointing,
        "frozen": settings.precision.frozen,
        "shard": settings.precision.shard,
        "mixed_precision": settings.training.mixed_precision,
        "denoiser_parameters": parameter_count(backbone.denoiser),
        "adapter_parameters": parameter_count(built.adapter),
    }


def _memory_figures(estimate: MemoryEstimate, batch_size: int, before: int) -> Figures:
    """Planned against measured peaks of a process: of several, the largest."""
    return {
        "planned_bytes": estimate.peak(batch_size),
        "measured_bytes": max(gather_object([peak_bytes() - before])),
        "libraries_bytes": before,
        "plan": asdict(estimate),
    }


def _saved_and_loaded(settings: TransferSettings, adapter: ImagePromptAdapter) -> ImagePromptAdapter:
    """The adapter as it comes back from a folder, of which each process has its own."""
    facts = {"samples": 0, "model": settings.model, "source": describe_source(settings.source)}
    with TemporaryDirectory() as folder:
        save_with_card(adapter, Path(folder) / "adapter", facts)
        return load_adapter(Path(folder) / "adapter").to(process_device())


@torch.no_grad()
def _change_by_adapter(backbone: Backbone, adapter: ImagePromptAdapter, dataset: _RandomDataset) -> float:
    """By how much the adapter changes a prediction, relative to the prediction; the latents must stay finite."""
    device, sample = process_device(), dataset.batch(torch.arange(1))
    adapter.eval()
    latents = sample["latents"].to(device, backbone.dtype)
    timesteps = torch.full((1,), 500, device=device)
    text = {name.removeprefix("text."): t.to(device) for name, t in sample.items() if name.startswith("text.")}
    without = backbone.predict(latents, timesteps, text)
    adapter = next(iter(adapter.adapters.values())) if isinstance(adapter, MultiSourceA4A) else adapter
    embeds = next(t for name, t in sample.items() if name.startswith("embeds"))  # of the first source
    features = adapter(embeds.float().to(device)).to(backbone.dtype)
    with attach(backbone.denoiser, backbone.sites, features):
        prompted = backbone.predict(latents, timesteps, text)
    if not (latents - 0.1 * prompted).isfinite().all():
        raise FloatingPointError("The dry run's latents are not finite after one step.")
    return float((prompted - without).norm() / without.norm())


def _file_name(figures: Figures) -> str:
    model = slug(figures["model"].split("/")[-1].replace(":", "-"))
    processes = f"-{figures['processes']}-processes" if figures["processes"] > 1 else ""
    return f"dry-run-{model}-{figures['device']}{processes}.json"

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
from a4a.backbones import Backbone
from a4a.backbones.meta import load_meta_model
from a4a.data.base import EncodedDataset
from a4a.injection import attach
from a4a.training.denoising import Denoising
from a4a.training.distributed import process_device, state
from a4a.training.trainer import train
from a4a.transfer.config import TransferSettings
from a4a.transfer.dry_run_report import report
from a4a.transfer.gradient_watch import watch_gradients
from a4a.transfer.memory import MemoryEstimate, estimate_memory
from a4a.transfer.meta import MetaTransfer, load_meta_transfer
from a4a.transfer.start import source_within
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
    dataset = _RandomDataset(built, _samples_per_step(settings), pixels)
    settings.method.init_from_data(adapter, dataset)
    objective = Denoising(backbone, adapter, settings.objective, dataset.no_text, dataset.no_image)
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
    """Random samples in the shapes of encoded data."""

    def __init__(self, built: MetaTransfer, samples: int, pixels: int | None):
        torch.manual_seed(built.settings.training.seed)  # the same data in all processes
        self.tensors = built.random_batch(samples, pixels, "cpu")
        self.embed_shape = built.embed_shape
        self.no_text, self.no_image = built.random_text(1, process_device()), built.no_image(process_device())

    def __len__(self) -> int:
        return len(self.tensors["latents"])

    def batch(self, indices: Tensor) -> dict[str, Any]:
        return {name: t[indices] for name, t in self.tensors.items()}

    def references(self, count: int) -> Tensor:
        return torch.randn(count, *self.embed_shape or ())


def _random_models(settings: TransferSettings, image_embed_dim: int) -> tuple[Backbone, ImagePromptAdapter]:
    """A denoiser with random weights, and the adapter that training would start with for a source of random weights.

    A denoiser that will be sharded stays on the CPU.
    """
    torch.manual_seed(settings.training.seed)  # the same weights in all processes
    backbone = load_meta_model(settings.model).backbone
    # nn.Module's own `to`: that of diffusers warns of layers to keep in float32, which models here have none of
    nn.Module.to(backbone.denoiser, settings.precision.dtype)
    fill_with_random_weights(backbone.denoiser, torch.device("cpu") if settings.precision.shard else process_device())
    source = load_meta_adapter(settings.source) if settings.source else source_within(load_meta_adapter(settings.init))
    source = None if source is None else adapter_from_config(adapter_to_config(source))
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
        "source": None if settings.source is None else str(settings.source),
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
    facts = {"samples": 0, "model": settings.model, "source": settings.source}
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
    features = adapter(sample["embeds"].float().to(device)).to(backbone.dtype)
    with attach(backbone.denoiser, backbone.sites, features):
        prompted = backbone.predict(latents, timesteps, text)
    if not (latents - 0.1 * prompted).isfinite().all():
        raise FloatingPointError("The dry run's latents are not finite after one step.")
    return float((prompted - without).norm() / without.norm())


def _file_name(figures: Figures) -> str:
    model = slug(figures["model"].split("/")[-1].replace(":", "-"))
    processes = f"-{figures['processes']}-processes" if figures["processes"] > 1 else ""
    return f"dry-run-{model}-{figures['device']}{processes}.json"

"""`a4a transfer --dry_run`: the real training step of a recipe on random weights and data; nothing is downloaded."""

import json
import resource
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from a4a.adapters.base import ImagePromptAdapter
from a4a.adapters.loading import load_adapter, save_with_card
from a4a.backbones import Backbone
from a4a.injection import attach
from a4a.training.denoising import Denoising
from a4a.training.distributed import process_device, shard, state
from a4a.training.trainer import train
from a4a.transfer.config import TransferSettings
from a4a.transfer.memory import estimate_memory
from a4a.transfer.meta import MetaTransfer, load_meta_transfer
from a4a.utils.files import atomic_write, slug
from a4a.utils.machine import machine
from a4a.utils.modules import parameter_count

RESULTS = Path("benchmarks/results")
STEPS = 2


def dry_run(settings: TransferSettings, pixels: int | None = None, results: Path = RESULTS) -> dict[str, Any]:
    """Two optimizer steps on random data, then save, load and one step of denoising; prints and writes the figures.

    Builds denoiser and adapter as training on prepared data does: without VAE and encoders.

    Args:
        settings: of the transfer.
        pixels: side of the training images; the model's own size by default.
        results: folder for the figures.
    """
    built = load_meta_transfer(settings)
    estimate = estimate_memory(built, state().num_processes, pixels)
    _fill_models(built)
    objective = _objective(built)
    measured = _train(built, objective, pixels)
    figures = {
        **_setup_figures(built, pixels),
        "trained": estimate.trained_parameters,
        **measured,
        "planned_bytes": estimate.peak(settings.training.batch_size),
        "plan": asdict(estimate),
    }
    if state().is_main_process:
        name = slug(str(settings.model).split("/")[-1].replace(":", "-"))
        with atomic_write(results / f"dry-run-{name}-{process_device().type}.json") as path:
            path.write_text(json.dumps(figures, indent=1) + "\n")
        print(json.dumps(figures, indent=1))
    return figures


@dataclass
class _RandomDataset:
    """Random samples in the shapes of encoded data."""

    tensors: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.tensors["latents"])

    def batch(self, indices: Tensor) -> dict[str, Any]:
        return {name: t[indices] for name, t in self.tensors.items()}


def _fill_models(built: MetaTransfer) -> None:
    """Gives denoiser and adapter random weights; a denoiser that will be sharded stays on the CPU."""
    torch.manual_seed(built.settings.training.seed)  # the same weights and data in all processes
    denoiser_device = torch.device("cpu") if built.settings.precision.shard else process_device()
    fill_with_random_weights(built.model.backbone.denoiser, denoiser_device)
    fill_with_random_weights(built.adapter, process_device())


def _objective(built: MetaTransfer) -> Denoising:
    if process_device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    backbone, settings = built.model.backbone, built.settings
    no_text, no_image = built.random_text(1, process_device()), built.no_image(process_device())
    objective = Denoising(backbone, built.adapter, settings.objective, no_text, no_image)
    if settings.precision.shard:  # int8 weights need nothing more
        shard(backbone.denoiser, backbone.block)
    return objective


def _train(built: MetaTransfer, objective: Denoising, pixels: int | None) -> dict[str, Any]:
    """Trains, saves and loads the adapter; what was measured."""
    settings, device = built.settings, process_device()
    training = settings.training
    samples_per_step = training.batch_size * training.gradient_accumulation * state().num_processes
    config = replace(training, samples=STEPS * samples_per_step, warmup=0, evaluate_every=None, tensorboard=False)
    before = _peak_bytes()
    dataset = _RandomDataset(built.random_batch(samples_per_step, pixels, "cpu"))
    with TemporaryDirectory() as folder:  # one for each process: all of them save and load the adapter
        began = time.perf_counter()
        log = train(objective, dataset, config, Path(folder), description="dry run")
        seconds = time.perf_counter() - began
        objective.detach()
        peak = _peak_bytes()
        facts = {"samples": 0, "model": settings.model, "source": settings.source}
        save_with_card(built.adapter, Path(folder) / "adapter", facts)
        adapter = load_adapter(Path(folder) / "adapter")
    nn.Module.to(adapter, device)
    first, second = (row["samples"] / row["samples_per_second"] for row in log)
    change = _change_by_adapter(built.model.backbone, adapter, dataset.batch(torch.arange(1)))
    return {
        "losses": [row["loss"] for row in log],
        "seconds_in_all": seconds,
        "step_seconds": second - first,
        "samples_per_second": samples_per_step / (second - first),
        "peak_bytes": peak,
        "peak_is": "GPU memory allocated" if device.type == "cuda" else "resident memory, including libraries",
        "before_training_bytes": before,
        "latent_step_changed_by_adapter": change,
    }


def _setup_figures(built: MetaTransfer, pixels: int | None) -> dict[str, Any]:
    settings, backbone = built.settings, built.model.backbone
    return {
        "model": str(settings.model),
        "machine": machine(),
        "dtype": settings.precision.frozen,
        "pixels": built.model.side(pixels) * backbone.vae_scale_factor,
        "batch": settings.training.batch_size,
        "processes": state().num_processes,
        "gradient_checkpointing": settings.objective.gradient_checkpointing,
        "parameters": {"denoiser": parameter_count(backbone.denoiser), "adapter": parameter_count(built.adapter)},
    }


def fill_with_random_weights(model: nn.Module, device: torch.device) -> None:
    """Moves a model from the meta device to `device`; weights are random, and small enough for finite outputs."""
    model.to_empty(device=device)
    with torch.no_grad():
        for name, t in [*model.named_parameters(), *model.named_buffers()]:
            if t.ndim < 2:
                t.fill_(1.0 if name.endswith("weight") else 0.0)
            elif name.endswith(".scale"):  # of int8 weights
                t.fill_(0.02 / 73)
            elif t.is_floating_point():
                t.normal_(0, 0.02)
            else:
                t.random_(-127, 128)


@torch.no_grad()
def _change_by_adapter(backbone: Backbone, adapter: ImagePromptAdapter, sample: dict[str, Tensor]) -> float:
    """By how much the adapter changes a prediction, relative to the prediction; the latents must stay finite."""
    device = process_device()
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


def _peak_bytes() -> int:
    if process_device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

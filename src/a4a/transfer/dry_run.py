"""`a4a transfer --dry_run`: the very step of a recipe, on models of the right shapes with random weights. Nothing is downloaded."""

import json
import resource
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from a4a.adapters.loading import load_adapter, save_with_card
from a4a.injection import attach
from a4a.training import distributed
from a4a.training.config import TrainingConfig
from a4a.training.denoising import Denoising, ObjectiveConfig
from a4a.training.distributed import shard
from a4a.training.trainer import train
from a4a.transfer.config import AdapterConfig, Precision
from a4a.transfer.memory import batch, estimate_memory, text
from a4a.utils.files import atomic_write, slug
from a4a.utils.machine import machine

RESULTS = Path("benchmarks/results")
STEPS = 2


class _Random:
    """Rows of random numbers, made once, in the shapes of encoded data."""

    def __init__(self, rows: dict[str, Tensor]):
        self.rows = {name: t.cpu() for name, t in rows.items()}

    def __len__(self) -> int:
        return len(self.rows["latents"])

    def batch(self, indices: Tensor) -> dict[str, Any]:
        return {name: t[indices] for name, t in self.rows.items()}


def dry_run(
    model: Path,
    image_encoder: Path,
    source: Path | None,
    method: AdapterConfig,
    objective: ObjectiveConfig,
    training: TrainingConfig,
    precision: Precision,
    pixels: int | None = None,
    results: Path = RESULTS,
) -> dict[str, Any]:
    """Two optimiser steps on random data, save, load, one step of denoising; what it took is printed and written down.

    Builds denoiser and adapter as training on prepared data does: without VAE and encoders. `pixels` is the size of
    the pictures, the model's own by default.
    """
    ours = distributed.state()
    device = ours.device
    plan = estimate_memory(
        model,
        image_encoder,
        source,
        method,
        replace(objective, compile=False),
        training,
        precision,
        ours.num_processes,
        pixels,
    )
    meta_model, adapter = plan.meta_model, plan.adapter
    backbone, side = meta_model.backbone, meta_model.side(pixels)
    torch.manual_seed(training.seed)  # the same weights and rows in all processes
    filled(backbone.denoiser, torch.device("cpu") if precision.shard else device)  # pyright: ignore[reportArgumentType]
    filled(adapter, device)  # pyright: ignore[reportArgumentType]
    if device.type == "cuda":  # pyright: ignore[reportOptionalMemberAccess]
        torch.cuda.reset_peak_memory_stats()
    before = _peak(device)  # pyright: ignore[reportArgumentType]
    no_text = text(meta_model, 1, precision, device)  # pyright: ignore[reportArgumentType]
    loss = Denoising(backbone, adapter, objective, no_text)
    if precision.shard:  # int8 weights are there already
        shard(backbone.denoiser, backbone.block)
    per_step = training.batch_size * training.gradient_accumulation * ours.num_processes
    table = _Random(batch(meta_model, adapter, per_step, side, precision, "cpu"))
    with (
        TemporaryDirectory() as folder
    ):  # each process has its own: only the first writes of the run, and all save and load the adapter
        config = replace(training, samples=STEPS * per_step, warmup=0, evaluate_every=None, tensorboard=False)
        began = time.perf_counter()
        rows = train(loss, table, config, Path(folder), description="dry run")
        seconds = time.perf_counter() - began
        loss.detach()
        peak = _peak(device)  # pyright: ignore[reportArgumentType]
        save_with_card(adapter, Path(folder) / "adapter", {"samples": 0, "model": model, "source": source})
        again = load_adapter(Path(folder) / "adapter").to(device)  # pyright: ignore[reportArgumentType]
    shift = _step(backbone, again, table.batch(torch.arange(1)), device)  # pyright: ignore[reportArgumentType]
    first, second = (r["samples"] / r["samples_per_second"] for r in rows)
    facts = {
        "model": str(model),
        "machine": machine(),
        "dtype": precision.frozen,
        "pixels": side * backbone.pipe.vae_scale_factor,  # pyright: ignore[reportAttributeAccessIssue]
        "batch": training.batch_size,
        "processes": ours.num_processes,
        "gradient_checkpointing": objective.gradient_checkpointing,
        "parameters": {
            "denoiser": sum(p.numel() for p in backbone.denoiser.parameters()),
            "adapter": sum(p.numel() for p in adapter.parameters()),
        },
        "trained": plan.trained,
        "losses": [r["loss"] for r in rows],
        "seconds_in_all": seconds,
        "step_seconds": second - first,
        "samples_per_second": per_step / (second - first),
        "peak_bytes": peak,
        "peak_is": "GPU memory allocated" if device.type == "cuda" else "resident memory, libraries in it",  # pyright: ignore[reportOptionalMemberAccess]
        "before_training_bytes": before,
        "planned_bytes": plan.estimate.peak(training.batch_size),
        "plan": asdict(plan.estimate),
        "latent_step_changed_by_adapter": shift,
    }
    if ours.is_main_process:
        target = results / f"dry-run-{slug(str(model).split('/')[-1].replace(':', '-'))}-{device.type}.json"  # pyright: ignore[reportOptionalMemberAccess]
        with atomic_write(target) as beside:
            beside.write_text(json.dumps(facts, indent=1) + "\n")
        print(json.dumps(facts, indent=1))
    return facts


def filled(model: nn.Module, device: torch.device) -> None:
    """Gives a model from the meta device memory and random numbers, small enough for the signal to stay finite."""
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
def _step(backbone: Any, adapter: Any, rows: dict[str, Tensor], device: torch.device) -> float:
    """One step of denoising with the adapter; how far it is from one without, as a share of the prediction."""
    adapter.eval()
    latents = rows["latents"].to(device, backbone.dtype)
    timesteps = torch.full((1,), 500, device=device)
    words = {name.removeprefix("text."): t.to(device) for name, t in rows.items() if name.startswith("text.")}
    plain = backbone.predict(latents, timesteps, words)
    with attach(backbone.denoiser, backbone.sites, adapter(rows["embeds"].float().to(device)).to(backbone.dtype)):
        prompted = backbone.predict(latents, timesteps, words)
    latents = latents - 0.1 * prompted
    if not latents.isfinite().all():
        raise FloatingPointError("The dry run's latents are not finite after one step.")
    return float((prompted - plain).norm() / plain.norm())


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

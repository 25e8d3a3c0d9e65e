"""Step 1 of a check: everything that the recipe names is there, whole, and fits together and into memory."""

import time
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import nn

from a4a.adapters.loading import load_adapter
from a4a.backbones import load_pipeline
from a4a.data.subset import few_samples
from a4a.encoders.clip import CLIPImageEncoder
from a4a.evaluation.metrics.base import GeneratedSet
from a4a.evaluation.scoring import compute_scores
from a4a.training.distributed import process_device
from a4a.transfer.check.report import Finding
from a4a.transfer.check.setup import CheckSetup
from a4a.transfer.memory import RESERVED, estimate_memory
from a4a.transfer.meta import load_meta_transfer
from a4a.transfer.start import load_init_and_source
from a4a.utils.modules import parameter_count

DOWNLOAD = "the files of that name: remove them (those of the hub are below HF_HOME) and load them again"


def load_everything(setup: CheckSetup) -> Generator[Finding, None, None]:
    """Loads one thing after the other, so that memory never holds two of them."""
    settings, adapters = setup.settings, setup.config.adapters.values()
    dtype = settings.precision.dtype
    yield _memory(setup)
    yield _references(setup)
    yield _data(setup)
    sources = settings.source.values() if isinstance(settings.source, dict) else [settings.source]
    names = [*sources, settings.init, *(a.adapter for a in adapters)]
    kinds: list[tuple[list[Any], Callable[[str], nn.Module | DiffusionPipeline]]] = [
        (names, load_adapter),
        (
            [settings.image_encoder, *(a.image_encoder for a in adapters)],
            lambda name: CLIPImageEncoder.from_pretrained(name, dtype).module,
        ),
        ([settings.model, *(a.model for a in adapters)], lambda name: load_pipeline(name, dtype)),
    ]
    for found, load in kinds:
        for name in dict.fromkeys(str(name) for name in found if name is not None):
            yield _loaded(name, load)


def _memory(setup: CheckSetup) -> Finding:
    settings = setup.settings
    estimate = estimate_memory(load_meta_transfer(settings), 1, setup.data.size, with_encoders=True)
    batch = settings.training.batch_size
    peak, device = estimate.peak(batch), process_device()
    what, found = f"memory planned for a batch of {batch}", f"{peak / 1e9:.2f} GB"
    if device.type != "cuda":
        return Finding(what, found, "no limit: there is no GPU", values={"planned_bytes": peak})
    total = torch.cuda.get_device_properties(device).total_memory
    return Finding(
        what,
        found,
        f"at most {(total - RESERVED) / 1e9:.2f} GB of the GPU's {total / 1e9:.2f}",
        peak + RESERVED <= total,
        f"training.batch_size (the largest that fits is {estimate.largest_batch(total)}), and the table of what saves "
        "memory in docs/your-own-adapter.md",
        {"planned_bytes": peak, "gpu_bytes": total},
    )


def _references(setup: CheckSetup) -> Finding:
    """Scores the references as if they were generated: loads every metric, and shows the highest score there is."""
    task = setup.evaluation.task.first(setup.config.subjects)
    images = [[reference] * task.generations for reference in task.references]
    scores = compute_scores(
        setup.evaluation.metrics, GeneratedSet(task.references, task.by_subject(task.prompts), images)
    )
    score = float(np.nanmean(setup.score_of(scores)))
    return Finding(
        f"{setup.config.score} of the {len(task.subjects)} references themselves",
        f"{score:.3f}",
        "a number, the highest that there can be",
        bool(np.isfinite(score)),
        f"the references of evaluation.task, and the model behind {setup.config.score}",
        {setup.config.score: score},
    )


def _data(setup: CheckSetup) -> Finding:
    settings, data = setup.settings, setup.data
    _, source = load_init_and_source(settings)
    for output in settings.method.encoder_outputs(source):
        data.with_output(output).check(settings.model, settings.image_encoder, output)
    samples = few_samples(data, setup.config.overfit).total
    size = f" of {data.size} pixels" if data.size else ""
    return Finding(
        "training data",
        f"{samples:,} samples{size}",
        "made for this model and this image encoder",
        values={"samples": samples},
    )


def _loaded(name: str, load: Callable[[str], nn.Module | DiffusionPipeline]) -> Finding:
    """Loads something and looks at all of its weights."""
    began = time.perf_counter()
    loaded = load(name)
    parts = loaded.components if isinstance(loaded, DiffusionPipeline) else {type(loaded).__name__: loaded}
    modules = {part: module for part, module in parts.items() if isinstance(module, nn.Module)}
    broken = [part for part, module in modules.items() if not all(p.isfinite().all() for p in module.parameters())]
    count, seconds = parameter_count(*modules.values()), time.perf_counter() - began
    found = f"{type(loaded).__name__}, {count / 1e6:,.1f} million weights in {seconds:.1f} s"
    if broken:
        found += f", not all finite in {' and '.join(broken)}"
    return Finding(name, found, "finite weights", not broken, DOWNLOAD, {"weights": count, "seconds": seconds})

"""What reading prepared data costs: `python benchmarks/data_loading.py FOLDER`.

Writes random samples with the shapes of sd15-mini, opens them, reads them in random order, and trains an IP-Adapter on
them. Prints as JSON: seconds to open, samples per second, resident memory and open files before and after, and the
share of training time spent on loading. A second call on the same folder measures the samples that are there.
"""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli
from safetensors.torch import save_file

from a4a.adapters.ip_adapter import IPAdapter
from a4a.backbones import backbone_for, load_pipeline
from a4a.data import shards
from a4a.data.manifest import FORMAT
from a4a.data.prepared import PreparedDataset
from a4a.training.config import TrainingConfig
from a4a.training.denoising import Denoising, ObjectiveConfig
from a4a.training.trainer import train
from a4a.zoo.registry import MODELS

BACKBONE = backbone_for(load_pipeline(MODELS / "sd15-mini"))
NO_TEXT = BACKBONE.no_text()
SIZE, LATENTS, EMBED = (64, 64), (8, 8, 8), 128
TEXT = {name: ["float16", list(t.shape[1:])] for name, t in NO_TEXT.items()}


def write_samples(folder: Path, rows: int, chunk: int = 512) -> None:
    """A folder as `a4a prepare` makes it, with random latents, embeddings and text states."""
    rng = np.random.default_rng(0)
    listing = [_write_shard(folder, rng, start, min(chunk, rows - start)) for start in range(0, rows, chunk)]
    save_file(NO_TEXT, folder / "no_text.safetensors")
    save_file({"clip": torch.zeros(1, EMBED)}, folder / "no_image.safetensors")
    manifest = {
        "format": FORMAT,
        "made_by": "benchmarks/data_loading.py",
        "settings": {},
        "sizes": [SIZE],
        "latents": {"0": LATENTS},
        "text": TEXT,
        "embeds": {"clip": [EMBED]},
        "views": 1,
        "flips": False,
        "counts": {"train": rows},
        "shards": listing,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _write_shard(folder: Path, rng: np.random.Generator, start: int, count: int) -> dict[str, Any]:
    """Rows `start` to `start + count`; returns the shard's entry in the manifest."""
    shard = folder / "shards" / f"{start:09d}"
    shard.mkdir(parents=True)
    names = [f"{i:09d}" for i in range(start, start + count)]
    columns = {
        "id": [f"{name}.png" for name in names],
        "text": ["a drawing"] * count,
        "subject": names,
        "group": names,
        "split": ["train"] * count,
        "bucket": [0] * count,
        "line": list(range(count)),
    }
    arrays = {"latents": rng.normal(size=(count, 1, *LATENTS)), "embeds.clip": rng.normal(size=(count, 1, EMBED))}
    states = {name: list(rng.normal(size=(count, *shape)).astype(dtype)) for name, (dtype, shape) in TEXT.items()}
    arrays = {name: list(a.astype(np.float16)) for name, a in arrays.items()}
    arrays["sizes"] = [np.array([[*SIZE, 0, 0]], np.int32)] * count
    shards.write(shard / "rows.arrow", columns, arrays)
    shards.write(shard / "text.arrow", {"text": names}, states)
    files = {file.name: {"bytes": file.stat().st_size, "sha256": ""} for file in shard.iterdir()}
    return {"name": shard.name, "rows": count, "files": files}


def resident_megabytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


class TimedDataset(PreparedDataset):
    """Adds up the seconds that its batches take."""

    seconds = 0.0

    def batch(self, indices: torch.Tensor) -> dict[str, Any]:
        began = time.perf_counter()
        batch = super().batch(indices)
        self.seconds += time.perf_counter() - began
        return batch


def share_of_training(folder: Path, samples: int) -> float:
    """Share of the training time that is spent on loading."""
    dataset = TimedDataset(folder)
    adapter = IPAdapter.from_denoiser(BACKBONE.sites, BACKBONE.text_projections(), {"image_embed_dim": EMBED})
    objective = Denoising(BACKBONE, adapter, ObjectiveConfig())
    with tempfile.TemporaryDirectory() as output:
        began = time.perf_counter()
        train(objective, dataset, TrainingConfig(samples=samples, batch_size=32), output)
        return dataset.seconds / (time.perf_counter() - began)


def main(folder: Path, rows: int = 100_000, batch: int = 32, read: int = 50_000, trained: int = 3200) -> None:
    """Args:
    folder: empty, or filled by an earlier call.
    rows: samples to write.
    batch: samples to read at a time.
    read: samples to read.
    trained: samples to train on.
    """
    folder = Path(folder)
    if not (folder / "manifest.json").exists():
        write_samples(folder, rows)
    before = {"resident_mb": resident_megabytes(), "open_files": open_files()}
    began, busy = time.perf_counter(), time.process_time()
    dataset = PreparedDataset(folder)
    opened = {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - busy,
        "resident_mb": resident_megabytes(),
        "open_files": open_files(),
    }
    order = torch.randperm(len(dataset))[:read]
    began, busy = time.perf_counter(), time.process_time()
    for part in order.split(batch):
        dataset.batch(part)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    after = {
        "samples_per_second": len(order) / seconds,
        "per_cpu_second": len(order) / busy,
        "resident_mb": resident_megabytes(),
        "open_files": open_files(),
    }
    share = share_of_training(folder, trained)
    print(
        json.dumps(
            {"rows": len(dataset), "before": before, "opened": opened, "read": after, "share_of_training": share},
            indent=1,
        )
    )


if __name__ == "__main__":
    auto_cli(main, as_positional=True)

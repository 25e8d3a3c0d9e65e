"""What reading prepared data costs: `python benchmarks/data_loading.py FOLDER`.

Generates cached samples of sd15-mini's shapes, opens them, reads them in random order, and trains its IP-Adapter on them.
In JSON: seconds to open, samples a second, resident memory and open files, before and after, and the loader's share of
the training's time. A second call measures the folder as it lies.
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
LATENTS, EMBED = (8, 8, 8), 128
TEXT = {name: ["float16", list(t.shape[1:])] for name, t in NO_TEXT.items()}


def generate(folder: Path, rows: int, chunk: int = 512) -> None:
    rng = np.random.default_rng(0)
    listing = []
    for start in range(0, rows, chunk):
        count, name = min(chunk, rows - start), f"{start // chunk:06d}"
        place = folder / "shards" / name
        place.mkdir(parents=True)
        ids = [f"{i:09d}.png" for i in range(start, start + count)]
        words = {
            "id": ids,
            "text": ["a drawing"] * count,
            "subject": [i[:-5] for i in ids],
            "group": [i[:-5] for i in ids],
            "split": ["train"] * count,
        }
        words |= {"bucket": [0] * count, "line": list(range(count))}
        numbers = {"latents": rng.normal(size=(count, 1, *LATENTS)), "embeds.clip": rng.normal(size=(count, 1, EMBED))}
        shards.write(place / "rows.arrow", words, {k: list(v.astype(np.float16)) for k, v in numbers.items()})
        states = {k: list(rng.normal(size=(count, *shape)).astype(kind)) for k, (kind, shape) in TEXT.items()}
        shards.write(place / "text.arrow", {"text": ids}, states)
        listing.append(
            {
                "name": name,
                "rows": count,
                "files": {f.name: {"bytes": f.stat().st_size, "sha256": ""} for f in place.iterdir()},
            }
        )
    save_file(NO_TEXT, folder / "no_text.safetensors")
    save_file({"clip": torch.zeros(1, EMBED)}, folder / "no_image.safetensors")
    manifest = {
        "format": FORMAT,
        "made_by": "benchmarks/data_loading.py",
        "settings": {},
        "latents": {"0": LATENTS},
        "text": TEXT,
        "embeds": {"clip": [EMBED]},
    }
    manifest |= {"views": 1, "flips": False, "counts": {"train": rows}, "shards": listing}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def resident() -> float:
    """Megabytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def handles() -> int:
    return len(os.listdir("/proc/self/fd"))


class TimedDataset(PreparedDataset):
    """Counts the seconds of its batches."""

    seconds = 0.0

    def batch(self, indices: torch.Tensor) -> dict[str, Any]:
        began = time.perf_counter()
        found = super().batch(indices)
        self.seconds += time.perf_counter() - began
        return found


def share_of_training(folder: Path, samples: int) -> float:
    dataset = TimedDataset(folder)
    adapter = IPAdapter.from_denoiser(BACKBONE.sites, BACKBONE.text_projections(), EMBED)
    objective = Denoising(BACKBONE, adapter, ObjectiveConfig())
    with tempfile.TemporaryDirectory() as output:
        began = time.perf_counter()
        train(objective, dataset, TrainingConfig(samples=samples, batch_size=32), output)
        return dataset.seconds / (time.perf_counter() - began)


def main(folder: Path, rows: int = 100_000, batch: int = 32, read: int = 50_000, trained: int = 3200) -> None:
    """Args:
    folder: an empty one, or one that an earlier call filled.
    rows: cached samples.
    batch: samples at a time.
    read: samples to read.
    trained: samples to train on.
    """
    folder = Path(folder)
    if not (folder / "manifest.json").exists():
        generate(folder, rows)
    before = {"resident_mb": resident(), "handles": handles()}
    began, busy = time.perf_counter(), time.process_time()
    dataset = PreparedDataset(folder)
    opened = {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - busy,
        "resident_mb": resident(),
        "handles": handles(),
    }
    order = torch.randperm(len(dataset))[:read]
    began, busy = time.perf_counter(), time.process_time()
    for part in order.split(batch):
        dataset.batch(part)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    after = {
        "samples_per_second": len(order) / seconds,
        "per_cpu_second": len(order) / busy,
        "resident_mb": resident(),
        "handles": handles(),
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

"""What reading prepared data costs: `python benchmarks/loader.py FOLDER`.

Generates cached samples of the miniature's shapes, opens them, and reads them in random order. In JSON: seconds to open,
samples a second, resident memory and open files, before and after. A second call measures the folder as it lies.
"""

import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli
from safetensors.torch import save_file

from a4a.data import shards
from a4a.data.prepared import FORMAT, Prepared

LATENTS, TEXT, EMBED = (4, 16, 16), {"states": ["float16", [16, 64]], "mask": ["int64", [16]]}, 128


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
        listing.append({"name": name, "rows": count, "files": {f.name: {"bytes": f.stat().st_size, "sha256": ""} for f in place.iterdir()}})
    save_file({"states": torch.zeros(1, 16, 64), "mask": torch.ones(1, 16, dtype=torch.long)}, folder / "no_text.safetensors")
    manifest = {
        "format": FORMAT,
        "made_by": "benchmarks/loader.py",
        "settings": {},
        "latents": {"0": LATENTS},
        "text": TEXT,
        "embeds": {"clip": EMBED},
    }
    manifest |= {"views": 1, "flips": False, "counts": {"train": rows}, "shards": listing}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def resident() -> float:
    """Megabytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def handles() -> int:
    return len(os.listdir("/proc/self/fd"))


def main(folder: Path, rows: int = 100_000, batch: int = 32, read: int = 50_000) -> None:
    """Args:
    folder: an empty one, or one that an earlier call filled.
    rows: cached samples.
    batch: samples at a time.
    read: samples to read.
    """
    folder = Path(folder)
    if not (folder / "manifest.json").exists():
        generate(folder, rows)
    before = {"resident_mb": resident(), "handles": handles()}
    began, busy = time.perf_counter(), time.process_time()
    table = Prepared(folder)
    opened = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - busy, "resident_mb": resident(), "handles": handles()}
    order = torch.randperm(len(table))[:read]
    began, busy = time.perf_counter(), time.process_time()
    for part in order.split(batch):
        table.batch(part)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    after = {"samples_per_second": len(order) / seconds, "per_cpu_second": len(order) / busy, "resident_mb": resident(), "handles": handles()}
    print(json.dumps({"rows": len(table), "before": before, "opened": opened, "read": after}, indent=1))


if __name__ == "__main__":
    auto_cli(main, as_positional=True)

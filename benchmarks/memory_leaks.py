"""Watch the memory and the open files of a long training run: `python benchmarks/memory_leaks.py`.

A tiny pipeline is trained for 2,000 steps with checkpoints and evaluations. Resident memory and open files are recorded
every 100 steps. A run has all that it needs by step 100; from there on nothing may grow. The result is in
`benchmarks/results/memory_leaks.json`; a short form is among the tests.
"""

import gc
import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import torch

sys.path.append(str(Path(__file__).parent.parent / "tests"))
import tiny_models
from a4a.backbones import backbone_for
from a4a.training.config import TrainingConfig
from a4a.training.denoising import Denoising, ObjectiveConfig
from a4a.training.trainer import train


def measured(steps: int, first: int, every: int) -> dict[str, list[int]]:
    """Step, resident bytes and open files after `first` steps and then every `every`."""
    pipe = tiny_models.pixart()
    backbone = backbone_for(pipe)
    objective = Denoising(
        backbone,
        tiny_models.a4a(tiny_models.ip_adapter(tiny_models.sd15()), pipe),
        ObjectiveConfig(gradient_checkpointing=True),
    )
    process, found = psutil.Process(os.getpid()), {"step": [], "bytes": [], "files": []}

    def evaluate(samples: int) -> dict[str, float]:
        if samples // 2 >= first:
            gc.collect()
            found["step"].append(samples // 2)
            found["bytes"].append(process.memory_info().rss)
            found["files"].append(process.num_fds())
        return {"score": 0.0}

    config = TrainingConfig(
        samples=2 * steps, batch_size=2, ema_decay=0.9, checkpoint_every=2 * every, evaluate_every=2 * every
    )
    with TemporaryDirectory() as folder:
        train(objective, tiny_models.Samples(backbone, 8), config, folder, evaluate=evaluate)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = measured(2000, 100, 100)
    grown = max(found["bytes"]) - found["bytes"][0]
    print(json.dumps({"grown_bytes": grown, "files": sorted(set(found["files"])), **found}))
    sys.exit(grown > 32 * 2**20 or max(found["files"]) > found["files"][0])

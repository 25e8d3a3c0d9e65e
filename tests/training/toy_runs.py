"""A tiny deterministic training, in this process or another: `python toy_runs.py OUTPUT SAMPLES KIND [resume]`."""

import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn

from a4a.training.base import Objective
from a4a.training.config import TrainingConfig
from a4a.training.trainer import train


class Rows:
    """y = Ax with noise; row numbers can be recorded."""

    def __init__(self, count=20):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(count, 3, generator=generator)
        self.y = self.x @ torch.randn(3, 2, generator=generator)
        self.seen = []

    def __len__(self):
        return len(self.x)

    def batch(self, indices):
        self.seen += indices.tolist()
        return {"x": self.x[indices], "y": self.y[indices], "rows": indices}


class Regression(Objective):
    """Two trained layers with rates of their own, and a frozen one. `noise` makes a loss depend on random numbers."""

    def __init__(self, noise=0.1):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second, self.frozen = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2)
        self.frozen.requires_grad_(False)
        self.noise, self.calls = noise, 0

    def parameter_groups(self):
        return [
            {"name": "slow", "params": list(self.first.parameters()), "lr": 1e-3},
            {"name": "fast", "params": list(self.second.parameters()), "lr": 1e-2},
        ]

    def forward(self, batch):
        self.calls += 1
        x = batch["x"] + self.noise * torch.randn_like(batch["x"])
        return (self.frozen(self.second(torch.tanh(self.first(x)))) - self.frozen(batch["y"])).square().mean()


class Slow(Regression):
    """Takes long enough to be stopped from outside."""

    def forward(self, batch):
        time.sleep(0.05)
        return super().forward(batch)


class KilledMidStep(Regression):
    """Kills its own process (of several, the second) without any warning in the middle of a step."""

    def forward(self, batch):
        if self.calls == 15 and os.environ.get("RANK", "1") == "1":
            (Path(output) / "killed").write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(batch)


def config(samples, **options):
    defaults = {
        "batch_size": 2,
        "gradient_accumulation": 2,
        "ema_decay": 0.9,
        "schedule": "cosine",
        "warmup": 3,
        "checkpoint_every": 8,
        "tensorboard": False,
    }
    return TrainingConfig(samples=samples, **{**defaults, **options})


if __name__ == "__main__":
    torch.set_num_threads(1)
    output, samples, kind = (
        sys.argv[1],
        int(sys.argv[2]),
        {"slow": Slow, "killed": KilledMidStep, "plain": Regression}[sys.argv[3]],
    )
    train(kind(), Rows(), config(samples), output, resume="resume" in sys.argv)

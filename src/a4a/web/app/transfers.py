"""Transfers that visitors start: `a4a transfer` in processes of their own, one at a time on this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import yaml
from PIL import Image

from a4a.errors import InputError
from a4a.training.log import read_log
from a4a.utils.images import open_image
from a4a.zoo.adapters import IMAGE_ENCODER

SAMPLES = (400, 800, 1600, 3200)
"""Training samples to choose from."""
CREATURES = 2000
"""Training subjects."""
VALIDATION = 32
"""Subjects that score a transfer."""
SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)
"""Of the samples of a run, after which it is scored, besides its start and its end: the curve rises early."""
SHOWN = 6
"""Subjects in the sample pictures."""
TIME_LIMIT = 3600
"""Seconds after which a transfer is stopped."""
KEPT = 8
"""Finished transfers of all visitors together; the oldest are removed."""


@dataclass(frozen=True)
class Progress:
    """How far a transfer is."""

    samples: int
    total: int
    seconds: float
    running: bool
    adapter: Path | None
    """The folder of the adapter, once there is one."""
    rows: list[dict[str, float]]
    """Of the log, those with scores."""
    failure: str | None = None


@dataclass
class Transfer:
    """One run, in a folder of its own."""

    owner: str
    stage: str
    model: str
    total: int
    folder: Path
    process: subprocess.Popen
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None

    def progress(self) -> Progress:
        """What the run's files say now."""
        running = self.process.poll() is None
        if running and time.monotonic() - self.began > TIME_LIMIT:
            self.stop()
        if not running and self.ended is None:
            self.ended = time.monotonic()
        log = self.folder / "run" / "log.csv"
        rows = read_log(log) if log.is_file() else []
        adapter = self.folder / "run" / "adapter"
        found = adapter if (adapter / "config.json").is_file() else None
        return Progress(
            samples=int(rows[-1]["samples"]) if rows else 0,
            total=self.total,
            seconds=(self.ended or time.monotonic()) - self.began,
            running=running,
            adapter=found,
            rows=[row for row in rows if "identity" in row],
            failure=None if running or found or self.process.returncode < 0 else self._last_line(),
        )

    def samples(self) -> list[tuple[int, Image.Image]]:
        """Sample counts with their pictures: references above what was drawn."""
        files = sorted((self.folder / "run" / "samples").glob("[0-9]*.png"))
        return [(int(file.stem), open_image(file)) for file in files]

    def stop(self) -> None:
        """Ends the process at once; nothing of its own outlives it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)

    def _last_line(self) -> str:
        lines = (self.folder / "output.txt").read_text(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("a4a: ") if lines else "it ended without a word"


class Transfers:
    """All transfers of a server, in one folder; each belongs to the visitor who started it."""

    def __init__(self, folder: Path, stages: dict[str, dict[str, Any]]):
        self.folder, self.stages = folder, stages
        self._all: dict[str, Transfer] = {}
        self._lock = Lock()

    def start(self, owner: str, stage: str, samples: int, seed: int) -> str:
        """Starts a transfer and returns its name; InputError while another one runs."""
        if stage not in self.stages:
            raise InputError(f"There is no transfer {stage}; choose one of {', '.join(self.stages)}.")
        with self._lock:
            for other in self._all.values():
                if other.process.poll() is None:
                    raise InputError(_busy(other, owner))
            for name in list(self._all)[: -KEPT + 1]:
                self._remove(name)
            name = uuid.uuid4().hex
            folder = self.folder / name
            folder.mkdir(parents=True)
            process = self._process(folder, self._recipe(folder, stage, samples, seed))
            model = self.stages[stage]["model"]
            self._all[name] = Transfer(owner, stage, model, samples, folder, process)
        return name

    def find(self, name: str | None) -> Transfer | None:
        """A transfer by its name, where it is still there."""
        return self._all.get(name or "")

    def leave(self, owner: str) -> None:
        """Ends and removes all of a visitor who has left."""
        with self._lock:
            for name in [name for name, transfer in self._all.items() if transfer.owner == owner]:
                self._remove(name)

    def close(self) -> None:
        with self._lock:
            for name in list(self._all):
                self._remove(name)

    def _remove(self, name: str) -> None:
        transfer = self._all.pop(name)
        transfer.stop()
        shutil.rmtree(transfer.folder, ignore_errors=True)

    def _recipe(self, folder: Path, name: str, samples: int, seed: int) -> Path:
        """The recipe of a transfer, with the settings of the zoo's own."""
        stage = self.stages[name]
        training = {key: stage["training"][key] for key in ("batch_size", "warmup", "ema_decay")}
        kind = "A4AConfig" if "source" in stage else "IPAdapterConfig"
        recipe: dict[str, Any] = {
            "model": f"zoo:{stage['model']}",
            "image_encoder": IMAGE_ENCODER,
            "output": str(folder / "run"),
            "cache": str(self.folder / "cache"),
            "data": _class("a4a.zoo.WorldImages", split="train", subjects=CREATURES),
            "method": _class(kind, **stage.get("method", {})),
            "objective": {"rates": stage["rates"]},
            "training": training
            | {"samples": samples, "seed": seed, "checkpoint_every": samples, "tensorboard": False}
            | {"evaluate_at": sorted({max(round(share * samples), 1) for share in SHARES})},
            "evaluation": _class(
                "a4a.zoo.WorldValidator", split="validation", subjects=VALIDATION, grid_subjects=SHOWN
            ),
        }
        if "source" in stage:
            recipe["source"] = f"zoo:{stage['source']}"
        file = folder / "recipe.yaml"
        file.write_text(yaml.safe_dump(json.loads(json.dumps(recipe))))
        return file

    def _process(self, folder: Path, recipe: Path) -> subprocess.Popen:
        with (folder / "output.txt").open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "a4a", "transfer", "--config", str(recipe)],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=folder,
                start_new_session=True,
            )
        os.setpriority(os.PRIO_PROCESS, process.pid, 10)  # pictures come first
        return process


def _class(path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


def _busy(other: Transfer, owner: str) -> str:
    if other.owner == owner:
        return "Your transfer is still running; stop it, or wait for its end."
    return "Another visitor's transfer is running, and one at a time is all that this machine takes; try again later."

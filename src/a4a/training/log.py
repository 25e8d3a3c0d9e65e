"""The metric log of a run (CSV and TensorBoard), and how fast it goes."""

import csv
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator


class Throughput:
    """Samples per second since the start of this process's training, without the time that evaluation takes."""

    def __init__(self) -> None:
        self._began, self._samples = time.perf_counter(), 0

    def add(self, samples: int) -> None:
        """Counts samples that were processed."""
        self._samples += samples

    @property
    def samples_per_second(self) -> float:
        return self._samples / (time.perf_counter() - self._began)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the clock within this context."""
        before = time.perf_counter()
        yield
        self._began += time.perf_counter() - before


class MetricLogger:
    """One row per step, in memory, in `log.csv` and in TensorBoard.

    Args:
        output: folder of the run.
        accelerator: only its main process writes files.
        tensorboard: write to TensorBoard too.
        done: samples already processed; rows after them are dropped, since a resumed run writes them again.
    """

    def __init__(self, output: Path, accelerator: Accelerator, tensorboard: bool, done: int):
        self.path, self.main = output / "log.csv", accelerator.is_main_process
        self.rows: list[dict[str, float]] = []
        self.writer = None
        if not self.main:
            return
        output.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self.rows = [r for r in read_log(self.path) if r["samples"] <= done] if done else []
        self._rewrite()
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(output / "tensorboard"), purge_step=done)

    def write(self, row: dict[str, float]) -> None:
        """Appends a row; a new column rewrites the file, whose head must name it."""
        self.rows.append(row)
        if not self.main:
            return
        if set(row) - set(self.columns):
            self._rewrite()
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(row)
        if self.writer is not None:
            for name, value in row.items():
                self.writer.add_scalar(name, value, int(row["samples"]))

    def _rewrite(self) -> None:
        self.columns = list(
            dict.fromkeys(["step", "samples", "loss", "samples_per_second", *(k for r in self.rows for k in r)])
        )
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a `log.csv`; columns that a row leaves empty are absent from it."""
    with path.open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if v not in ("", None)} for row in csv.DictReader(file)]

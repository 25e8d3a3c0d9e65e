"""The metric log of a run: CSV and TensorBoard."""

import csv
from pathlib import Path

from accelerate import Accelerator


class MetricLogger:
    """One row a step, in memory, in `log.csv` and in TensorBoard."""

    def __init__(self, output: Path, accelerator: Accelerator, tensorboard: bool, done: int):
        self.path, self.main = output / "log.csv", accelerator.is_main_process
        self.rows: list[dict[str, float]] = []
        self.writer = None
        if not self.main:
            return
        output.mkdir(parents=True, exist_ok=True)
        if self.path.exists():  # a resumed run drops the rows that it will write again
            self.rows = [r for r in read_log(self.path) if r["samples"] <= done] if done else []
        self._rewrite()
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(output / "tensorboard"), purge_step=done)

    def write(self, row: dict[str, float]) -> None:
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

"""The training loop. It handles steps, devices, checkpoints and logs; what is learned is up to the objective.

The random numbers of a pass (noise, time steps, dropped conditions) come from a generator that is seeded with the run's
seed, the pass and the process; the order of the data depends on the seed and the epoch. So a resumed run needs no
generator's state: it continues with the same numbers.

Of several processes only the first evaluates, logs and saves; the others wait. In every pass the processes share
their losses and whether they were asked to stop, so that all stop at the same step.
"""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from a4a.errors import InputError
from a4a.training import checkpoint
from a4a.training.base import Batch, Dataset, Objective, Scores
from a4a.training.checkpoint import SavedModel
from a4a.training.config import TrainingConfig
from a4a.training.distributed import (
    accelerator_for,
    check_same_start,
    check_supported,
    exclude_frozen_from_ddp,
    gather_rows,
)
from a4a.training.interrupt import stop_signals
from a4a.training.loading import fetch_batches, to_device
from a4a.training.log import MetricLogger, Throughput
from a4a.training.sampler import BucketBatchSampler, mix_seed
from a4a.training.state import TrainingState


def train(
    objective: Objective,
    dataset: Dataset,
    config: TrainingConfig,
    output: Path | str,
    *,
    resume: bool = False,
    evaluate: Callable[[int], Scores] | None = None,
    description: str = "training",
    accelerator: Accelerator | None = None,
    model: SavedModel | None = None,
) -> list[dict[str, float]]:
    """Trains the objective in place and returns the rows of `output/log.csv`.

    With a moving average, the objective holds the averaged weights during `evaluate(samples)`, while `model` is written
    into a checkpoint, and in the end.
    On SIGTERM and Ctrl-C it saves a checkpoint and raises SystemExit. Raises InputError on an empty dataset or a folder
    that holds another run and is not resumed, and FloatingPointError on a loss or gradients that are not finite (of more
    than `skip_nonfinite` steps).
    """
    output = Path(output)
    if len(dataset) == 0:
        raise InputError(f"The training data for {output} is empty; give at least one sample.")
    accelerator = accelerator or accelerator_for(config.mixed_precision, config.gradient_accumulation)
    check_supported(accelerator)
    return _Run(objective, dataset, config, output, accelerator, resume, evaluate, model).train(description)


class _Run:
    """One run of training. A step is one update of the weights, of `gradient_accumulation` forward passes."""

    def __init__(
        self,
        objective: Objective,
        dataset: Dataset,
        config: TrainingConfig,
        output: Path,
        accelerator: Accelerator,
        resume: bool,
        evaluate: Callable[[int], Scores] | None,
        model: SavedModel | None,
    ):
        self.objective, self.dataset, self.config, self.accelerator = objective, dataset, config, accelerator
        self.output, self.checkpoints, self.evaluate = output, output / "checkpoints", evaluate
        self.saved_model = None if model is None else SavedModel(model.name, self._write_averaged(model))
        samples_per_pass = config.batch_size * accelerator.num_processes
        self.samples_per_step = samples_per_pass * config.gradient_accumulation
        self.total_steps = math.ceil(config.samples / self.samples_per_step)
        self.sampler = BucketBatchSampler(
            len(dataset), config.seed, samples_per_pass, getattr(dataset, "buckets", None)
        )
        self.state = TrainingState.initial(objective, config, self.total_steps, accelerator.device)
        self.skipped = 0
        self.problem: str | None = None
        self._restore(resume)
        self._prepare()
        self.log = MetricLogger(output, accelerator, config.tensorboard, self.samples)

    @property
    def samples(self) -> int:
        """Processed so far, by all processes together."""
        return self.state.step * self.samples_per_step

    def _restore(self, resume: bool) -> None:
        """Continues after the last checkpoint, where there is one."""
        saved = checkpoint.existing(self.checkpoints)
        if saved and not resume:
            raise InputError(
                f"{self.output} already holds a run; pass --resume to go on with it, or choose another output folder."
            )
        if saved:
            self.state.restore(checkpoint.load_for_run(saved[-1], self.samples_per_step, self.state.parameters))

    def _prepare(self) -> None:
        """Moves everything to the device and wraps it for several processes."""
        if self.accelerator.num_processes > 1:
            check_same_start(self.accelerator, self.dataset, self.state.parameters, self.state.step)
            exclude_frozen_from_ddp(self.objective)
        self.model, self.state.optimizer = self.accelerator.prepare(self.objective, self.state.optimizer)
        if self.state.ema is not None:
            self.state.ema.to(self.accelerator.device)

    def train(self, description: str) -> list[dict[str, float]]:
        """Runs the remaining steps."""
        self.objective.train()
        passes = self.config.gradient_accumulation
        remaining = range(self.state.step * passes, self.total_steps * passes)
        # on a CPU, a second thread would only compete for the cores
        batches = fetch_batches(self._fetch, remaining, ahead=self.accelerator.device.type != "cpu")
        with closing(batches), closing(self.log), stop_signals() as stop_signal, self._progress(description) as bar:
            if self.state.step == 0 and self.evaluate is not None:
                self.log.write({"step": 0, "samples": 0, **self._evaluate(self.evaluate)})
            throughput = Throughput()
            while self.state.step < self.total_steps:
                loss, received = self._step(batches, stop_signal)
                throughput.add(self.samples_per_step)
                bar.update(self.samples_per_step)
                bar.set_postfix(loss=f"{loss:.4f}")
                self._log(loss, throughput)
                if received or self._is_due(self.config.checkpoint_every):
                    self._save()
                if received:
                    raise SystemExit(128 + received)
        self.state.finish()
        self.accelerator.wait_for_everyone()
        return self.log.rows

    def _step(self, batches: Iterator[Batch], stop_signal: Callable[[], int]) -> tuple[float, int]:
        """One update of the weights. Returns its loss, and the signal that any process has received (0: none)."""
        passes = self.config.gradient_accumulation
        loss, received = 0.0, 0
        for number in range(self.state.step * passes, (self.state.step + 1) * passes):
            losses, signals = self._pass(number, next(batches), stop_signal)
            loss += sum(losses) / len(losses) / passes
            received = int(max(received, *signals))
        if self.problem is not None:
            self._report_skipped(self.problem)
        self.problem = None
        self.state.advance()
        return loss, received

    def _pass(self, number: int, batch: Batch, stop_signal: Callable[[], int]) -> tuple[list[float], list[float]]:
        """Forward, backward, and the update after a step's last pass. Returns each process's loss and signal."""
        accelerator, optimizer = self.accelerator, self.state.optimizer
        torch.manual_seed(mix_seed(self.config.seed, number, accelerator.process_index))
        with accelerator.accumulate(self.model):
            loss: Tensor = self.model(to_device(batch, accelerator.device))
            own = torch.stack([loss.detach().float(), loss.new_tensor(stop_signal()).float()])
            losses, signals = gather_rows(accelerator, own).T.tolist()
            self._check_losses(losses, number)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                self._clip_gradients(number)
            if self.problem is None or accelerator.scaler is not None:  # fp16's scaler leaves such steps out itself
                optimizer.step()
            optimizer.zero_grad()
        return losses, signals

    def _check_losses(self, losses: list[float], number: int) -> None:
        for process, loss in enumerate(losses):
            if not math.isfinite(loss):
                self._skip_or_raise(f"The loss is {loss}", self._indices(number, process))

    def _clip_gradients(self, number: int) -> None:
        """Clips the norm of the gradients after the last pass of a step, whose number is given."""
        max_norm = self.config.max_grad_norm or math.inf
        parameters = list(self.state.parameters.values())
        norm = float(cast(Tensor, self.accelerator.clip_grad_norm_(parameters, max_norm)))
        if self.accelerator.scaler is None and not math.isfinite(norm):  # fp16's scaler skips such steps itself
            passes = range(number + 1 - self.config.gradient_accumulation, number + 1)
            indices = torch.cat([self.sampler.take(n) for n in passes])
            self._skip_or_raise(f"The norm of the gradients is {norm}", indices)

    def _skip_or_raise(self, problem: str, indices: Tensor) -> None:
        """Marks this step as one to leave out, where `skip_nonfinite` allows another one; raises otherwise."""
        if self.problem is not None:
            return
        if self.skipped == self.config.skip_nonfinite:
            raise self._not_finite(problem, indices)
        self.skipped += 1
        self.problem = f"{problem} at step {self.state.step + 1} (samples {indices.tolist()})"

    def _report_skipped(self, problem: str) -> None:
        if self.accelerator.is_main_process:
            left = self.config.skip_nonfinite - self.skipped
            tqdm.write(f"{problem}: the step was left out; {left} more may be (skip_nonfinite).", file=sys.stderr)

    def _not_finite(self, problem: str, indices: Tensor) -> FloatingPointError:
        rates = ", ".join(f"{name} {rate:g}" for name, rate in self.state.learning_rates().items())
        saved = checkpoint.existing(self.checkpoints)
        return FloatingPointError(
            f"{problem} at step {self.state.step + 1} (learning rates: {rates}; samples {indices.tolist()}); "
            f"the last good checkpoint is {saved[-1] if saved else 'none'}. The same batch comes again with --resume; "
            f"to leave out {self.skipped + 1} such steps, add --training.skip_nonfinite {self.skipped + 1}."
        )

    def _indices(self, number: int, process: int) -> Tensor:
        """The samples of a process in a pass."""
        return self.sampler.take(number)[process :: self.accelerator.num_processes]

    def _fetch(self, number: int) -> Batch:
        return self.dataset.batch(self._indices(number, self.accelerator.process_index))

    def _is_due(self, every: int | None) -> bool:
        """Whether the last step completed `every` samples (None: never), or the run."""
        before = self.samples - self.samples_per_step
        passed = every is not None and self.samples // every > before // every
        return passed or self.state.step == self.total_steps

    def _is_evaluation_due(self) -> bool:
        before = self.samples - self.samples_per_step
        listed = any(before < count <= self.samples for count in self.config.evaluate_at)
        return listed or self._is_due(self.config.evaluate_every)

    def _log(self, loss: float, throughput: Throughput) -> None:
        """Writes a row of the log, with scores where an evaluation is due."""
        rate = throughput.samples_per_second
        row = {"step": self.state.step, "samples": self.samples, "loss": loss, "samples_per_second": rate}
        if not math.isfinite(loss):
            del row["loss"]  # of a step that was left out
        if self.evaluate is not None and self._is_evaluation_due():
            with throughput.paused():
                row |= self._evaluate(self.evaluate)
        self.log.write(row)

    def _evaluate(self, evaluate: Callable[[int], Scores]) -> Scores:
        """The scores, in the first process; the others wait for it."""
        scores: Scores = {}
        if self.accelerator.is_main_process:
            with self.state.averaged(), torch.no_grad():
                self.objective.eval()
                scores = evaluate(self.samples)
                self.objective.train()
        self.accelerator.wait_for_everyone()
        return scores

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            saved = self.state.to_checkpoint(self.samples)
            checkpoint.save(self.checkpoints, saved, self.config.keep_checkpoints, self.saved_model)
        self.accelerator.wait_for_everyone()

    def _write_averaged(self, model: SavedModel) -> Callable[[Path, int], None]:
        def write(folder: Path, samples: int) -> None:
            with self.state.averaged():
                model.write(folder, samples)

        return write

    def _progress(self, description: str) -> tqdm:
        return tqdm(
            total=self.total_steps * self.samples_per_step,
            initial=self.samples,
            desc=description,
            unit="sample",
            disable=not self.accelerator.is_main_process,
        )

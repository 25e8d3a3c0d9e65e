"""The training loop. It knows steps, devices, checkpoints and logs; what is learned is the objective's business.

Every random number of a step (noise, time steps, dropped conditions) comes from a generator that is seeded by the run's
seed, the step and the process, and the order of the data by the seed and the epoch. So a resumed run needs no
generator's state: it goes on with the same numbers.

Of several processes the first alone evaluates, logs and saves while the others wait. In every pass they tell each other
their losses and whether they were asked to stop, so that all stop at the same step.
"""

import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from a4a.errors import InputError
from a4a.training import checkpoint
from a4a.training.base import Batch, Dataset, Objective, Scores
from a4a.training.config import TrainingConfig
from a4a.training.distributed import accelerator_for, check_consistent, data_fingerprint, exclude_frozen_from_ddp
from a4a.training.log import MetricLogger
from a4a.training.optimizers import optimizer_for
from a4a.training.sampler import BucketBatchSampler, mix_seed


def train(
    objective: Objective,
    table: Dataset,
    config: TrainingConfig,
    output: Path | str,
    *,
    resume: bool = False,
    evaluate: Callable[[int], Scores] | None = None,
    description: str = "training",
    accelerator: Accelerator | None = None,
) -> list[dict[str, float]]:
    """Trains the objective in place and returns the rows of `output/log.csv`.

    With a moving average, the objective holds the averaged weights during `evaluate(samples)` and in the end.
    Stops with SystemExit after a checkpoint on SIGTERM and Ctrl-C; raises InputError on an empty table, on a folder
    that holds another run and is not resumed, and FloatingPointError on a loss or gradients that are not finite.
    """
    output = Path(output)
    if len(table) == 0:
        raise InputError(f"The training data for {output} is empty; give at least one sample.")
    accelerator = accelerator or accelerator_for(config.mixed_precision, config.gradient_accumulation)
    if accelerator.distributed_type not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        raise InputError(
            f"accelerate was configured for {accelerator.distributed_type}; use recipes/accelerate, and precision.shard for a denoiser that fits no GPU."
        )
    trained = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    groups = objective.parameter_groups()
    names = [group["name"] for group in groups]
    per_pass = config.batch_size * accelerator.num_processes
    per_step = per_pass * config.gradient_accumulation
    steps = math.ceil(config.samples / per_step)

    optimizer = optimizer_for(config.optimizer, groups, config.weight_decay, accelerator.device)
    scheduler = get_scheduler(config.schedule, optimizer, num_warmup_steps=config.warmup, num_training_steps=steps)
    ema = (
        EMAModel(trained.values(), decay=config.ema_decay, use_ema_warmup=True, power=0.75)
        if config.ema_decay
        else None
    )

    folder, first = output / "checkpoints", 0
    saved = checkpoint.existing(folder)
    if saved and not resume:
        raise InputError(
            f"{output} already holds a run; pass --resume to go on with it, or choose another output folder."
        )
    if saved:
        first, samples, weights, state, average = checkpoint.load(saved[-1])
        if samples != first * per_step:
            raise InputError(
                f"The checkpoint {saved[-1]} was made with {samples / first:g} samples a step (batch_size x gradient_accumulation x processes) "
                f"but this run takes {per_step}; set them so that they are as many again, or choose another output folder."
            )
        if weights.keys() != trained.keys() or any(weights[n].shape != p.shape for n, p in trained.items()):
            raise InputError(
                f"The checkpoint {saved[-1]} holds other parameters than this run trains; choose another output folder."
            )
        with torch.no_grad():
            for name, p in trained.items():
                p.copy_(weights[name])
        optimizer.load_state_dict(state)
        scheduler.last_epoch = first - 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch expects a step of the optimizer before this one
            scheduler.step()
        if ema is not None and average is not None:
            ema.shadow_params = [average[name].to(p) for name, p in trained.items()]
            ema.optimization_step = first

    if accelerator.num_processes > 1:
        shapes = sha256(repr([(n, tuple(p.shape)) for n, p in trained.items()]).encode()).hexdigest()[:16]
        facts = {
            "training samples": len(table),
            "training data": data_fingerprint(table),
            "trained parameters": shapes,
            "checkpoint of step": first,
        }
        check_consistent(accelerator, facts)
        exclude_frozen_from_ddp(objective)
    model, optimizer = accelerator.prepare(objective, optimizer)
    if ema is not None:
        ema.to(accelerator.device)
    order = BucketBatchSampler(len(table), config.seed, per_pass, getattr(table, "buckets", None))
    log = MetricLogger(output, accelerator, config.tensorboard, first * per_step)

    def rows_of(number: int, process: int) -> Tensor:
        return order.take(number)[process :: accelerator.num_processes]

    def fetch(number: int) -> Batch:
        return table.batch(rows_of(number, accelerator.process_index))

    def save(step: int) -> None:
        if accelerator.is_main_process:
            average = dict(zip(trained, ema.shadow_params, strict=True)) if ema is not None else None
            checkpoint.save(
                folder, step * per_step, step, dict(trained), optimizer.state_dict(), average, config.keep_checkpoints
            )
        accelerator.wait_for_everyone()

    def score(step: int) -> Scores:
        if evaluate is None:
            return {}
        scores: Scores = {}
        if accelerator.is_main_process:
            with _averaged(ema, list(trained.values())), torch.no_grad():
                objective.eval()
                scores = evaluate(step * per_step)
                objective.train()
        accelerator.wait_for_everyone()
        return scores

    def not_finite(what: str, step: int, rows: Tensor) -> FloatingPointError:
        rates = ", ".join(f"{n} {r:g}" for n, r in zip(names, scheduler.get_last_lr(), strict=True))
        last = checkpoint.existing(folder)
        return FloatingPointError(
            f"{what} at step {step} (learning rates: {rates}; samples {rows.tolist()}); the last good checkpoint is {last[-1] if last else 'none'}."
        )

    def crossed(every: int | None, step: int) -> bool:
        return every is not None and (step * per_step) // every > ((step - 1) * per_step) // every

    objective.train()
    passes = config.gradient_accumulation
    bar = tqdm(
        total=steps * per_step,
        initial=first * per_step,
        desc=description,
        unit="sample",
        disable=not accelerator.is_main_process,
    )
    ahead = accelerator.device.type != "cpu"  # on a CPU a second thread would only fight for the cores
    with ThreadPoolExecutor(1) as pool, _stop_signals() as stopped:
        if first == 0 and evaluate is not None:
            log.write({"step": 0, "samples": 0, **score(0)})
        upcoming = pool.submit(fetch, first * passes) if ahead else None
        began, shown = time.perf_counter(), 0
        for step in range(first + 1, steps + 1):
            total, asked = 0.0, 0
            for part in range(passes):
                number = (step - 1) * passes + part
                batch = upcoming.result() if upcoming is not None else fetch(number)
                if ahead and number + 1 < steps * passes:
                    upcoming = pool.submit(fetch, number + 1)
                torch.manual_seed(mix_seed(config.seed, number, accelerator.process_index))
                with accelerator.accumulate(model):
                    loss = model(_to(batch, accelerator.device))
                    seen = accelerator.gather(
                        torch.stack([loss.detach().float(), loss.new_tensor(stopped()).float()])[None]
                    )
                    values, signals = seen.T.tolist()  # pyright: ignore[reportAttributeAccessIssue]
                    for process, value in enumerate(values):
                        if not math.isfinite(value):
                            raise not_finite(f"The loss is {value}", step, rows_of(number, process))
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        norm = float(
                            accelerator.clip_grad_norm_(list(trained.values()), config.max_grad_norm or math.inf)
                        )  # pyright: ignore[reportArgumentType]
                        if accelerator.scaler is None and not math.isfinite(
                            norm
                        ):  # a scaler of fp16 skips such steps itself
                            rows = torch.cat([order.take(n) for n in range(number + 1 - passes, number + 1)])
                            raise not_finite(f"The norm of the gradients is {norm}", step, rows)
                    optimizer.step()
                    optimizer.zero_grad()
                total, asked = total + sum(values) / len(values) / passes, int(max(asked, *signals))
            scheduler.step()
            if ema is not None:
                ema.step(trained.values())
            shown += per_step
            bar.update(per_step)
            bar.set_postfix(loss=f"{total:.4f}")
            last = step == steps
            row = {
                "step": step,
                "samples": step * per_step,
                "loss": total,
                "samples_per_second": shown / (time.perf_counter() - began),
            }
            if last or crossed(config.evaluate_every, step):
                before = time.perf_counter()
                row |= score(step)
                began += time.perf_counter() - before
            log.write(row)
            if last or asked or crossed(config.checkpoint_every, step):
                save(step)
            if asked:
                bar.close()
                log.close()
                raise SystemExit(128 + asked)
    bar.close()
    log.close()
    if ema is not None:
        ema.copy_to(trained.values())
    accelerator.wait_for_everyone()
    return log.rows


@contextmanager
def _averaged(ema: EMAModel | None, parameters: list[nn.Parameter]) -> Iterator[None]:
    if ema is None:
        yield
        return
    ema.store(parameters)
    ema.copy_to(parameters)
    try:
        yield
    finally:
        ema.restore(parameters)


@contextmanager
def _stop_signals() -> Iterator[Callable[[], int]]:
    """Catches SIGTERM and Ctrl-C; what it yields tells the signal's number, 0 while none came."""
    received: list[int] = []
    try:
        previous = {
            s: signal.signal(s, lambda number, _: received.append(number)) for s in (signal.SIGTERM, signal.SIGINT)
        }
    except ValueError:  # not the main thread: whoever runs us there handles signals
        previous = {}
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _to(batch: Batch, device: torch.device) -> Batch:
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}

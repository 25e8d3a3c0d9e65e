"""Everything that a training step changes: parameters, optimizer, learning rates, moving average."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from a4a.training.base import Objective
from a4a.training.checkpoint import Checkpoint
from a4a.training.config import TrainingConfig
from a4a.training.optimizers import optimizer_for


@dataclass
class TrainingState:
    """The state of a run after `step` optimizer steps."""

    parameters: dict[str, nn.Parameter]
    """The trained ones, by name."""
    group_names: list[str]
    """Names of the optimizer's parameter groups, in its order."""
    optimizer: Optimizer
    schedule: LRScheduler
    """Schedule of the learning rates."""
    ema: EMAModel | None
    """The moving average of the parameters."""
    step: int = 0

    @classmethod
    def initial(
        cls, objective: Objective, config: TrainingConfig, total_steps: int, device: torch.device
    ) -> "TrainingState":
        """The state before the first step."""
        parameters = {name: p for name, p in objective.named_parameters() if p.requires_grad}
        groups: list[dict[str, Any]] = objective.parameter_groups()
        group_names = [group["name"] for group in groups]
        optimizer = optimizer_for(config.optimizer, groups, config.weight_decay, device)
        schedule = get_scheduler(
            config.schedule, optimizer, num_warmup_steps=config.warmup, num_training_steps=total_steps
        )
        ema = None
        if config.ema_decay:
            ema = EMAModel(parameters.values(), decay=config.ema_decay, use_ema_warmup=True, power=0.75)
        return cls(parameters, group_names, optimizer, schedule, ema)

    def advance(self) -> None:
        """Call after each optimizer step."""
        self.step += 1
        self.schedule.step()
        if self.ema is not None:
            self.ema.step(self.parameters.values())

    def learning_rates(self) -> dict[str, float]:
        """Of the parameter groups by name."""
        return dict(zip(self.group_names, map(float, self.schedule.get_last_lr()), strict=True))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The parameters hold their moving average, where there is one, within this context."""
        if self.ema is None:
            yield
            return
        parameters = list(self.parameters.values())
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        try:
            yield
        finally:
            self.ema.restore(parameters)

    def finish(self) -> None:
        """Replaces the parameters by their moving average, where there is one."""
        if self.ema is not None:
            self.ema.copy_to(self.parameters.values())

    def to_checkpoint(self, samples: int) -> Checkpoint:
        """The state as it is saved after `samples` samples."""
        ema = None if self.ema is None else dict(zip(self.parameters, self.ema.shadow_params, strict=True))
        return Checkpoint(self.step, samples, dict(self.parameters), self.optimizer.state_dict(), ema)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continues after a checkpoint of the same parameters; call it before the optimizer is prepared."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(checkpoint.weights[name])
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.step = checkpoint.step
        self.schedule.last_epoch = checkpoint.step - 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch expects a step of the optimizer before this one
            self.schedule.step()
        if self.ema is not None and checkpoint.ema is not None:
            self.ema.shadow_params = [checkpoint.ema[name].to(p) for name, p in self.parameters.items()]
            self.ema.optimization_step = checkpoint.step

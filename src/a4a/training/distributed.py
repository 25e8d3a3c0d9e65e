"""Several processes of one run: how they start, what they must agree on, and how they part."""

import hashlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, cast

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, InitProcessGroupKwargs, gather_object
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from a4a.errors import InputError

TIMEOUT = timedelta(days=1)
"""How long processes wait for each other; the first alone encodes data and draws. One that died is noticed by its launcher, not by this."""


def state() -> PartialState:
    """Who we are, on which device; the first call takes the process's own GPU."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)


def process_device() -> torch.device:
    """This process's device: its own GPU, or the CPU."""
    return cast(torch.device, state().device)  # accelerate's annotation allows None, which it is only before its setup


def accelerator_for(mixed_precision: str, gradient_accumulation: int) -> Accelerator:
    AcceleratorState._reset_state()  # of an earlier run in this process, whose precision may have been another
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=mixed_precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=gradient_accumulation, sync_with_dataloader=False
        ),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)],
    )


def check_consistent(accelerator: Accelerator, facts: Mapping[str, Any]) -> None:
    """Raises InputError in all processes where a fact of one is not that of the first."""
    if accelerator.num_processes == 1:
        return
    for process, found in enumerate(gather_object([dict(facts)])):
        expected = found if process == 0 else expected  # noqa: F821
        for name, value in found.items():
            if value != expected[name]:
                raise InputError(
                    f"Process {process} has {name} {value} but process 0 has {expected[name]}; "
                    "start all processes with the same recipe, data and output folder."
                )


def data_fingerprint(table: Any) -> str:
    """A hash of three rows of a table: another data set has another."""
    digest = hashlib.sha256()
    for i in sorted({0, len(table) // 2, len(table) - 1}):
        for name, value in sorted(table.batch(torch.tensor([i])).items()):
            digest.update(name.encode())
            digest.update(
                value.contiguous().view(torch.uint8).numpy().tobytes()
                if isinstance(value, Tensor)
                else repr(value).encode()
            )
    return digest.hexdigest()[:16]


def exclude_frozen_from_ddp(model: nn.Module) -> None:
    """What is frozen is the same in all processes already: DDP need not send it around, nor could it where it is spread or 8-bit."""
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    model._ddp_params_and_buffers_to_ignore = frozen + [name for name, _ in model.named_buffers()]  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]


def shard(model: nn.Module, block: str) -> None:
    """Gives each process its part of every block of a frozen model; blocks are put together as they run (FSDP 2)."""
    ours = state()
    if ours.num_processes == 1:
        raise InputError(
            "precision.shard is set but there is one process; start several with torchrun, or set it to false."
        )
    mesh = init_device_mesh(ours.device.type, (ours.num_processes,))  # pyright: ignore[reportOptionalMemberAccess]
    for module in model.modules():
        if type(module).__name__ == block:
            fully_shard(module, mesh=mesh)


def shutdown() -> None:
    """Ends the group of processes at the end of a command."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        PartialState().destroy_process_group()

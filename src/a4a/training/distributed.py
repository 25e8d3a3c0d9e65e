"""Several processes of one run: how they start, what they must have in common, and how they end."""

import hashlib
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any, cast

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, InitProcessGroupKwargs, gather_object
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from a4a.errors import InputError
from a4a.training.base import Dataset

TIMEOUT = timedelta(days=1)
"""How long processes wait for each other: only the first encodes data and evaluates, which may take hours. A process
that died is noticed by its launcher."""


def state() -> PartialState:
    """This process's rank and device; the first call takes the process's own GPU."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)


def process_device() -> torch.device:
    """This process's device: its own GPU, or the CPU."""
    return cast(torch.device, state().device)  # accelerate's annotation allows None, which it is only before its setup


def accelerator_for(mixed_precision: str, gradient_accumulation: int) -> Accelerator:
    """A new accelerator on this process's device, which waits as long as `TIMEOUT` for other processes."""
    AcceleratorState._reset_state()  # an earlier run in this process may have had another precision
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=mixed_precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=gradient_accumulation, sync_with_dataloader=False
        ),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)],
    )


def check_supported(accelerator: Accelerator) -> None:
    """InputError where accelerate was configured for anything but one process or plain DDP."""
    if accelerator.distributed_type not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        raise InputError(
            f"accelerate was configured for {accelerator.distributed_type}; "
            "use recipes/accelerate, and precision.shard for a denoiser that fits no GPU."
        )


def check_same_start(
    accelerator: Accelerator, dataset: Dataset, parameters: Mapping[str, nn.Parameter], step: int
) -> None:
    """InputError in all processes where one has other data, other parameters or another checkpoint than the first."""
    shapes = repr([(name, tuple(p.shape)) for name, p in parameters.items()])
    facts = {
        "training samples": len(dataset),
        "training data": data_fingerprint(dataset),
        "trained parameters": hashlib.sha256(shapes.encode()).hexdigest()[:16],
        "checkpoint of step": step,
    }
    check_consistent(accelerator, facts)


def check_consistent(accelerator: Accelerator, facts: Mapping[str, Any]) -> None:
    """InputError in all processes where a fact of one differs from the first's."""
    if accelerator.num_processes == 1:
        return
    first, *others = gather_object([dict(facts)])
    for process, other in enumerate(others, 1):
        for name, value in other.items():
            if value != first[name]:
                raise InputError(
                    f"Process {process} has {name} {value} but process 0 has {first[name]}; "
                    "start all processes with the same recipe, data and output folder."
                )


def data_fingerprint(dataset: Dataset) -> str:
    """A hash of the first, middle and last sample."""
    digest = hashlib.sha256()
    for i in sorted({0, len(dataset) // 2, len(dataset) - 1}):
        for name, value in sorted(dataset.batch(torch.tensor([i])).items()):
            digest.update(name.encode())
            is_tensor = isinstance(value, Tensor)
            content = value.contiguous().view(torch.uint8).numpy().tobytes() if is_tensor else repr(value).encode()
            digest.update(content)
    return digest.hexdigest()[:16]


def gather_rows(accelerator: Accelerator, row: Tensor) -> Tensor:
    """The processes' rows [columns] as [processes, columns]."""
    return cast(Tensor, accelerator.gather(row[None]))


def exclude_frozen_from_ddp(model: nn.Module) -> None:
    """Keeps DDP from broadcasting frozen weights: all processes have them, and sharded or 8-bit ones cannot be sent."""
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    buffers = [name for name, _ in model.named_buffers()]
    object.__setattr__(model, "_ddp_params_and_buffers_to_ignore", frozen + buffers)


def shard(model: nn.Module, blocks: Collection[str]) -> None:
    """Shards a frozen model's blocks, named by their classes, over the processes; each is gathered to run (FSDP 2)."""
    processes = state().num_processes
    if processes == 1:
        raise InputError(
            "precision.shard is set but there is one process; start several with torchrun, or set it to false."
        )
    mesh = init_device_mesh(process_device().type, (processes,))
    for module in model.modules():
        if type(module).__name__ in blocks:
            # each block is a root of its own, and roots stay gathered after the forward pass by default
            fully_shard(module, mesh=mesh, reshard_after_forward=True)


def shutdown() -> None:
    """Ends the group of processes at the end of a command."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        PartialState().destroy_process_group()

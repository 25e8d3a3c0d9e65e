"""The memory that is estimated on the meta device, against what a real step allocates."""

from dataclasses import replace

import pytest
import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

import tiny_models
from a4a.backbones import backbone_for
from a4a.backbones.base import denoiser_part
from a4a.backbones.meta import MetaModel
from a4a.errors import InputError
from a4a.training.config import TrainingConfig
from a4a.training.denoising import Denoising, ObjectiveConfig
from a4a.transfer.config import A4AConfig, Precision, TransferSettings
from a4a.transfer.memory import RESERVED, MemoryEstimate, check_fit, estimate_memory
from a4a.transfer.memory_tracker import step_bytes
from a4a.transfer.meta import MetaTransfer, load_meta_transfer

PIXELS = 48
MINIATURE = ("zoo:pixart-mini", "zoo:clip-large/image_encoder", "zoo:ip-adapter-sd15-mini")


def settings(objective=ObjectiveConfig(), training=TrainingConfig()):
    return TransferSettings(*MINIATURE, A4AConfig(), objective, training, Precision())


def model_on(pipe, device):
    """A pipeline's backbone with a new denoiser: with weights on the CPU, without on the meta device."""
    own = tiny_models.with_own_denoiser(pipe)
    denoiser = backbone_for(own).denoiser
    with torch.device(device):
        denoiser = type(denoiser).from_config(denoiser.config).requires_grad_(False)
    own.register_modules(**{denoiser_part(own): denoiser})
    return MetaModel(backbone_for(own), {})


def step(pipe, source, device, rows, checkpointing):
    """The objective and a batch of `rows`."""
    objective = ObjectiveConfig(gradient_checkpointing=checkpointing)
    adapter = tiny_models.a4a(tiny_models.ip_adapter(source), pipe).to(device)
    shapes: dict = {adapter.encoder_output: (adapter.image_embed_dim,)}
    built = MetaTransfer(settings(objective=objective), model_on(pipe, device), adapter, shapes)
    loss = Denoising(built.model.backbone, adapter, objective, no_text=built.random_text(1, device))
    return loss, built.random_batch(rows, PIXELS, device)


def allocated(loss, inputs):
    """Peak bytes that torch's allocator gives out in a step, by its profiler.

    The profiler also reports the freeing of what earlier tests left behind: only the step's own allocations count.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        loss(inputs).backward()
    alive, peak = {}, 0
    for event in sorted(
        allocations(seen.profiler.kineto_results.experimental_event_tree()), key=lambda e: e.start_time_ns
    ):
        memory = event.extra_fields
        if memory.alloc_size > 0:
            alive[memory.ptr] = memory.alloc_size
            peak = max(peak, sum(alive.values()))
        else:
            alive.pop(memory.ptr, None)
    return peak


def allocations(events):
    for event in events:
        if event.tag == _EventType.Allocation:
            yield event
        yield from allocations(event.children)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("model", ["pixart", "sdxl"])
def test_the_estimate_is_what_a_real_step_allocates(request, sd15, model, checkpointing):
    pipe = request.getfixturevalue(model)
    estimated = step_bytes(*step(pipe, sd15, "meta", 8, checkpointing))
    measured = allocated(*step(pipe, sd15, "cpu", 8, checkpointing))
    assert estimated == pytest.approx(measured, rel=0.05)


def test_memory_is_linear_in_the_batch_and_checkpointing_saves(sd15, pixart):
    one, two, six = (step_bytes(*step(pixart, sd15, "meta", n, False)) for n in (1, 2, 6))
    assert six == pytest.approx(one + 5 * (two - one), rel=0.05)
    assert step_bytes(*step(pixart, sd15, "meta", 6, True)) < 0.7 * six


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_estimate_is_right_for_small_and_large_batches(checkpointing):
    """With checkpointing, the gradients of the miniature's large adapter outweigh the activations of a small batch."""
    objective = ObjectiveConfig(gradient_checkpointing=checkpointing)
    built = load_meta_transfer(settings(objective))
    estimate = estimate_memory(built)
    loss = Denoising(built.model.backbone, built.adapter, objective, no_text=built.random_text(1, "meta"))
    for rows in (1, 2, 3, 5, 8, 40):
        traced = step_bytes(loss, built.random_batch(rows, None, "meta"))
        assert estimate.step(rows) == pytest.approx(traced, rel=0.02), rows
    if checkpointing:
        assert estimate.step(1) < 1.1 * estimate.gradients
    accumulating = load_meta_transfer(settings(objective, TrainingConfig(gradient_accumulation=2)))
    assert estimate_memory(accumulating).step(40) == estimate.step(40) + estimate.gradients


ESTIMATE = MemoryEstimate(
    trained_parameters=100,
    denoiser=5_000,
    adapter=500,
    optimizer=800,
    ema=0,
    ddp_buckets=0,
    step_minimum=1_500,
    step_fixed=300,
    step_per_sample=1_000,
)


def test_the_largest_batch_is_the_last_that_fits():
    gpu = RESERVED + 10_000
    assert ESTIMATE.largest_batch(gpu) == 3
    check_fit(ESTIMATE, 3, gpu)
    with pytest.raises(InputError, match=r"training.batch_size 4 needs about .* GB but the GPU has .* GB; set it to 3"):
        check_fit(ESTIMATE, 4, gpu)


def test_without_room_for_one_sample_another_setting_is_advised():
    too_small = RESERVED + ESTIMATE.persistent + ESTIMATE.step_minimum - 1
    assert ESTIMATE.largest_batch(RESERVED) == ESTIMATE.largest_batch(too_small) == 0
    with pytest.raises(InputError, match=r"set objective.gradient_checkpointing to true"):
        check_fit(ESTIMATE, 1, RESERVED)
    with pytest.raises(InputError, match=r"the encoders take 0\.\d GB"):
        check_fit(replace(ESTIMATE, encoders=10**8), 1, RESERVED)

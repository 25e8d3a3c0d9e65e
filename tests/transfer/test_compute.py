"""Operations of a training step, counted on the meta device, against the same count on a real step."""

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from a4a.backbones import backbone_for, load_pipeline
from a4a.training.config import TrainingConfig
from a4a.training.denoising import Denoising, ObjectiveConfig
from a4a.transfer.compute import flops_per_sample, gpu_hours
from a4a.transfer.config import IPAdapterConfig, Precision, TransferSettings
from a4a.transfer.meta import load_meta_transfer

ENCODER = "zoo:clip-large/image_encoder"


def settings(checkpointing=False):
    objective = ObjectiveConfig(gradient_checkpointing=checkpointing)
    return TransferSettings(
        "zoo:sd15-mini", ENCODER, None, IPAdapterConfig(), objective, TrainingConfig(samples=8), Precision()
    )


def test_a_step_without_weights_has_as_many_operations_as_a_real_one():
    built = load_meta_transfer(settings())
    backbone = backbone_for(load_pipeline("zoo:sd15-mini"))
    adapter = built.settings.method.build(backbone, None, built.embed_shape[-1])
    loss = Denoising(
        backbone, adapter, ObjectiveConfig(), built.random_text(1, "cpu"), built.no_images("cpu")["pooled"]
    )
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # torch counts no CPU kernel of it
        loss(built.random_batch(1, None, "cpu")).backward()
    loss.detach()
    assert flops_per_sample(built) == counter.get_total_flops()


def test_gradient_checkpointing_costs_the_operations_of_another_forward_pass():
    plain, checkpointed = (flops_per_sample(load_meta_transfer(settings(on))) for on in (False, True))
    assert 1.1 * plain < checkpointed < 1.6 * plain


def test_hours_are_operations_over_what_a_gpu_sustains():
    assert gpu_hours(20e12, 1000, tflops=100.0) == pytest.approx(200 / 3600)

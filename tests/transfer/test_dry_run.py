"""A dry run on a model without weights, and what it tells its reader."""

import copy
import json

import pytest
import torch
from torch import nn

from a4a.training.config import TrainingConfig
from a4a.training.denoising import ObjectiveConfig
from a4a.transfer.config import A4AConfig, IPAdapterConfig, Precision, TransferSettings
from a4a.transfer.dry_run import dry_run
from a4a.transfer.dry_run_report import report
from a4a.transfer.gradient_watch import watch_gradients


def settings(method, precision, batch_size=2):
    return TransferSettings(
        "zoo:pixart-mini",
        "zoo:clip-large/image_encoder",
        "zoo:ip-adapter-sd15-mini",
        method,
        ObjectiveConfig(gradient_checkpointing=True),
        TrainingConfig(batch_size=batch_size),
        Precision(precision),
    )


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    found = dry_run(settings(A4AConfig(rounds=1, heads=4), "bfloat16"), results=results)
    assert json.loads((results / "dry-run-zoo-pixart-mini-cpu.json").read_text()) == found
    return found


def test_a_dry_run_trains_saves_loads_and_predicts(figures):
    assert len(figures["losses"]) == 2 and all(0 < loss < 100 for loss in figures["losses"])
    assert figures["samples_per_second"] * figures["seconds_per_sample"] == pytest.approx(1)
    assert figures["change_by_adapter"] > 0


def test_a_dry_run_reaches_every_trained_parameter(figures):
    gradients = figures["gradients"]
    assert gradients["trained_tensors"] > 50
    assert gradients["not_finite"] == gradients["always_zero"] == []


def test_a_dry_run_names_base_sites_that_no_upgraded_site_sees(tmp_path):
    """pixart-mini has fewer sites than the source, so that some are the nearest of none."""
    layer_by_layer = A4AConfig(rounds=0, connectivity="layer_by_layer")
    gradients = dry_run(settings(layer_by_layer, "int8", batch_size=1), results=tmp_path)["gradients"]
    assert not gradients["not_finite"]
    assert gradients["always_zero"] and all(".0.linears.layers." in name for name in gradients["always_zero"])


def test_an_adapter_from_scratch_runs_dry(tmp_path):
    gradients = dry_run(settings(IPAdapterConfig(), "float32", batch_size=1), results=tmp_path)["gradients"]
    assert not gradients["not_finite"] and not gradients["always_zero"]


def test_the_report_says_what_was_planned_and_what_was_measured(figures, capsys):
    figures = copy.deepcopy(figures)
    figures["memory"] |= {"planned_bytes": 10 * 10**9, "measured_bytes": 11 * 10**9, "libraries_bytes": 5 * 10**8}
    said = report(figures)
    assert "planned 10.00 GB, measured 11.00 GB (+10.0%) a process: resident, besides 0.50 GB" in said
    assert "finite and not zero at all" in said
    assert f"{figures['losses'][0]:.4f}" in said


def test_the_report_names_parameters_with_bad_gradients(figures):
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused, self.huge = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2, bias=False)

        def forward(self, x):
            return self.used(x).sum() + (self.huge(x) * torch.inf).sum()

    model = Half()
    with watch_gradients(model) as gradients:
        model(torch.ones(1, 2)).backward()
    assert gradients.figures() == {
        "trained_tensors": 5,
        "not_finite": ["huge.weight"],
        "always_zero": ["unused.weight", "unused.bias"],
    }
    said = report(copy.deepcopy(figures) | {"gradients": gradients.figures()})
    assert "of 5 trained tensors, not finite at huge.weight, always zero at unused.weight, unused.bias" in said

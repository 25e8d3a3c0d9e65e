"""A dry run on a model without weights."""

import json

from a4a.training.config import TrainingConfig
from a4a.training.denoising import ObjectiveConfig
from a4a.transfer.config import A4AConfig, Precision, TransferSettings
from a4a.transfer.dry_run import dry_run


def test_a_dry_run_trains_saves_loads_and_predicts(tmp_path):
    settings = TransferSettings(
        "zoo:pixart-mini",
        "zoo:clip-large/image_encoder",
        "zoo:ip-adapter-sd15-mini",
        A4AConfig(rounds=1, heads=4),
        ObjectiveConfig(gradient_checkpointing=True),
        TrainingConfig(batch_size=2),
        Precision("bfloat16"),
    )
    facts = dry_run(settings, results=tmp_path)
    assert json.loads((tmp_path / "dry-run-zoo-pixart-mini-cpu.json").read_text()) == facts
    assert len(facts["losses"]) == 2 and facts["samples_per_second"] > 0 and facts["latent_step_changed_by_adapter"] > 0

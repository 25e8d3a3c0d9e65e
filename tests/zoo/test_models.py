"""The shipped models as other libraries load them."""

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

from a4a.backbones import load_pipeline
from a4a.utils.hub import ZOO


@pytest.mark.parametrize(
    ("name", "kind"), [("sd15-mini", StableDiffusionPipeline), ("sdxl-mini", StableDiffusionXLPipeline)]
)
def test_diffusers_own_loading_draws_the_same_as_ours(name, kind):
    options = {"num_inference_steps": 1, "output_type": "latent"}
    drawn = []
    for pipe in (kind.from_pretrained(ZOO / name), load_pipeline(f"zoo:{name}")):
        pipe.set_progress_bar_config(disable=True)
        drawn.append(pipe("a red cat", generator=torch.Generator().manual_seed(0), **options).images)
    assert torch.equal(*drawn)


@pytest.mark.parametrize("name", ["sd15-mini", "sdxl-mini", "pixart-mini"])
def test_all_parts_are_loaded_in_one_precision(name):
    parts = DiffusionPipeline.from_pretrained(ZOO / name).components.values()
    assert {part.dtype for part in parts if isinstance(part, torch.nn.Module)} == {torch.float32}

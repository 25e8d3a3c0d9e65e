"""The shipped models as other libraries load them."""

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image

import a4a
from a4a.backbones import load_pipeline
from a4a.encoders.clip import CLIPImageEncoder
from a4a.pipeline import ImagePromptPipeline
from a4a.utils.hub import ZOO


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sd15-mini", StableDiffusionPipeline),
        ("sdxl-mini", StableDiffusionXLPipeline),
        ("sd3-mini", StableDiffusion3Pipeline),
    ],
)
def test_diffusers_own_loading_draws_the_same_as_ours(name, kind):
    options = {"num_inference_steps": 1, "output_type": "latent"}
    drawn = []
    for pipe in (kind.from_pretrained(ZOO / name), load_pipeline(f"zoo:{name}")):
        pipe.set_progress_bar_config(disable=True)
        drawn.append(pipe("a red cat", generator=torch.Generator().manual_seed(0), **options).images)
    assert torch.equal(*drawn)


@pytest.mark.parametrize("name", ["sd15-mini", "sdxl-mini", "pixart-mini", "sd3-mini"])
def test_all_parts_are_loaded_in_one_precision(name):
    parts = DiffusionPipeline.from_pretrained(ZOO / name).components.values()
    assert {part.dtype for part in parts if isinstance(part, torch.nn.Module)} == {torch.float32}


@pytest.mark.parametrize("name", ["sd15-mini", "sdxl-mini"])
def test_diffusers_own_ip_adapter_loads_the_plus_adapters_and_draws_the_same(name):
    adapter = f"ip-adapter-plus-{name}"
    encoder = CLIPImageEncoder.from_pretrained(ZOO / "clip-large" / "image_encoder", output="tokens")
    reference, no_image = encoder([Image.new("RGB", (64, 64), "red")]), encoder.unconditional()
    options = {"num_inference_steps": 2, "output_type": "latent"}
    pipe = load_pipeline(f"zoo:{name}")
    pipe.set_progress_bar_config(disable=True)
    ours = ImagePromptPipeline(pipe, a4a.load_adapter(f"zoo:{adapter}"), encoder)(
        "a red cat", image_prompt_embeds=reference, generator=torch.Generator().manual_seed(0), **options
    ).images
    weights = f"{adapter}.safetensors"
    pipe.load_ip_adapter(str(ZOO / adapter), subfolder="", weight_name=weights, image_encoder_folder=None)
    pipe.set_ip_adapter_scale(1.0)
    embeds = [torch.cat([no_image, reference])[:, None]]
    generator = torch.Generator().manual_seed(0)
    theirs = pipe("a red cat", ip_adapter_image_embeds=embeds, generator=generator, **options).images
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)

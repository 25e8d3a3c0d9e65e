"""The README's lines for each model run as they stand on tiny pipelines; names of models, size and steps alone are others."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_models
from a4a.backbones import backbone_for
from tiny_encoders import image_encoder, photo

README = Path(__file__).parents[2] / "README.md"
PIPELINES = {
    "PixArtAlphaPipeline": "pixart",
    "FluxPipeline": "flux",
    "QwenImagePipeline": "qwen_image",
    "ZImagePipeline": "z_image",
}


def blocks_of_ten_lines():
    """The README's first code: a block for each model, by its pipeline, with the imports of the blocks before it."""
    section = README.read_text().split("## Ten lines")[1].split("\n## ")[0]
    imports, found = "", {}
    for block in re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL):
        kind = re.search(r"(\w+Pipeline)\.from_pretrained\(\"[\w.-]+/", block)
        if kind:
            found[kind[1]] = imports + block
        imports += "".join(re.findall(r"^(?:import|from) .*\n", block, flags=re.MULTILINE))
    return found


def test_the_readme_has_lines_for_these_models():
    assert blocks_of_ten_lines().keys() == PIPELINES.keys()


@pytest.mark.parametrize("kind", PIPELINES)
def test_the_lines_draw_an_image_of_the_reference(kind, request, tmp_path, monkeypatch, sd15):
    pipe, encoder = request.getfixturevalue(PIPELINES[kind]), image_encoder()
    monkeypatch.chdir(tmp_path)
    pipe.save_pretrained("model")
    encoder.module.save_pretrained("encoder")
    encoder.processor.save_pretrained("encoder")
    adapter = tiny_models.shaken(tiny_models.a4a(tiny_models.ip_adapter(sd15), pipe), 0.1)
    adapter.set_image_encoder("encoder")
    adapter.save_pretrained("adapter")
    backbone = backbone_for(pipe)
    side = tiny_models.SIDE * backbone.vae_scale_factor
    names = {"small": {**backbone.call_options(), "height": side, "width": side, "num_inference_steps": 2}}
    lines = re.sub(r'(\w+Pipeline\.from_pretrained)\("[^"]+"', r'\1("model"', blocks_of_ten_lines()[kind])
    lines = re.sub(r'(A4A\.from_pretrained)\("[^"]+"', r'\1("adapter"', lines)
    *load, draw = lines.replace("cuda", "cpu").replace("image_prompt=", "**small, image_prompt=").splitlines()
    exec("\n".join(load), names)
    drawn = []
    for reference in ("red", "blue"):
        photo(reference).save("my-dog.png")
        torch.manual_seed(0)
        exec(draw, names)
        with Image.open("dog.png") as image:
            drawn.append(np.asarray(image))
    assert drawn[0].shape == (side, side, 3)
    assert not np.array_equal(*drawn)

"""The code of README and docs runs: each page from top to bottom, with names of real models swapped for the zoo's.

tests/pipeline/test_readme.py runs the README's lines for other models, tests/cli/test_documented_commands.py parses every
command that is shown.
"""

import re
import shlex
from pathlib import Path

import pytest
import torch

import tiny_examples
from a4a import load_adapter, write_ip_adapter
from a4a.adapters.projections import ImageProjection, projection_families
from a4a.backbones import Backbone, families
from a4a.cli.main import main
from a4a.zoo import WorldTask
from a4a.zoo.registry import MODELS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if "results" not in p.parts)]
PHOTOS = ("creature.png", "my-dog.png", "photo.png", "photo-2.png")
SWAPS = {
    "PixArt-alpha/PixArt-XL-2-1024-MS": str(MODELS / "pixart-mini"),
    "stabilityai/stable-diffusion-xl-base-1.0": str(MODELS / "sdxl-mini"),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": str(MODELS / "sd15-mini"),
    "h94/IP-Adapter/models/ip-adapter_sd15.safetensors": "ip-adapter_sd15.safetensors",
    "h94/IP-Adapter/models/image_encoder": str(MODELS / "clip-large" / "image_encoder"),
    "THUDM/CogView3-Plus-3B": "cogview3",
    "google/siglip-base-patch16-224": "siglip",
    "runs/my-adapter/adapter": "zoo:a4a-plus-pixart-mini",
    "runs/sd15-to-pixart/adapter": "zoo:a4a-plus-pixart-mini",
    "runs/my-photos/transfer/checkpoints/last": "zoo:a4a-plus-pixart-mini",
    "runs/mine/adapter": "zoo:a4a-plus-sdxl-mini",
    "torch.float16": "torch.float32",
    '"cuda"': '"cpu"',
    "Subjects.sample(300": "Subjects.sample(6",
    "Views.sample(300": "Views.sample(6",
}
"""What real models are called on these pages, and what stands in for them here."""
FEW = "num_inference_steps=2"
QUICK = ("generate", "inspect", "zoo list")
"""Commands that are run, too; the rest trains, or plans what only a GPU does."""
ELSEWHERE = r"(Flux|Flux2|Flux2Klein|QwenImage|ZImage)Pipeline\.from_pretrained|ModularPipelineBlocks|gradio_client"
"""Blocks that other tests run: tests/pipeline/test_readme.py and test_modular.py on tiny pipelines, and the tests of `a4a
web` against a running page."""


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def swapped(text):
    for name, other in SWAPS.items():
        text = text.replace(name, other)
    return text if "num_inference_steps" in text else text.replace("image_prompt=", f"{FEW}, image_prompt=")


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with the files that the pages name."""
    monkeypatch.chdir(tmp_path)
    for name, reference in zip(PHOTOS, WorldTask("test", subjects=len(PHOTOS)).references, strict=True):
        reference.save(name)
    write_ip_adapter(load_adapter("zoo:ip-adapter-plus-sd15-mini"), "ip-adapter_sd15.safetensors", torch.float32)
    return tmp_path


@pytest.fixture
def own_registries(monkeypatch):
    """What a page adds to the package is gone after it; the package's own families are all there before."""
    for owner, found in ((ImageProjection, projection_families()), (Backbone, families())):
        monkeypatch.setattr(owner, "families", dict(found))


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_runs_from_top_to_bottom(page, desk, own_registries):
    if page.name == "extend.md":
        tiny_examples.save_cogview3(desk / "cogview3")
        tiny_examples.save_siglip(desk / "siglip")
    names = {"__name__": "page"}
    for number, block in enumerate(blocks(page, "python")):
        if not re.search(ELSEWHERE, block):
            exec(compile(swapped(block), f"{page.name}, block {number}", "exec"), names)


def quick_commands():
    """One command for each adapter and model that stand in for those of the pages."""
    found = {}
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.removeprefix("a4a ").startswith(QUICK):
                    words = shlex.split(swapped(line).replace(f"{MODELS}/", "zoo:"), comments=True)
                    key = [w for i, w in enumerate(words) if i < 3 or words[i - 1] in ("--adapter", "--model")]
                    found.setdefault(tuple(key), (page.name, line))
    return found.values()


@pytest.mark.parametrize("page, line", quick_commands(), ids=lambda text: text[:40])
def test_quick_commands_run(page, line, desk, capsys):
    words = [swapped(word) for word in shlex.split(line, comments=True)[1:]]
    if "generate" in words:
        words = [word if (desk / word).exists() or not word.endswith(".png") else "photo.png" for word in words]
        words += ["--steps", "2"]
    assert main(words) == 0

"""An adapter of the zoo on models of other families, from the command line: plan, dry run, training, an image."""

import copy
import csv
import json

import pytest
from PIL import Image

import tiny_models
from a4a.backbones import backbone_for
from a4a.cli.main import main
from tiny_encoders import random_blocks

RECIPE = {
    "source": "zoo:ip-adapter-sd15-mini",
    "image_encoder": "zoo:clip-large/image_encoder",
    "method": {"class_path": "A4AConfig", "init_args": {"rounds": 1, "heads": 4}},
    "training": {"samples": 4, "batch_size": 2, "tensorboard": False},
    "model": "model",
    "output": "run",
}


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


@pytest.mark.parametrize(
    "name", ["hunyuan_dit", "sana", "wan", "flux", "cogview4", "qwen_image", "z_image", "flux2", "lumina2"]
)
def test_an_adapter_is_planned_tried_transferred_and_used(name, request, tmp_path, capsys, monkeypatch):
    pipe = request.getfixturevalue(name)
    side = tiny_models.SIDE * backbone_for(pipe).vae_scale_factor
    monkeypatch.chdir(tmp_path)
    pipe.save_pretrained("model")
    (tmp_path / "data").mkdir()
    for number in range(2):
        random_blocks(number).save(tmp_path / "data" / f"{number}.png")
        (tmp_path / "data" / f"{number}.txt").write_text("a red cat")
    data = {"class_path": "a4a.data.ImageFolderDataset", "init_args": {"path": "data", "size": side}}
    recipe = {**copy.deepcopy(RECIPE), "data": data}
    if name == "flux":
        recipe["method"]["init_args"]["sites"] = "all"
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))

    capsys.readouterr()
    run("inspect", "model", "--json")
    assert json.loads(capsys.readouterr().out)["layers"] == [[s.name, s.width] for s in backbone_for(pipe).sites]
    # each of the two takes as long as all else: a dry run estimates memory as a plan does
    if name in ("wan", "z_image"):
        run("plan", "--config", "recipe.yaml")
    if name in ("wan", "qwen_image"):
        run("transfer", "--config", "recipe.yaml", "--dry_run", side)
    run("transfer", "--config", "recipe.yaml")
    assert len(list(csv.DictReader((tmp_path / "run" / "log.csv").open()))) == 2
    size = ["--height", side, "--width", side, "--steps", "2", "--guidance", "3"]
    reference = ["--image", "data/0.png", "--prompt", "a red cat"]
    run("generate", "--adapter", "run/adapter", "--model", "model", *reference, *size, "--output", "drawn")
    with Image.open(tmp_path / "drawn" / "reference00-prompt00-seed0.png") as image:
        assert image.size == (side, side)

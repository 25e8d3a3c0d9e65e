"""What a recipe needs, without its weights and data."""

import json
import re

import pytest
import torch
import transformers
import yaml
from diffusers import AutoencoderKL

from a4a.backbones import load_pipeline
from a4a.backbones.meta import load_meta_model
from a4a.cli.main import main
from a4a.data.manifest import FORMAT
from a4a.encoders.clip import CLIPImageEncoder
from a4a.encoders.published import IMAGE_ENCODERS
from a4a.errors import InputError
from a4a.transfer.plan import plan, plan_facts
from a4a.utils.fingerprint import file_fingerprint


@pytest.fixture
def recipe(tmp_path, request):
    """The miniature's recipe, with data that are not there."""
    content = yaml.safe_load((request.config.rootpath / "recipes/miniature/transfer.yaml").read_text())
    content |= {"source": "zoo:ip-adapter-sd15-mini", "training": {**content["training"], "batch_size": 32}}
    content["data"] = {"class_path": "a4a.data.PreparedDataset", "init_args": {"path": "nowhere"}}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_a_recipe_is_planned_without_its_data(recipe, capsys):
    plan(recipe, processes=2, samples_per_second=100.0, json=True)
    facts = json.loads(capsys.readouterr().out)
    assert facts["denoiser, parameters"] > 100_000
    assert facts["hours"] == pytest.approx(facts["samples"] / 100 / 3600)
    assert facts["GPU hours"] == 2 * facts["hours"]
    assert facts["largest batch in 80 GB"] > 1000
    assert facts["encoders, bytes"] > 0  # the recipe has an evaluation


def test_hours_that_were_not_measured_are_estimated_from_the_operations_of_a_step(recipe):
    facts, _ = plan_facts(recipe)
    seconds = facts["samples"] * facts["TFLOP per sample"] / 125
    assert facts["GPU hours (estimated, A100)"] == pytest.approx(seconds / 3600)


def test_the_table_of_a_plan_has_sizes_in_gb_and_counts_with_separators(recipe, capsys):
    plan(recipe)
    table = capsys.readouterr().out
    assert re.search(r"^peak at batch \d+ +\d+\.\d\d GB$", table, re.M) and "bytes" not in table
    assert re.search(r"^denoiser, parameters +\d{1,3},\d{3}", table, re.M)


def write_manifest(folder, size, model="zoo:pixart-mini", image_encoder="zoo:clip-large/image_encoder"):
    """What a plan reads of prepared data."""
    models = {"encode.model": model, "encode.image_encoders.clip": image_encoder}
    settings = {option: {"name": name, "fingerprint": file_fingerprint(name)} for option, name in models.items()}
    manifest = {"format": FORMAT, "settings": {"crop.size": size, **settings}, "embeds": {"clip": [128]}}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_prepared_data_may_be_named_by_their_folder_alone(recipe, tmp_path):
    content = yaml.safe_load(recipe.read_text()) | {"data": str(tmp_path), "evaluation": None}
    recipe.write_text(yaml.safe_dump(content))
    write_manifest(tmp_path, 128)
    assert plan_facts(recipe)[0]["encoders, bytes"] == 0


def test_prepared_data_that_are_there_tell_their_size(recipe, tmp_path):
    content = yaml.safe_load(recipe.read_text())
    content["data"]["init_args"]["path"] = str(tmp_path)
    recipe.write_text(yaml.safe_dump(content))
    per_image = {}
    for size in (64, 128):
        write_manifest(tmp_path, size)
        per_image[size] = plan_facts(recipe)[0]["encoded data per 100,000 samples, bytes"]
    assert per_image[128] - per_image[64] == 100_000 * 2 * 8 * (16**2 - 8**2)  # latents: 8 channels, 2 bytes
    (tmp_path / "manifest.json").unlink()
    assert plan_facts(recipe, size=128)[0]["encoded data per 100,000 samples, bytes"] == per_image[128]


def test_a_second_stage_is_planned_before_the_first_has_run(recipe):
    changes = {"init": "runs/first/adapter"}
    assert plan_facts(recipe, changes=changes) == plan_facts(recipe)
    with pytest.raises(InputError, match="runs/first/adapter"):
        plan_facts(recipe, changes=changes | {"source": None})


@pytest.mark.parametrize(
    "other", [{"model": "zoo:sdxl-mini"}, {"image_encoder": "zoo:clip-small/image_encoder"}], ids=str
)
def test_data_prepared_for_another_model_are_one_sentence(recipe, tmp_path, other):
    write_manifest(tmp_path, 64, **other)
    (name,) = other.values()
    with pytest.raises(InputError, match=rf"was prepared with encode.* = {name} .*; prepare the data again for it"):
        plan_facts(recipe, changes={"data": str(tmp_path)})


def test_options_of_a_transfer_come_on_top_of_the_recipe(recipe, capsys):
    words = ["--training.batch_size", "8", "--evaluation", "null", "--objective.rates.mapping", "0.1", "--json"]
    assert main(["plan", str(recipe), *words]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert "peak at batch 8, bytes" in facts and facts["encoders, bytes"] == 0
    assert main(["plan", "--config", str(recipe), "--training.batch", "8"]) == 2
    assert "no option batch; did you mean batch_size" in capsys.readouterr().err


def test_a_recipe_whose_batch_cannot_fit_is_an_error(recipe, capsys):
    with pytest.raises(InputError, match=r"training.batch_size \d+ needs about"):
        plan(recipe, gpu=1.5)
    assert "peak" in capsys.readouterr().out  # what it needs is told all the same


def test_the_plan_counts_encoders_that_stay_loaded(recipe):
    pipe, encoder = load_pipeline("zoo:pixart-mini"), CLIPImageEncoder.from_pretrained("zoo:clip-large/image_encoder")
    parts = (pipe.vae, pipe.text_encoder, encoder.module)
    size = sum(4 * p.numel() for part in parts for p in part.parameters())
    content = yaml.safe_load(recipe.read_text())
    del content["evaluation"]

    def estimate(**changes):
        recipe.write_text(yaml.safe_dump(content | changes))
        facts = plan_facts(recipe)[0]
        return facts["encoders, bytes"], facts["peak at batch 32, bytes"]

    (none, without), (some, with_) = (
        estimate(),
        estimate(data={"class_path": "ImageFolderDataset", "init_args": {"path": "nowhere", "size": 64}}),
    )
    assert (none, some, with_ - without) == (0, size, size)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[", "cannot be read"),
        ("a: 1", "names no model"),
        ("model: x\ntraining: {sample: 3}", "training .* has no option sample; did you mean samples"),
    ],
)
def test_a_file_that_is_no_recipe_is_an_input_error(tmp_path, content, said):
    (tmp_path / "r.yaml").write_text(content)
    with pytest.raises(InputError, match=said):
        plan_facts(tmp_path / "r.yaml")


def test_published_encoders_have_these_sizes():
    with torch.device("meta"):
        clip = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
        )
        large = {
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "projection_dim": 1280,
        }
        big = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**large))
        t5 = transformers.T5Config(
            d_model=4096,
            d_ff=10240,
            d_kv=64,
            num_heads=64,
            num_layers=24,
            feed_forward_proj="gated-gelu",
            vocab_size=32128,
        )
        xxl = transformers.T5EncoderModel(t5)
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, **blocks)
        vision = {
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "patch_size": 14,
            "projection_dim": 1024,
        }
        vit = transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(num_attention_heads=16, **vision)
        )

    def count(model):
        return sum(p.numel() for p in model.parameters())

    sdxl = load_meta_model("stabilityai/stable-diffusion-xl-base-1.0").encoders
    assert sdxl == {"text_encoder": count(clip), "text_encoder_2": count(big), "vae": count(vae)}
    assert load_meta_model("PixArt-alpha/PixArt-XL-2-1024-MS").encoders["text_encoder"] == count(xxl)
    assert IMAGE_ENCODERS["h94/IP-Adapter/models/image_encoder"].parameters == count(vit)

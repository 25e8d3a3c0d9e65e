"""Every recipe fits the command that its first lines name."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from a4a.backbones.meta import load_meta_model
from a4a.cli.arguments import read_arguments
from a4a.cli.commands import COMMANDS
from a4a.cli.main import main
from a4a.data import ImageFolderDataset, PreparedDataset
from a4a.evaluation import PreparedTask
from a4a.transfer.check.run import read_section
from a4a.transfer.meta import build_meta_adapter
from a4a.transfer.plan import plan_facts
from a4a.transfer.recipe import check_recipe
from a4a.utils.arguments import parse_arguments
from a4a.utils.settings import merged
from prepare_resume import random_image

ROOT = Path(__file__).parents[2]
LAUNCHERS = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))
RECIPES = sorted(set((ROOT / "recipes").rglob("*.yaml")) - set(LAUNCHERS))


@pytest.mark.parametrize("file", RECIPES, ids=lambda f: str(f.relative_to(ROOT)))
def test_a_recipe_fits_the_command_that_its_first_lines_name(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = str(file.relative_to(ROOT))
    command = re.search(rf"a4a ([a-z-]+) --config {re.escape(path)}", file.read_text())
    assert command, f"{path} does not say how it is used"
    more = ["--output", "runs/x"] if command[1] in ("experiment", "evaluate") else []
    function = COMMANDS[command[1]].load()
    settings = read_arguments(command[1], COMMANDS[command[1]], function, ["--config", path, *more])
    assert parse_arguments(function, settings)
    if command[1] == "experiment":
        for name, change in settings["variants"].items():
            assert check_recipe(merged(merged(settings["recipe"], change), {"output": "x"})), name


def test_every_recipe_of_a_transfer_but_the_papers_says_what_a_check_expects():
    files = [f for f in RECIPES if "-to-" in f.name and f.parent.name != "paper"]
    assert len(files) == 12
    for file in files:
        recipe = yaml.safe_load(file.read_text())
        config = read_section(recipe["check"])
        metrics = [metric["class_path"] for metric in recipe["evaluation"]["init_args"]["metrics"]]
        metric = {"ida": "a4a.evaluation.IDA", "clip_image": "a4a.evaluation.CLIPImageScore"}[config.score]
        assert metric in metrics, file
        assert recipe["evaluation"]["init_args"]["task"]["init_args"]["subjects"] >= config.subjects


@pytest.mark.parametrize("file", LAUNCHERS, ids=lambda f: f.name)
def test_accelerate_reads_its_configurations(file):
    loaded = load_config_from_file(str(file))
    assert loaded.distributed_type == "MULTI_GPU" and loaded.num_processes % loaded.num_machines == 0


def test_the_slurm_script_is_a_script():
    subprocess.run(["bash", "-n", str(ROOT / "recipes" / "accelerate" / "slurm.sh")], check=True)


def settings_of(file):
    """The arguments of a4a transfer in a recipe; of an experiment, those of each variant."""
    content = yaml.safe_load(file.read_text())
    if "recipe" in content:
        return [merged(content["recipe"], change) for change in content["variants"].values()]
    content.pop("check", None)  # which a4a check reads
    return [content] if "training" in content else []


REAL = [f for f in RECIPES if "zoo:" not in f.read_text() and settings_of(f)]


@pytest.mark.parametrize("file", REAL, ids=lambda f: str(f.relative_to(ROOT)))
def test_a_real_recipe_trains_on_one_split_and_is_scored_on_another_of_the_same_data(file):
    for settings in settings_of(file):
        data, validator = settings["data"]["init_args"], settings["evaluation"]["init_args"]
        task = validator["task"]["init_args"]
        assert settings["evaluation"]["class_path"] == "a4a.evaluation.Validator"
        assert (data["path"], data["split"], task["split"]) == (task["path"], "train", "validation")
        assert 16 <= task["subjects"] <= 32 and task["generations"] == 1
        metrics = [metric["class_path"].rpartition(".")[2] for metric in validator["metrics"]]
        assert "CLIPImageScore" in metrics and ("IDA" in metrics) == ("celeba" in data["path"])


def test_recipes_of_the_papers_figures_are_trained_as_the_paper_says():
    files = [f for f in REAL if f.parent.name == "paper"]
    assert len(files) == 14
    for settings in (settings for file in files for settings in settings_of(file)):
        assert settings["training"]["batch_size"] == 4 and settings["model"] != settings["source"]


def test_our_recipes_train_in_two_stages_of_32_samples_a_step_or_more_with_warm_up_and_cosine():
    stages = sorted(f for f in REAL if f.parent.name == "recipes")
    assert len(stages) == 12
    for first, second in zip(stages[::2], stages[1::2], strict=True):
        one, two = (yaml.safe_load(file.read_text()) for file in (first, second))
        assert first.stem == f"{second.stem}-512" and two["init"] == f"{one['output']}/adapter" and "init" not in one
        for recipe, pixels in ((one, 512), (two, 1024)):
            training = recipe["training"]
            assert training["batch_size"] * training["gradient_accumulation"] >= 32
            assert training["schedule"] == "cosine" and training["warmup"] > 0 and training["evaluate_every"] == 10_000
            assert recipe["evaluation"]["init_args"]["sampling"]["size"] == pixels
            assert {name: recipe.get(name) for name in ("model", "source", "method", "objective")} == {
                name: one.get(name) for name in ("model", "source", "method", "objective")
            }


def test_the_published_methods_of_the_figures_keep_or_train_their_source_as_they_say():
    for number in (5, 6, 7):
        content = yaml.safe_load((ROOT / f"recipes/paper/figure{number}.yaml").read_text())
        letter, ours = (merged(content["recipe"], content["variants"][name]) for name in ("A4A", "ours"))
        assert letter["objective"]["train_source"] and not ours["objective"]["train_source"]


@pytest.mark.parametrize("model", ["stabilityai/stable-diffusion-xl-base-1.0", "PixArt-alpha/PixArt-XL-2-1024-MS"])
def test_every_real_recipe_builds_its_adapter_for_its_model(model):
    """By shapes alone; the denoiser is built once."""
    backbone = load_meta_model(model).backbone
    seen = set()
    for settings in (settings for file in REAL for settings in settings_of(file) if settings["model"] == model):
        method = json.dumps(settings.get("method"), sort_keys=True)
        if method not in seen:
            seen.add(method)
            built = check_recipe({"output": "x"} | settings).build(only=("method", "source", "image_encoder"))
            build_meta_adapter(built["method"], backbone, built["source"], built["image_encoder"])
    assert len(seen) > 1


def test_a_real_recipe_says_what_a_plan_says():
    file = ROOT / "recipes/identity-to-pixart.yaml"
    facts, misfit = plan_facts(file)
    assert misfit is None
    head = re.search(r"By a4a plan: ([\d.]+) GB of GPU memory at batch (\d+)", file.read_text())
    assert head
    planned = facts[f"peak at batch {head[2]}, bytes"] + facts["kept free (a guess), bytes"]
    assert float(head[1]) == pytest.approx(planned / 1e9, abs=0.06)


PERSONS, PHOTOS = 24, 2


@pytest.fixture(scope="module")
def celeba(tmp_path_factory):
    """CelebAMask-HQ as unpacked, of noise: two photos of each person, in another order than the persons'."""
    folder = tmp_path_factory.mktemp("celeba")
    images = folder / "CelebAMask-HQ" / "CelebA-HQ-img"
    images.mkdir(parents=True)
    persons = {number: str(number * 7 % PERSONS) for number in range(PERSONS * PHOTOS)}
    for number in persons:
        random_image(number, 48, 48).save(images / f"{number}.jpg", quality=95)
    mapping = [f"{number} {number} {number:06d}.jpg" for number in persons]
    (folder / "CelebAMask-HQ" / "CelebA-HQ-to-CelebA-mapping.txt").write_text(
        "\n".join(["idx orig_idx file", *mapping])
    )
    lines = [f"{number:06d}.jpg {person}" for number, person in persons.items()]
    (folder / "identity_CelebA.txt").write_text("\n".join(lines))
    return folder


def test_one_command_makes_the_faces_of_the_papers_recipes_and_no_person_is_in_two_splits(
    celeba, tmp_path, monkeypatch
):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    words = f"--source.init_args.path {celeba}/CelebAMask-HQ --source.init_args.identities {celeba}/identity_CelebA.txt"
    tiny = "--caption null --source.init_args.text face --crop.size 16 --check.minimum 16 --encode.precision float32"
    models = "--encode.model zoo:pixart-mini --encode.image_encoders.clip zoo:clip-large/image_encoder"
    assert main(["prepare", "--config", "recipes/prepare-celeba.yaml", *f"{words} {tiny} {models}".split()]) == 0
    data = Path("data/celeba-sdxl")
    persons = {}
    for split in ("train", "validation", "test"):
        folder = data / "images" / split
        persons[split] = {path.name for path in folder.iterdir() if path.is_dir()}
        assert persons[split] == set(PreparedDataset(data, split).column("subject"))
        assert len(list(folder.glob("*/*.jpg"))) == PHOTOS * len(persons[split])
    assert sum(map(len, persons.values())) == len(set.union(*persons.values())) == PERSONS
    task = PreparedTask(data, "test", subjects=100)
    assert set(task.subjects) == persons["test"] and set(task.prompts) == {"face"}
    assert task.held_out_photo(0) != task.references[0]
    assert len(ImageFolderDataset(data / "images" / "train", 16)) == PHOTOS * len(persons["train"])

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from a4a.cli.main import main
from a4a.encoders import CLIPImageEncoder
from a4a.errors import InputError
from a4a.evaluation.evaluate import evaluate
from a4a.evaluation.methods import CopyReference, HeldOutPhoto, ImagePromptMethod, Method, TextOnly
from a4a.evaluation.metrics import Diversity, GeneratedSet, Metric, Scores, Similarity
from a4a.evaluation.scoring import noise_generator
from a4a.evaluation.tasks.base import Task
from a4a.evaluation.tasks.dreambench import DreamBenchTask
from a4a.evaluation.tasks.folder import FolderTask
from a4a.utils.hub import resolve_zoo
from a4a.zoo.evaluation import SAMPLING, Identity, PromptAccuracy, WorldTask, parse_caption, world_metrics
from a4a.zoo.world import PLACES, SCENES, SIZES, prompt


class Brightness(Metric):
    def __call__(self, generated: GeneratedSet) -> Scores:
        return {"brightness": np.array([[np.asarray(p).mean() / 255 for p in row] for row in generated.images])}


class Noise(Method):
    """Pictures of nothing but their own noise."""

    def __init__(self, fail_at: int | None = None):
        self.fail_at, self.drawn = fail_at, []

    def generate(self, task, pictures, noise):
        if self.fail_at in pictures:
            raise KeyboardInterrupt
        self.drawn += pictures
        import torch

        return [Image.fromarray((torch.rand(8, 8, 3, generator=g) * 255).byte().numpy()) for g in noise]

    @property
    def key(self):
        return "noise"


@pytest.fixture
def world():
    return WorldTask("validation", 3, 2)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "subjects"
    for name, colours in {"cat": ["red", "blue"], "dog": ["green", "white", "black"]}.items():
        (root / name).mkdir(parents=True)
        for i, colour in enumerate(colours):
            Image.new("RGB", (8, 8), colour).save(root / name / f"{i:02d}.png")
    return root


def lines(tmp_path, text):
    file = tmp_path / "prompts.txt"
    file.write_text(text)
    return file


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_each_folder_is_a_subject(folder, tmp_path):
    task = FolderTask(folder, lines(tmp_path, "a {subject} on a beach\n\nsnow\n"), generations=3)
    assert task.subjects == ["cat", "dog"] and len(task) == 6
    assert task.prompts == ["a cat on a beach", "snow", "a cat on a beach", "snow", "a dog on a beach", "snow"]
    assert task.references[1].getpixel((0, 0)) == (0, 128, 0)
    assert [task.held_out_photo(i).getpixel((0, 0))[0] for i in range(3, 6)] == [
        255,
        0,
        255,
    ]  # white, black, and white again


def test_dreambench_is_read_as_published(folder, tmp_path):
    text = (
        "Classes\n\nsubject_name,class\ncat,stuffed animal\ndog,dog\n\nObject Prompts\n\nprompt_list = [\n"
        "'a {0} {1} in the jungle'.format(unique_token, class_token),\n"
        "'a {0} {1} on top of a dirt road'.format(unique_token, class_token)\n]\n\n"
        "Live Subject Prompts\n\nprompt_list = [\n'a {0} {1} in the jungle'.format(unique_token, class_token),\n"
        "'a {0} {1} in a police outfit'.format(unique_token, class_token)\n]\n"
    )
    task = DreamBenchTask(folder, lines(tmp_path, text), generations=2)
    assert task.prompts[:2] == ["a stuffed animal in the jungle", "a stuffed animal on top of a dirt road"]
    assert task.prompts[2:] == ["a dog in the jungle", "a dog in a police outfit"]


def test_a_prompts_file_that_is_not_dreambenchs_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match=r"is not DreamBench's prompts_and_classes\.txt.* use FolderTask"):
        DreamBenchTask(folder, lines(tmp_path, "a {subject} on a beach"))


def test_a_task_without_images_is_refused(folder, tmp_path):
    for counts in ({"generations": 0}, {"subjects": 0}):
        with pytest.raises(InputError, match="at least 1 of each"):
            FolderTask(folder, lines(tmp_path, "a prompt"), **counts)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root, prompts: (root / "empty").mkdir(), "subject folder .*empty holds no images"),
        (lambda root, prompts: prompts.write_text("\n \n"), "prompts file .* is empty"),
        (lambda root, prompts: prompts.unlink(), "no prompts file"),
        (lambda root, prompts: (root / "cat" / "00.png").write_text("no picture"), "no image that can be read"),
    ],
)
def test_the_error_says_what_is_wrong_with_a_folder(folder, tmp_path, spoil, said):
    prompts = lines(tmp_path, "a prompt")
    spoil(folder, prompts)
    with pytest.raises(InputError, match=said):
        FolderTask(folder, prompts)


def test_the_key_of_a_task_depends_on_its_content(world):
    assert WorldTask("validation", 3, 2).key == world.key
    assert (
        len(
            {
                world.key,
                WorldTask("test", 3, 2).key,
                WorldTask("validation", 2, 2).key,
                WorldTask("validation", 3, 1).key,
            }
        )
        == 4
    )


def test_prompts_are_read_as_they_are_written():
    for s, scene in enumerate(SCENES):
        for p, place in enumerate(PLACES):
            for z, size in enumerate(SIZES):
                assert all(parse_caption(prompt(scene, place, size, w)) == [s, p, z] for w in range(3))


# --- the harness ------------------------------------------------------------------------------------------------------


def test_a_perfect_method_reaches_the_ceiling_and_a_copier_is_exposed(world, tmp_path):
    world = WorldTask("validation", 12, 2)
    metrics = [*world_metrics(), Diversity(CLIPImageEncoder("zoo:clip-large/image_encoder"))]
    evaluate(world, {"fresh drawing": HeldOutPhoto(), "copier": CopyReference()}, metrics, tmp_path)
    methods = json.loads((tmp_path / "results.json").read_text())["methods"]
    fresh, copier = ({k: v["mean"] for k, v in methods[n]["scores"].items()} for n in ("fresh drawing", "copier"))
    assert copier["identity"] == pytest.approx(1, abs=1e-3) and copier["retrieval"] == 1
    assert fresh["identity"] > 0.8 and fresh["scene"] > 0.9 and fresh["place"] > 0.9
    assert copier["diversity"] == pytest.approx(0, abs=1e-3) and fresh["diversity"] > 0.01
    assert copier["scene"] < 0.6


def test_a_stopped_evaluation_continues_and_generates_nothing_twice(world, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        evaluate(world, {"noise": Noise(fail_at=4)}, [Brightness()], tmp_path / "a", batch=2)
    second = Noise()
    evaluate(world, {"noise": second}, [Brightness()], tmp_path / "a", batch=2)
    assert second.drawn == [4, 5]
    evaluate(world, {"noise": Noise()}, [Brightness()], tmp_path / "b", batch=5)
    a, b = (json.loads((tmp_path / n / "noise" / "scores.json").read_text()) for n in "ab")
    assert a == b  # neither stopping nor the batch changes a picture
    third = Noise()
    evaluate(world, {"noise": third}, [Brightness(), Similarity(Identity(), "identity")], tmp_path / "b")
    assert third.drawn == [] and "identity" in json.loads((tmp_path / "b" / "noise" / "scores.json").read_text())


def test_the_order_of_methods_changes_nothing_and_differences_are_paired(world, tmp_path):
    methods = {"noise": Noise(), "copier": CopyReference()}
    evaluate(world, methods, [Brightness()], tmp_path / "a", baseline="copier")
    evaluate(world, dict(reversed(methods.items())), [Brightness()], tmp_path / "b", baseline="copier")
    a, b = (json.loads((tmp_path / n / "results.json").read_text())["methods"] for n in "ab")
    for name in methods:
        assert a[name]["scores"] == b[name]["scores"] and a[name]["baseline"] == b[name]["baseline"]
    means = {n: m["scores"]["brightness"]["mean"] for n, m in a.items()}
    assert a["noise"]["baseline"]["brightness"]["mean"] == pytest.approx(means["noise"] - means["copier"])


def test_the_csv_has_every_image(world, tmp_path):
    evaluate(world, {"noise": Noise()}, [Brightness()], tmp_path)
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["subject"], r["generation"], r["prompt"]) for r in rows] == [
        (world.subjects[i // 2], str(i % 2), world.prompts[i]) for i in range(6)
    ]


def test_two_tasks_never_share_a_table(world, tmp_path):
    evaluate(world, {"noise": Noise()}, [Brightness()], tmp_path)
    with pytest.raises(InputError, match="cannot stand in one table"):
        evaluate(WorldTask("test", 3, 2), {"noise": Noise()}, [Brightness()], tmp_path)
    with pytest.raises(InputError, match="was made with seed 0, not 1"):
        evaluate(world, {"noise": Noise()}, [Brightness()], tmp_path, seed=1)
    with pytest.raises(InputError, match="noise was made with method noise"):
        evaluate(world, {"noise": CopyReference()}, [Brightness()], tmp_path)


def test_an_adapter_that_was_trained_again_is_another_method(tmp_path):
    task, folder = WorldTask("test", 1, 1), tmp_path / "adapter"
    shutil.copytree(resolve_zoo("zoo:a4a-plus-pixart-mini"), folder)
    method = ImagePromptMethod("zoo:pixart-mini", str(folder), sampling=SAMPLING)
    evaluate(task, {"A4A": method}, [Brightness()], tmp_path / "scores")
    assert "pipe" not in vars(method)  # the next method has the memory for itself
    weights = folder / "diffusion_pytorch_model.safetensors"
    save_file({name: t.flip(0).contiguous() for name, t in load_file(weights).items()}, weights)
    with pytest.raises(InputError, match="cannot stand in one table"):
        evaluate(task, {"A4A": method}, [Brightness()], tmp_path / "scores")


def test_two_folders_of_one_name_are_two_sections(world, tmp_path):
    for place in ("one", "two"):
        evaluate(world, {"copier": CopyReference()}, [Brightness()], tmp_path / "runs" / place / "table")
    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "page")]) == 0
    assert {p.name for p in (tmp_path / "page").glob("*.webp")} == {"one-table.webp", "two-table.webp"}


def test_noise_depends_on_image_number_and_seed_alone():
    assert noise_generator(3, 1).initial_seed() == noise_generator(3, 1).initial_seed()
    assert len({noise_generator(i, s).initial_seed() for i in range(50) for s in range(3)}) == 150


def test_from_the_command_line_to_a_page(tmp_path):
    recipe = tmp_path / "evaluate.yaml"
    recipe.write_text(
        """
task: {class_path: a4a.zoo.WorldTask, init_args: {split: test, subjects: 2, generations: 2}}
methods:
  text only: {class_path: a4a.evaluation.TextOnly, init_args: {model: "zoo:sd15-mini", sampling: {steps: 2, size: 64}}}
  ceiling: {class_path: a4a.evaluation.HeldOutPhoto}
metrics:
  - {class_path: a4a.zoo.PromptAccuracy}
  - {class_path: a4a.evaluation.Similarity, init_args: {encoder: {class_path: a4a.zoo.Identity}, name: identity}}
baseline: text only
title: Who draws best
description: Nobody knows.
"""
    )
    assert main(["evaluate", "--config", str(recipe), "--output", str(tmp_path / "runs" / "table")]) == 0
    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "page")]) == 0
    page, text = ((tmp_path / "page" / name).read_text() for name in ("index.html", "README.md"))
    assert page.count("data:image/webp") == 1 and "text only" in page and "identity" in page
    assert (tmp_path / "page" / "table.webp").exists() and "table.webp" in text
    for grid_subjects in (page, text):
        assert (
            "Who draws best" in grid_subjects
            and "Nobody knows." in grid_subjects
            and "minus text only" in grid_subjects
        )
    assert main(["report", str(tmp_path / "page"), "--output", str(tmp_path / "none")]) == 2


def test_text_only_is_the_plain_pipeline(tmp_path):
    task = Task(["a"], [Image.new("RGB", (8, 8))], ["a small creature on the left, in the snow"])
    first, second = (
        TextOnly("zoo:sd15-mini", sampling=SAMPLING).generate(task, [0], [noise_generator(0)])[0] for _ in range(2)
    )
    assert first.size == (64, 64) and np.array_equal(first, second)
    assert PromptAccuracy()(GeneratedSet(task.references, [task.prompts], [[first]])).keys() == {
        "scene",
        "place",
        "size",
    }

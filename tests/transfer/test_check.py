"""`a4a check` on miniature models: a recipe that is well, and recipes in which one thing is broken."""

import json

import pytest
import torch
import yaml

from a4a.adapters.loading import load_adapter
from a4a.cli.main import main

FEW = ["--subjects", "5", "--steps", "12", "--training.batch_size", "8", "--data.init_args.subjects", "64"]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def recipe():
    with open("recipes/miniature/transfer.yaml") as file:
        return yaml.safe_load(file)


@pytest.fixture
def check(tmp_path, cache):
    """Runs a check of a recipe; its exit code and check.json."""

    def run(recipe, *options):
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(recipe))
        output = tmp_path / "check"
        code = main(["check", str(file), *FEW, "--cache", str(cache), "--output", str(output), *options])
        return code, json.loads((output / "check.json").read_text())

    return run


def only_the_source(recipe, **changes):
    """The recipe, with the source on its base model as the only published adapter, and two samples to overfit."""
    recipe["check"] |= {"adapters": {"source": {"model": "zoo:sd15-mini", **changes}}, "overfit": 2}
    return recipe


def test_a_recipe_that_is_well_passes_all_steps(check, recipe, tmp_path, capsys):
    code, report = check(recipe)
    assert code == 0 and report["passed"]
    assert [step["step"] for step in report["steps"]] == [1, 2, 3, 4]
    findings = [finding for step in report["steps"] for finding in step["findings"]]
    assert all(finding["passed"] for finding in findings)
    out = capsys.readouterr().out
    for finding in findings:
        assert f"ok  {finding['what']}: {finding['found']}\n      expected: {finding['expected']}" in out
    assert out.splitlines()[-1] == f"Next: a4a transfer --config {tmp_path}/recipe.yaml"
    pictures = sorted(str(file.relative_to(tmp_path / "check")) for file in (tmp_path / "check").rglob("*.png"))
    assert len([name for name in pictures if name.startswith("published/")]) == 2
    assert [name for name in pictures if name.startswith("overfit/samples/")][-1].endswith("0000000096.png")
    hours, memory = report["steps"][3]["findings"]
    assert hours["values"]["hours"] > hours["values"]["planned_hours"] > 0
    assert memory["values"]["planned_bytes"] == report["steps"][0]["findings"][0]["values"]["planned_bytes"]


def test_an_adapter_whose_image_prompt_does_nothing_is_caught_when_it_draws(check, recipe, tmp_path, capsys):
    adapter = load_adapter(recipe["source"])
    with torch.no_grad():
        for values in adapter.key_value_layers()[1]:
            values.weight.zero_()
    adapter.save_pretrained(tmp_path / "zeroed")
    code, report = check(only_the_source(recipe, adapter=str(tmp_path / "zeroed")), "--subjects", "2")
    assert code == 1 and not report["passed"] and len(report["steps"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("a4a: Step 2 of 4, source, identity with the image prompt and without it: found")
    assert "expected a difference" in error and "the same to the last bit" in error


def test_a_score_that_is_not_the_known_one_is_caught(check, recipe, capsys):
    code, report = check(only_the_source(recipe, expected=0.2), "--subjects", "2")
    assert code == 1 and [finding["passed"] for finding in report["steps"][1]["findings"]] == [True, False]
    assert "expected 0.2 +- 0.1. Look at" in capsys.readouterr().err


def test_training_that_learns_nothing_is_caught_when_it_overfits(check, recipe, capsys):
    still = ["--objective.rates.projection", "0", "--objective.rates.mapping", "0"]
    code, report = check(only_the_source(recipe), "--subjects", "2", "--steps", "10", *still)
    assert code == 1 and len(report["steps"]) == 3
    found = report["steps"][2]["findings"][0]["values"]
    assert found["before"] == found["after"]
    assert "objective.rates (projection 0, mapping 0" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_ends_the_check(check, recipe, capsys):
    rates = ["--objective.rates.projection", "1e30", "--objective.rates.mapping", "1e30"]
    code, report = check(only_the_source(recipe), "--subjects", "2", *rates)
    assert code == 1 and not report["steps"][2]["findings"][0]["passed"]
    assert "Step 3 of 4, training: found The" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"check": None}, "has no section check"),
        ({"evaluation": None}, "has no evaluation"),
        ({"check": {"score": "identity", "adapters": {}}}, "check.adapters is empty"),
        ({"check": {"score": "identity", "adapters": {"a": {"modle": "x"}}}}, "did you mean model"),
        ({"precision": {"shard": True}}, "precision.shard is set"),
    ],
)
def test_a_recipe_that_cannot_be_checked_is_bad_input(tmp_path, recipe, capsys, change, said):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe | change))
    assert main(["check", str(file), "--output", str(tmp_path / "check")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "check").exists()


def test_a_score_that_the_evaluation_does_not_give_is_bad_input(check, recipe, capsys):
    recipe["check"]["score"] = "ida"
    code, report = check(recipe, "--subjects", "2")
    assert code == 2 and "identity" in report["steps"][0]["error"]
    assert "check.score is 'ida', but the recipe's evaluation scores images by identity" in capsys.readouterr().err


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, recipe, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["check", "recipes/miniature/transfer.yaml", "--output", str(tmp_path)]) == 2
    assert "holds something else than a check" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "mine"

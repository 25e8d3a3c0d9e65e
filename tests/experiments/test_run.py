import csv
import json
import re
import shutil
from functools import wraps

import pytest
import yaml

from a4a.cli.main import main
from a4a.experiments import checks
from a4a.experiments import run as experiment
from a4a.experiments.checks import check_variants
from a4a.utils.settings import merged

RECIPE = {
    "title": "To a transformer",
    "description": "What the paper shows.",
    "part": "headline",
    "recipe": {
        "model": "zoo:pixart-mini",
        "source": "zoo:ip-adapter-sd15-mini",
        "image_encoder": "zoo:clip-large/image_encoder",
        "data": {"class_path": "a4a.zoo.WorldImages", "init_args": {"split": "train", "subjects": 8}},
        "method": {"rounds": 0},
        "objective": {"rates": {"projection": 1e-3, "mapping": 1e-3}},
        "training": {"samples": 16, "batch_size": 4, "evaluate_every": 8, "tensorboard": False},
        "evaluation": {"class_path": "a4a.zoo.WorldValidator", "init_args": {"split": "validation", "subjects": 2}},
    },
    "variants": {
        "A4A": {},
        "IP-Adapter*": {"method": "IPAdapterConfig", "objective": {"rates": {"adapter": 1e-3}}},
    },
    "seeds": [0, 1],
    "scores": ["identity"],
    "claims": [
        {"description": "A4A is above at every point.", "kind": "always_above", "a": "A4A", "b": "IP-Adapter*"},
        {"description": "A4A ends above.", "kind": "above", "a": "A4A", "b": "IP-Adapter*"},
        {
            "description": "A4A reaches the copier.",
            "kind": "fewer_samples",
            "a": "A4A",
            "b": "copier",
            "b_samples": 10,
            "paper": "the paper copies nothing",
        },
    ],
    "savings": {"method": "A4A", "reference": "copier"},
    "paper": {"copier": "identity 1"},
    "final": {
        "task": {"class_path": "a4a.zoo.WorldTask", "init_args": {"split": "test", "subjects": 3, "generations": 2}},
        "metrics": [
            {
                "class_path": "a4a.evaluation.Similarity",
                "init_args": {"encoder": {"class_path": "a4a.zoo.Identity"}, "name": "identity"},
            }
        ],
        "sampling": {"steps": 2, "guidance": 3.0, "size": 64},
        "extra_methods": {"copier": {"class_path": "a4a.evaluation.CopyReference"}},
    },
}


def run(tmp_path, recipe, *more):
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return main(["experiment", "--config", str(file), "--output", str(tmp_path / "runs" / "figure7"), *more])


def test_variants_and_seeds_become_curves_a_table_and_verdicts(tmp_path, capsys, monkeypatch):
    recipe = json.loads(json.dumps(RECIPE))
    recipe["recipe"]["cache"] = str(tmp_path / "cache")
    assert run(tmp_path, recipe) == 0
    folder = tmp_path / "runs" / "figure7"
    adapters = [folder / v / s / "adapter" for v in ("A4A", "IP-Adapter-star") for s in ("seed0", "seed1")]
    assert all(a.is_dir() for a in adapters)
    logs = {a.parent.parent.name + a.parent.name: (a.parent / "log.csv").read_text() for a in adapters}
    assert len(set(logs.values())) == 4  # neither seeds nor variants are the same run
    before = adapters[0].stat().st_mtime_ns
    assert run(tmp_path, recipe) == 0 and adapters[0].stat().st_mtime_ns == before  # finished: not run again

    again = json.loads(json.dumps(recipe)) | {"variants": {"ours": {}}, "seeds": [1], "claims": []}
    again |= {"savings": None, "paper": {}}
    again.pop("final")
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(again))
    with monkeypatch.context() as patch:  # what another experiment has trained is not trained again
        patch.setattr(experiment, "transfer", wraps(experiment.transfer)(lambda **_: pytest.fail("trained again")))
        assert (
            main(["experiment", "--config", str(tmp_path / "again.yaml"), "--output", str(tmp_path / "runs" / "again")])
            == 0
        )
    assert (tmp_path / "runs" / "again" / "ours" / "seed1" / "log.csv").read_text() == logs["A4Aseed1"]
    shutil.rmtree(tmp_path / "runs" / "again")

    assert run(tmp_path, recipe, "--only", "[A4A]") == 0  # what else is finished stays in the table
    assert len(json.loads((folder / "final" / "results.json").read_text())["methods"]) == 5
    assert run(tmp_path, {**recipe, "recipe": {**recipe["recipe"], "method": {"rounds": 1}}}) == 2
    assert "was trained with method.rounds 0 and the recipe now says 1" in capsys.readouterr().err
    assert list(json.loads((folder / "validation" / "results.json").read_text())["methods"]) == [
        "copier"
    ]  # for the curves, on their subjects

    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "page"), "--title", "Miniature"]) == 0
    text, page = ((tmp_path / "page" / name).read_text() for name in ("README.md", "index.html"))
    for words in (
        "# Miniature",
        "## To a transformer",
        "What the paper shows.",
        "| A4A | 16 | 2 |",
        "copier",
        "cannot be told",
        "A4A comes to",
        "| the paper copies nothing |",
        "identity 1",
        "Seeds 0, 1",
    ):
        assert words in text, words
    for parts in (
        ("To a transformer: samples", "Claims", "### To a transformer"),
        ("<svg", "not reached by 16", "<h3 id"),
    ):
        whole = text if parts[1] == "Claims" else page
        assert sorted(map(whole.index, parts)) == [whole.index(part) for part in parts]  # the main things come first
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert {"figure7-identity.svg", "figure7-preview.webp", "figure7.webp", "figure7-curves.csv"} == set(links)
    assert all((tmp_path / "page" / link).is_file() for link in links)
    points = list(csv.DictReader((tmp_path / "page" / "figure7-curves.csv").open()))
    assert [(p["method"], p["samples"]) for p in points[:3]] == [("A4A", "0"), ("A4A", "8"), ("A4A", "16")]
    assert all(float(p["low"]) <= float(p["mean"]) <= float(p["high"]) for p in points)
    assert page.count("<svg") == 1 and page.count('src="data:image/webp') == 2 and "A4A reaches the copier." in page


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"claims": [{"description": "", "kind": "above", "a": "A4A", "b": "nobody"}]},
            "about 'nobody', which is no variant",
        ),
        (
            {"claims": [{"description": "X", "kind": "always_above", "a": "A4A", "b": "copier"}]},
            "compares curves, is about 'copier', which is no variant",
        ),
        (
            {"claims": [{"description": "X", "kind": "equal", "a": "A4A", "b": "IP-Adapter*"}]},
            "The claim 'X' of kind equal has no margin; add it.",
        ),
        (
            {"claims": [{"description": "X", "kind": "above", "a": "A4A", "b": "copier", "margin": 0.1}]},
            "The claim 'X' of kind above has margin; that kind takes fraction",
        ),
        ({"savings": {"method": "copier", "reference": "A4A"}}, "savings.method is about 'copier'"),
        ({"paper": {"nobody": "0.5"}}, "paper is about 'nobody'"),
        ({"seeds": []}, "no variants or no seeds"),
        (
            {"claims": [], "variants": {"A4A": {"method": {"roundz": 1}}}},
            "The variant 'A4A': method (A4AConfig) has no option roundz; did you mean rounds?",
        ),
    ],
)
def test_the_error_says_what_is_wrong_with_a_recipe(tmp_path, capsys, change, said):
    assert run(tmp_path, {**RECIPE, **change}) == 2
    assert said in capsys.readouterr().err


CLIP_SCORE = {"class_path": "a4a.evaluation.CLIPImageScore", "init_args": {"model": "zoo:t5"}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"variants": {"A4A": {}, "none": {"data": None}}}, "The variant 'none': "),
        ({"variants": {"A4A": {}, "bare": {"source": None}}}, "The variant 'bare': method is A4AConfig but no source"),
        ({"variants": {"A4A": {}, "seven": {"method": {"rounds": 1, "heads": 7}}}}, "The variant 'seven': "),
        ({"variants": {"A4A": {}, "gone": {"data": "runs/gone"}}}, "The variant 'gone': There is no runs/gone"),
        (
            {
                "final": RECIPE["final"]
                | {"metrics": [*RECIPE["final"]["metrics"], {"class_path": "a4a.evaluation.IDA"}]}
            },
            "final.metrics[1] (IDA) needs folder",
        ),
        ({"final": RECIPE["final"] | {"metrics": [CLIP_SCORE]}}, "final.metrics[0] (CLIPImageScore): "),
        (
            {
                "variants": {
                    "A4A": {},
                    "judged": {
                        "evaluation": {
                            "class_path": "a4a.evaluation.Validator",
                            "init_args": {"task": RECIPE["final"]["task"], "metrics": [CLIP_SCORE]},
                        }
                    },
                }
            },
            "The variant 'judged': evaluation.metrics[0] (CLIPImageScore): ",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_variant_and_metric_is_checked_before_the_first_is_trained(tmp_path, capsys, change, said):
    assert run(tmp_path, {**RECIPE, "claims": [], **change}) == 2
    error = capsys.readouterr().err
    assert said in error and "Namespace" not in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_settings_that_variants_share_are_checked_once(monkeypatch):
    arguments = {
        name: merged(RECIPE["recipe"], {"output": "x"} | change) for name, change in RECIPE["variants"].items()
    }
    calls = []
    monkeypatch.setattr(checks, "check_adapter", lambda **values: calls.append(values["method"]))
    monkeypatch.setattr(checks, "check_metrics", lambda *_: calls.append("metrics"))
    check_variants(arguments | {"again": arguments["A4A"]})
    assert [type(call).__name__ for call in calls] == ["A4AConfig", "str", "IPAdapterConfig"]


def test_an_override_reaches_the_runs_and_keeps_the_rest_of_its_group(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(experiment, "transfer", wraps(experiment.transfer)(lambda **values: trained.append(values)))
    monkeypatch.setattr(experiment, "evaluate", lambda *_, **__: None)
    words = ["--recipe.training.samples", "8", "--recipe.training.warmup", "3", "--variants.A4A.method.rounds", "1"]
    assert run(tmp_path, RECIPE | {"claims": []}, "--seeds", "4", *words) == 0
    a4a, ip_adapter = trained
    for values in trained:
        training = values["training"]
        assert (training.samples, training.warmup, training.batch_size, training.seed) == (8, 3, 4, 4)
    assert a4a["method"].rounds == 1 and type(ip_adapter["method"]).__name__ == "IPAdapterConfig"

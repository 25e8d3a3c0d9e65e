"""One A4A of the zoo's Plus and base adapters, from a recipe to images with either of them."""

import csv
import json

import pytest
import torch

from a4a.adapters.loading import load_adapter
from a4a.cli.main import main
from a4a.data.compatibility import choose_output
from a4a.errors import InputError
from a4a.evaluation.resampling import ScoreCurve
from a4a.evaluation.validation import with_source
from a4a.experiments.results import read_curves
from a4a.experiments.run import method_names
from a4a.training.config import TrainingConfig
from a4a.training.denoising import ObjectiveConfig
from a4a.transfer.config import A4AConfig, Precision, TransferSettings
from a4a.transfer.memory import estimate_memory
from a4a.transfer.meta import load_meta_transfer

SOURCES = {"plus": "zoo:ip-adapter-plus-sd15-mini", "base": "zoo:ip-adapter-sd15-mini"}
OPTIONS = {
    "model": "zoo:pixart-mini",
    "image_encoder": "zoo:clip-large/image_encoder",
    "data.class_path": "a4a.zoo.WorldImages",
    "data.init_args.split": "train",
    "data.init_args.subjects": "12",
    "method.rounds": "0",
    "training.batch_size": "4",
    "training.checkpoint_every": "4",
    "training.tensorboard": "false",
    "evaluation.class_path": "a4a.zoo.WorldValidator",
    "evaluation.init_args.split": "validation",
    "evaluation.init_args.subjects": "2",
}


def transfer(output, samples, *more):
    options = OPTIONS | {f"source.{name}": path for name, path in SOURCES.items()}
    options |= {"output": str(output), "cache": str(output.parent / "cache"), "training.samples": str(samples)}
    return main(["transfer", *(word for name, value in options.items() for word in (f"--{name}", value)), *more])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    output = tmp_path_factory.mktemp("several") / "run"
    assert transfer(output, 4) == 0
    assert transfer(output, 8, "--resume") == 0
    return output


def test_each_source_has_scores_curves_and_images(run):
    rows = list(csv.DictReader((run / "log.csv").open()))
    assert all(rows[-1][f"identity ({name}){end}"] for name in SOURCES for end in ("", ".low", ".high"))
    assert {"0000000008-plus.png", "0000000008-base.png"} <= {file.name for file in (run / "samples").iterdir()}
    seed = run.parent / "variant" / "seed3"
    seed.parent.mkdir(exist_ok=True)
    seed.symlink_to(run)
    found = {name: read_curves(seed.parent, [3], ["identity"], name)["identity"] for name in SOURCES}
    scores = json.loads((run / "scores" / "0000000008.json").read_text())
    for name, curve in found.items():
        assert isinstance(curve, ScoreCurve) and curve.values.shape[:2] == (1, 2)
        assert curve.values[0, 0, -1] == pytest.approx(torch.tensor(scores[f"identity ({name})"][0]).mean().item())


def test_the_adapter_draws_with_either_source_and_differently(run, tmp_path, capsys):
    draw = ["generate", "--adapter", str(run / "adapter"), "--model", "zoo:pixart-mini", "--prompt", "a creature"]
    draw += ["--image", str(run / "samples" / "0000000008-plus.png"), "--steps", "2"]
    assert main([*draw, "--output", str(tmp_path / "none")]) == 2
    assert "has the sources" in capsys.readouterr().err and not (tmp_path / "none").exists()
    for name in SOURCES:
        assert main([*draw, "--output", str(tmp_path / name), "--source", name]) == 0
    images = {name: (tmp_path / name / "reference00-prompt00-seed0.png").read_bytes() for name in SOURCES}
    assert images["plus"] != images["base"]


def test_a_run_may_start_from_it_but_not_with_other_sources(run, tmp_path, capsys):
    assert transfer(tmp_path / "second", 4, "--init", str(run / "adapter")) == 0
    assert set(load_adapter(tmp_path / "second" / "adapter").adapters) == set(SOURCES)
    more = ["--init", str(run / "adapter"), "--source.third", SOURCES["base"]]
    assert transfer(tmp_path / "third", 4, *more) == 2
    assert "made from another source than" in capsys.readouterr().err


def test_the_plan_counts_the_projections_of_all_sources():
    settings = (ObjectiveConfig(), TrainingConfig(), Precision())
    parameters = {}
    for name, source in {"one": SOURCES["plus"], "both": SOURCES}.items():
        built = load_meta_transfer(
            TransferSettings("zoo:pixart-mini", OPTIONS["image_encoder"], source, A4AConfig(rounds=0), *settings)
        )
        parameters[name] = estimate_memory(built).trained_parameters
        projection = sum(p.numel() for name, p in built.adapter.named_parameters() if "projections" in name)
    assert parameters["both"] - parameters["one"] == projection / 2


def test_names_of_scores_and_methods():
    assert with_source({"identity": 1, "identity.low": 0}, "plus") == {"identity (plus)": 1, "identity (plus).low": 0}
    assert method_names("both", {"source": SOURCES}) == {"both (plus)": "plus", "both (base)": "base"}
    assert method_names("one", {"source": SOURCES["plus"]}) == {"one": None}


def test_prepared_data_have_one_kind_of_embedding_for_each_source(tmp_path):
    manifest = {"embeds": {"clip": [8], "clip-tokens": [5, 16]}}
    assert choose_output(tmp_path, manifest, "clip", "tokens") == "clip-tokens"
    assert choose_output(tmp_path, manifest, "clip", "pooled") == "clip"
    manifest["embeds"]["other"] = [5, 16]
    with pytest.raises(InputError, match="several tokens embeddings"):
        choose_output(tmp_path, manifest, "clip", "tokens")

"""The recipe for one's own photos, run as its first lines say, on drawn creatures and the built-in models."""

import csv
import json
from pathlib import Path

import pytest

from a4a.cli.main import main
from a4a.data.prepared import PreparedDataset
from a4a.utils.images import to_pil
from a4a.zoo.drawing import draw
from a4a.zoo.world import Subjects, Views, caption

ROOT = Path(__file__).parents[2]
SUBJECTS, PHOTOS = 6, 3


def draw_photos(folder):
    """Photos of creatures in one folder each, with a caption beside every photo but the last."""
    subjects = Subjects.sample(SUBJECTS, "test")
    for number in range(PHOTOS):
        views = Views.sample(SUBJECTS, number)
        rows = zip(to_pil(draw(subjects, views)), caption(views, number), strict=True)
        for subject, (image, text) in enumerate(rows):
            (folder / f"creature{subject}").mkdir(parents=True, exist_ok=True)
            image.save(folder / f"creature{subject}" / f"{number}.png")
            (folder / f"creature{subject}" / f"{number}.txt").write_text(text)
    (folder / f"creature{SUBJECTS - 1}" / f"{PHOTOS - 1}.txt").unlink()


@pytest.fixture
def in_a_folder_with_photos(tmp_path, monkeypatch):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    draw_photos(tmp_path / "my-photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_recipe_goes_from_photos_to_scores(in_a_folder_with_photos, capsys):
    runs = in_a_folder_with_photos / "runs" / "my-photos"
    recipes = "recipes/my-photos"
    assert main(["prepare", "--config", f"{recipes}/prepare.yaml"]) == 0
    assert f"1 of {SUBJECTS * PHOTOS} images have no caption" in capsys.readouterr().err
    splits = {n: set(PreparedDataset(runs / "data", n).column("subject")) for n in ("train", "validation", "test")}
    assert all(splits.values()) and sum(map(len, splits.values())) == SUBJECTS

    assert main(["check", f"{recipes}/transfer.yaml", "--steps", "12", "--training.batch_size", "8"]) == 0
    assert (
        len(list((runs / "transfer" / "check").rglob("*.png"))) == 3
    )  # published adapter, before and after overfitting

    few = ["--training.samples", "8", "--training.batch_size", "4", "--evaluation.init_args.sampling.steps", "2"]
    assert main(["transfer", "--config", f"{recipes}/transfer.yaml", *few]) == 0
    rows = list(csv.DictReader((runs / "transfer" / "log.csv").open()))
    assert rows[0]["clip_image"] and rows[-1]["clip_text"]
    assert len(list((runs / "transfer" / "samples").glob("*.png"))) == 2
    assert len(list((runs / "transfer" / "scores").glob("*.json"))) == 2  # of every subject, for intervals over them

    assert main(["evaluate", "--config", f"{recipes}/evaluate.yaml", "--output", str(runs / "scores")]) == 0
    results = json.loads((runs / "scores" / "results.json").read_text())
    assert {"text only", "A4A", "held-out photo"} <= set(json.dumps(results).replace('"', ",").split(","))

import json

import pytest

from a4a.errors import InputError
from a4a.evaluation.claims import Claim
from a4a.evaluation.evaluate import evaluate
from a4a.evaluation.methods import CopyReference, HeldOutPhoto
from a4a.evaluation.metrics import Similarity
from a4a.web.report import report
from a4a.zoo.evaluation import Identity, WorldTask


def test_what_an_earlier_version_recorded_is_named(tmp_path):
    folder = tmp_path / "runs" / "figure7"
    folder.mkdir(parents=True)
    (folder / "experiment.json").write_text(json.dumps({"title": "Figure 7", "variants": {}, "seeds": [0]}))
    with pytest.raises(InputError, match=r"experiment\.json has no part: .* Run its recipe again"):
        report(tmp_path / "runs", tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_the_claims_of_a_table_are_decided_and_one_seed_decides_nothing(tmp_path):
    metric = Similarity(Identity(), "identity")
    copies = {f"copies, seed {seed}": CopyReference() for seed in (0, 1)}
    methods = {"photo": HeldOutPhoto(), **copies, "copy, seed 0": CopyReference()}
    claims = [
        Claim("Copies are above.", "above", "copies", "photo", paper="not there"),
        Claim("Photos are above.", "above", "photo", "copies"),
        Claim("One copy is above.", "above", "copy", "photo"),
    ]
    evaluate(WorldTask("validation", 20, 1), methods, [metric], tmp_path / "runs" / "table", claims=claims)
    report(tmp_path / "runs", tmp_path / "page")
    text = (tmp_path / "page" / "README.md").read_text()
    assert "Of 3 claims 1 hold, 1 do not hold, 1 cannot be told." in text
    assert "| Copies are above. | **holds**" in text and "but one seed of copy" in text


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        (Claim("It is.", "above", "copies", "photos"), "is about 'photos'; expected one of the methods photo, copies"),
        (Claim("It is.", "always_above", "copies", "photo"), "about learning curves"),
    ],
)
def test_a_claim_that_a_table_cannot_decide_is_refused(tmp_path, claim, said):
    methods = {"photo": HeldOutPhoto(), "copies, seed 0": CopyReference()}
    with pytest.raises(InputError, match=said):
        evaluate(WorldTask("validation", 2, 1), methods, [Similarity(Identity(), "identity")], tmp_path, claims=[claim])


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(InputError, match="holds no finished experiment or evaluation"):
        report(tmp_path, tmp_path / "page")

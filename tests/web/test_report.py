import json

import pytest

from a4a.errors import InputError
from a4a.web.report import report


def test_what_an_earlier_version_recorded_is_named(tmp_path):
    folder = tmp_path / "runs" / "figure7"
    folder.mkdir(parents=True)
    (folder / "experiment.json").write_text(json.dumps({"title": "Figure 7", "variants": {}, "seeds": [0]}))
    with pytest.raises(InputError, match=r"experiment\.json has no part: .* Run its recipe again"):
        report(tmp_path / "runs", tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(InputError, match="holds no finished experiment or evaluation"):
        report(tmp_path, tmp_path / "page")

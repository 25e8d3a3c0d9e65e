"""Names of models: zoo:NAME, a folder, or a repository on the hub with or without a folder in it."""

import pytest

from a4a.errors import InputError
from a4a.utils.hub import ZOO, resolve_model, resolve_zoo


def test_a_zoo_name_is_the_folder_that_ships_with_the_package():
    assert resolve_zoo("zoo:sd15-mini") == str(ZOO / "sd15-mini")
    assert resolve_zoo("owner/repo") == "owner/repo"


def test_an_unknown_zoo_name_is_refused_with_those_that_there_are():
    with pytest.raises(InputError, match=r"The zoo has no sd16-mini; it has .*sd15-mini, sd3-mini, sdxl-mini"):
        resolve_zoo("zoo:sd16-mini")


def test_a_model_is_a_folder_or_a_repository_and_its_subfolder(tmp_path):
    assert resolve_model(tmp_path, "model") == (str(tmp_path), {})
    assert resolve_model("owner/repo", "model") == ("owner/repo", {})
    assert resolve_model("owner/repo/a/b", "model") == ("owner/repo", {"subfolder": "a/b"})


@pytest.mark.parametrize("name", ["./none", "~/none", "/none/at/all", "none"])
def test_anything_else_is_refused(name):
    with pytest.raises(InputError, match=f"There is no image encoder folder {name}; give one, or owner/repo"):
        resolve_model(name, "image encoder")

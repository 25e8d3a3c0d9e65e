"""Every recipe fits the command that its first lines name."""

import re
from pathlib import Path

import pytest
import yaml

from a4a.cli import commands
from a4a.experiment import checked, merged

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda f: str(f.relative_to(ROOT)))
def test_a_recipe_parses_as_what_it_says_it_is(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = str(file.relative_to(ROOT))
    command = re.search(rf"a4a ([a-z-]+) --config {re.escape(path)}", file.read_text())
    assert command, f"{path} does not say how it is used"
    more = ["--output", "runs/x"] if command[1] in ("experiment", "evaluate") else []
    parser, _, _ = commands()
    parser.parse_args([command[1], "--config", path, *more])
    if command[1] == "experiment":
        recipe = yaml.safe_load(file.read_text())
        for name, change in recipe["variants"].items():
            assert checked(merged(merged(recipe["recipe"], change), {"output": "x"})), name

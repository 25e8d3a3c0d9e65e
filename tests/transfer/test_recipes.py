"""Every recipe fits the command that its first lines name."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from a4a.cli.arguments import read_arguments
from a4a.cli.commands import COMMANDS
from a4a.transfer.recipe import check_recipe
from a4a.utils.arguments import parse_arguments
from a4a.utils.settings import merged

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


@pytest.mark.parametrize("file", LAUNCHERS, ids=lambda f: f.name)
def test_accelerate_reads_its_configurations(file):
    loaded = load_config_from_file(str(file))
    assert loaded.distributed_type == "MULTI_GPU" and loaded.num_processes % loaded.num_machines == 0


def test_the_slurm_script_is_a_script():
    subprocess.run(["bash", "-n", str(ROOT / "recipes" / "accelerate" / "slurm.sh")], check=True)


def test_recipes_for_two_gpus_have_the_papers_rates_and_batch():
    files = [f for f in RECIPES if re.match(r"(identity|object)-to-", f.name)]
    assert len(files) == 8
    for file in files:
        recipe = yaml.safe_load(file.read_text())
        assert recipe["training"]["batch_size"] == 4
        assert (recipe["objective"]["rates"]["projection"], recipe["objective"]["rates"]["mapping"]) == (1e-5, 1e-4)

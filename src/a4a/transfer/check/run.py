"""The command `a4a check`: four steps, of which the first that finds something else than expected ends the check."""

import shutil
from pathlib import Path
from typing import Any

from a4a.errors import InputError
from a4a.evaluation.validation import Validator
from a4a.training.distributed import state
from a4a.transfer.check.config import CheckConfig
from a4a.transfer.check.cost import compare_cost
from a4a.transfer.check.load import load_everything
from a4a.transfer.check.overfit import overfit
from a4a.transfer.check.published import draw_published
from a4a.transfer.check.report import REPORT, Report
from a4a.transfer.check.setup import CheckSetup
from a4a.transfer.config import TransferSettings
from a4a.transfer.run import transfer
from a4a.utils.arguments import parse_arguments, read_recipe
from a4a.utils.settings import merged

SECTION = "check"
"""The section of a recipe with the fields of `CheckConfig`; `a4a transfer` does not read it."""


def check(
    recipe: Path,
    output: Path | None = None,
    subjects: int | None = None,
    steps: int | None = None,
    changes: dict | None = None,
) -> None:
    """Try a recipe out: load all it names, draw with published adapters, overfit a few samples, compare cost and plan.

    Stops at the first thing that is not as expected, and says what to look at. check.json in the output folder has
    all that was found; beside it are the images of every step.

    Args:
        recipe: YAML file of a4a transfer, with a section check.
        output: Folder for check.json and images; OUTPUT/check of the recipe by default. An earlier check in it is
            replaced.
        subjects: Held-out subjects that published adapters draw; those of the recipe by default.
        steps: Optimizer steps that overfit a few samples; those of the recipe by default.
        changes: Options of a4a transfer that come on top of the recipe.
    """
    setup = _setup(recipe, output, {"subjects": subjects, "steps": steps}, changes or {})
    config = setup.config
    _empty_folder(setup.folder)
    report = Report(setup.folder, steps=4)
    report.step("load everything that the recipe names", load_everything(setup))
    drawn = min(config.subjects, len(setup.evaluation.task.subjects))
    report.step(f"published adapters draw {drawn} held-out subjects", draw_published(setup))
    measured = report.step(f"overfit {config.overfit} samples in {config.steps} steps", overfit(setup))
    report.step("cost of the whole run, against a4a plan", compare_cost(setup, measured))
    report.finish()


def _setup(recipe: Path, output: Path | None, options: dict[str, Any], changes: dict[str, Any]) -> CheckSetup:
    """The recipe and what the check expects of it; InputError where either is wrong, before anything is loaded."""
    content = merged(read_recipe(recipe), changes)
    section = content.pop(SECTION, None)
    if not isinstance(section, dict):
        raise InputError(
            f"The recipe {recipe} has no section {SECTION}, which says what to expect; "
            "add one as in recipes/identity-to-sdxl.yaml."
        )
    section = section | {name: value for name, value in options.items() if value is not None}
    config = read_section(section)
    built = parse_arguments(transfer, content).build()
    settings = TransferSettings(**{name: built[name] for name in TransferSettings.__dataclass_fields__})
    _check_supported(recipe, settings, built["evaluation"])
    folder = Path(output) if output is not None else Path(built["output"]) / "check"
    cache = Path(built["cache"] or Path(built["output"]) / "cache")
    return CheckSetup(settings, built["data"], built["evaluation"], config, folder, cache)


def read_section(section: dict[str, Any]) -> CheckConfig:
    """The section of a recipe, typed; InputError where a setting is wrong or missing."""
    return parse_arguments(_expects, {SECTION: section}).build()[SECTION]


def _expects(check: CheckConfig) -> None:
    """The section as arguments of a function, as `parse_arguments` reads them."""


def _check_supported(recipe: Path, settings: TransferSettings, evaluation: Validator | None) -> None:
    if evaluation is None or not evaluation.metrics:
        raise InputError(f"The recipe {recipe} has no evaluation with metrics, by which a check could score; add one.")
    if settings.precision.shard:
        raise InputError(
            "precision.shard is set, so no process has the whole denoiser to draw with; "
            "check with --precision.shard false and a smaller batch, on a GPU that holds the denoiser."
        )
    if state().num_processes > 1:
        raise InputError("a4a check runs in one process; start it without torchrun or accelerate launch.")


def _empty_folder(folder: Path) -> None:
    """Removes an earlier check; InputError where the folder holds anything else."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / REPORT).is_file():
            raise InputError(f"{folder} holds something else than a check; choose another output folder.")
        shutil.rmtree(folder)

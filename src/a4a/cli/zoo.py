"""`a4a zoo build`, `a4a zoo list`, `a4a zoo show`."""

from pathlib import Path

from PIL import Image

from a4a.backbones import load_pipeline
from a4a.errors import InputError
from a4a.utils.files import atomic_write
from a4a.utils.images import grid
from a4a.zoo.build import build as build_stages
from a4a.zoo.build import read_recipe
from a4a.zoo.evaluation import WorldValidator
from a4a.zoo.registry import MODELS, RECIPE, figures


def build(
    stages: list[str] | None = None, recipe: Path = RECIPE, models: Path = MODELS, runs: Path = Path("runs/zoo")
) -> None:
    """Make the zoo again from nothing, a stage at a time; what is finished is left alone, what was stopped goes on.

    Args:
        stages: Stages to make; all of the recipe by default. Remove a model's folder to make it anew.
        recipe: YAML file, a stage a key.
        models: Folder for the finished models.
        runs: Folder for unfinished runs and cached encodings.
    """
    build_stages(read_recipe(recipe), Path(models), Path(runs), stages)


def list_(models: Path = MODELS) -> None:
    """List the models that are there, with the figures they were shipped with.

    Args:
        models: The zoo's folder.
    """
    if not Path(models).is_dir():
        raise InputError(f"There is no folder {models}; give the zoo's own, which `a4a zoo build` makes.")
    for folder in sorted(p for p in Path(models).iterdir() if (p / "figures.json").is_file()):
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6
        print(f"{folder.name:24} {size:6.1f} MB  {_line(figures(folder.name, Path(models)))}")


def _line(values: dict) -> str:
    shown = [
        f"{name} {value['mean']:.2f}" if isinstance(value, dict) else f"{name} {value:.3g}"
        for name, value in values.items()
    ]
    return ", ".join(shown)


def show(model: str, output: Path = Path("zoo.png"), count: int = 24, models: Path = MODELS) -> None:
    """Draw samples of a text-to-image model of the zoo, from prompts alone.

    Args:
        model: sd15-mini, sdxl-mini or pixart-mini.
        output: PNG file.
        count: Pictures.
        models: The zoo's folder.
    """
    if count < 1:
        raise InputError(f"--count is {count}; give at least 1.")
    figures(model, Path(models))
    ask = WorldValidator("test", count, models=Path(models))
    pictures = ask.generate(load_pipeline(Path(models) / model), None, None)
    with atomic_write(Path(output)) as beside:
        grid(_in_rows(pictures, 8)).save(beside, format="PNG")
    print(f"{count} samples of {model} are in {output}, eight a row:")
    print("\n".join(ask.task.prompts))


def _in_rows(pictures: list[Image.Image], length: int) -> list[list[Image.Image]]:
    """Rows of so many pictures; several rows end in white ones where pictures are missing."""
    if len(pictures) > length:
        pictures = pictures + [Image.new("RGB", pictures[0].size, "white")] * (-len(pictures) % length)
    return [pictures[i : i + length] for i in range(0, len(pictures), length)]

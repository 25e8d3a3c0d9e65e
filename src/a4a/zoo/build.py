"""`a4a zoo build`: make every model of the zoo from nothing, a stage at a time.

`recipe.yaml` beside this file has a key for each stage; a stage leaves one folder of models. A stage whose folder
exists is not run again, and a stage that was stopped goes on from its last checkpoint.
"""

import filecmp
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from a4a.errors import InputError, first_line
from a4a.utils.files import atomic_write
from a4a.zoo.adapters import build_adapter
from a4a.zoo.autoencoder import build_vae
from a4a.zoo.clip import build_clip
from a4a.zoo.context import BuildContext
from a4a.zoo.denoisers import build_pixart_mini, build_sd3_mini, build_sd15_mini, build_sdxl_mini
from a4a.zoo.evaluation import build_ceiling
from a4a.zoo.scorers import build_identity_encoder, build_scene_classifier
from a4a.zoo.t5 import build_t5

STAGES: dict[str, Callable[..., None]] = {
    "vae": build_vae,
    "clip-small": build_clip,
    "clip-medium": build_clip,
    "clip-large": build_clip,
    "t5": build_t5,
    "t5-wide": build_t5,
    "identity": build_identity_encoder,
    "scene": build_scene_classifier,
    "ceiling": build_ceiling,
    "sd15-mini": build_sd15_mini,
    "pixart-mini": build_pixart_mini,
    "sdxl-mini": build_sdxl_mini,
    "sd3-mini": build_sd3_mini,
}
"""Stages by name, each called with the context, its name, the folder for its models, and the fields of its recipe.
All other stages are adapters."""


def read_recipe(path: Path) -> dict[str, dict[str, Any]]:
    """The stages of a zoo recipe by name; InputError where it cannot be read."""
    try:
        return yaml.safe_load(Path(path).read_text())
    except FileNotFoundError as error:
        raise InputError(f"There is no recipe {path}; give a YAML file with a stage a key.") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML ({first_line(error)}).") from error


def build(
    recipe: dict[str, dict[str, Any]], models: Path, runs: Path, stages: list[str] | None = None, **test: int
) -> None:
    """Run the stages that are not finished, in the order of the recipe.

    Args:
        recipe: the fields of each stage, by its name.
        models: folder for the finished models.
        runs: folder for unfinished runs and cached encodings.
        stages: names of the stages to run; all by default.
        test: how much models are measured on: `subjects`, `generations`, `validation` of `BuildContext`.
    """
    context = BuildContext(models, runs, **test)
    for name in stages or recipe:
        if name not in recipe:
            raise InputError(f"The zoo's recipe has no stage {name}; choose from {', '.join(recipe)}.")
        if (models / name).exists():
            continue
        torch.manual_seed(0)
        with atomic_write(models / name) as target:
            target.mkdir(parents=True)
            STAGES.get(name, build_adapter)(context, name, target, **recipe[name])
            _load_in_float32(target)
            _link_duplicates(target, models)


def _load_in_float32(folder: Path) -> None:
    """Let transformers load the half-precision weights of a folder as float32, as diffusers loads its own models.

    A pipeline that diffusers loads without `dtype` would otherwise mix a float16 text encoder with a float32 denoiser.
    """
    for config in folder.rglob("config.json"):
        config.write_text(config.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))


def _link_duplicates(target: Path, models: Path) -> None:
    """Replace weights that an earlier stage has, too, by a relative link to them.

    The denoisers' pipelines contain the VAE and text encoders of other stages; every loader follows links, and a wheel
    contains what they point to.
    """
    others = [f for f in sorted(models.glob("*/**/*.safetensors")) if not f.is_symlink() and target not in f.parents]
    for file in target.rglob("*.safetensors"):
        same = next((other for other in others if filecmp.cmp(file, other, shallow=False)), None)
        if same is not None:
            file.unlink()
            file.symlink_to(os.path.relpath(same, file.parent))

"""`a4a zoo build`, `a4a zoo list`, `a4a zoo show`."""

from pathlib import Path
from typing import Any

from PIL import Image

from a4a.backbones import load_pipeline
from a4a.errors import InputError
from a4a.utils.files import atomic_write
from a4a.utils.images import grid
from a4a.zoo.build import build as build_stages
from a4a.zoo.build import read_recipe
from a4a.zoo.evaluation import WorldValidator
from a4a.zoo.registry import MODELS, RECIPE, figures

ADAPTER_SCORES = ("identity", "retrieval", "clip_image")
PROMPT_SCORES = ("scene", "place", "size")
DESCRIPTIONS = {
    "sd15-mini": ("text-to-image, U-Net like SD1.5's: the base model", PROMPT_SCORES),
    "sdxl-mini": ("text-to-image, U-Net like SDXL's: an upgraded model", PROMPT_SCORES),
    "pixart-mini": ("text-to-image, transformer like PixArt's: an upgraded model", PROMPT_SCORES),
    "sd3-mini": ("text-to-image, transformer like SD3.5's: an upgraded model", PROMPT_SCORES),
    "ip-adapter-plus-sd15-mini": ("IP-Adapter Plus for sd15-mini: the source adapter (PTA)", ADAPTER_SCORES),
    "ip-adapter-plus-sdxl-mini": ("IP-Adapter Plus for sdxl-mini, from scratch (PTA-UM)", ADAPTER_SCORES),
    "ip-adapter-plus-pixart-mini": ("IP-Adapter Plus for pixart-mini, from scratch (IP-Adapter*)", ADAPTER_SCORES),
    "a4a-plus-sdxl-mini": ("A4A: the Plus adapter transferred to sdxl-mini", ADAPTER_SCORES),
    "a4a-plus-pixart-mini": ("A4A: the Plus adapter transferred to pixart-mini", ADAPTER_SCORES),
    "ip-adapter-sd15-mini": ("IP-Adapter (base family) for sd15-mini", ADAPTER_SCORES),
    "clip-large/image_encoder": ("image encoder of the adapters and models above", ()),
    "clip-large": ("CLIP, of which the image encoder is the vision half", ("caption_of_256_found",)),
    "clip-medium": ("CLIP, whose text encoder is sdxl-mini's second", ("caption_of_256_found",)),
    "clip-small": ("CLIP, whose text encoder is sd15-mini's, and sdxl-mini's first", ("caption_of_256_found",)),
    "t5": ("text encoder of pixart-mini", ()),
    "t5-wide": ("text encoder of sd3-mini, its third", ()),
    "vae": ("autoencoder of all text-to-image models", ("psnr_held_out",)),
    "identity": ("tells creatures apart: the identity score", ("found_of_100",)),
    "scene": ("reads scene, place and size: the prompt score", PROMPT_SCORES),
    "ceiling": ("no model: the scores of a fresh drawing of the subject", ADAPTER_SCORES),
}
"""What each model is, in the order of the list, and the figures that tell how good it is."""


def build(
    stages: list[str] | None = None, recipe: Path = RECIPE, models: Path = MODELS, runs: Path = Path("runs/zoo")
) -> None:
    """Train the miniature models from nothing, a stage at a time.

    A finished stage is left alone; one that was stopped goes on from its checkpoint.

    Args:
        stages: Stages to make; all of the recipe by default. Remove a model's folder to make it anew.
        recipe: YAML file, a stage a key.
        models: Folder for the finished models.
        runs: Folder for unfinished runs and cached encodings.
    """
    build_stages(read_recipe(recipe), Path(models), Path(runs), stages)
    print(f"The models are in {models}.\nNext: a4a zoo list --models {models}")


def list_(models: Path = MODELS) -> None:
    """List the miniature models, what each is, and the figures it was shipped with.

    Args:
        models: The zoo's folder.
    """
    models = Path(models)
    if not models.is_dir():
        raise InputError(f"There is no folder {models}; give the zoo's own, which `a4a zoo build` makes.")
    own = sorted(p.name for p in models.iterdir() if p.name not in DESCRIPTIONS and (p / "figures.json").is_file())
    names = [name for name in DESCRIPTIONS if (models / name).is_dir()] + own
    prefix = "zoo:" if models == MODELS else f"{models}/"
    rows = [(name if name == "ceiling" else f"{prefix}{name}", *_row(models, name)) for name in names]
    widths = [max(len(row[i]) for row in rows) for i in range(3)] if rows else [0, 0, 0]
    for name, what, size, scores in rows:
        print(f"{name:{widths[0]}}  {what:{widths[1]}}  {size:>{widths[2]}}  {scores}".rstrip())
    print(
        "Figures are of held-out subjects.\n"
        f"Next: a4a zoo show pixart-mini, or a4a generate --adapter {prefix}a4a-plus-pixart-mini "
        f'--model {prefix}pixart-mini --image photo.png --prompt "a small creature in the snow" --output pictures'
    )


def _row(models: Path, name: str) -> tuple[str, str, str]:
    """What a model is, its size on disk, and its scores."""
    what, score_names = DESCRIPTIONS.get(name, ("", ()))
    size = sum(file.stat().st_size for file in (models / name).rglob("*") if file.is_file())
    known: dict[str, Any] = figures(name, models) if (models / name / "figures.json").is_file() else {}
    scores = [f"{score} {_mean(known[score]):.2f}" for score in score_names if score in known]
    return what, f"{size / 1e6:.1f} MB", ", ".join(scores)


def _mean(figure: Any) -> float:
    return figure["mean"] if isinstance(figure, dict) else figure


def show(model: str, output: Path = Path("zoo.png"), count: int = 24, models: Path = MODELS) -> None:
    """Draw samples of a miniature text-to-image model, from prompts alone.

    Args:
        model: sd15-mini, sdxl-mini, pixart-mini or sd3-mini.
        output: PNG file.
        count: Images.
        models: The zoo's folder.
    """
    if count < 1:
        raise InputError(f"--count is {count}; give at least 1.")
    model = model.removeprefix("zoo:")
    figures(model, Path(models))
    validator = WorldValidator("test", count, models=Path(models))
    images = validator.generate(load_pipeline(Path(models) / model), None, None)
    with atomic_write(Path(output)) as file:
        grid(_in_rows(images, 8)).save(file, format="PNG")
    print("\n".join(validator.task.prompts))
    print(f"{count} samples of {model} for these prompts are in {output}, eight a row.")


def _in_rows(images: list[Image.Image], length: int) -> list[list[Image.Image]]:
    """Rows of `length` images; several rows end in white images where some are missing."""
    if len(images) > length:
        images = images + [Image.new("RGB", images[0].size, "white")] * (-len(images) % length)
    return [images[i : i + length] for i in range(0, len(images), length)]

"""`a4a generate`: images from prompts and reference images."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import make_image_grid
from PIL import Image, ImageOps

from a4a.adapters.loading import encoder_of, load_adapter
from a4a.adapters.multi_source import choose_source
from a4a.backbones import load_pipeline
from a4a.errors import InputError
from a4a.pipeline import Course, ImagePrompt, ImagePromptPipeline
from a4a.pipeline.references import load_mask
from a4a.utils.files import atomic_write
from a4a.utils.images import grid, open_image
from a4a.utils.modules import default_device


def generate(
    adapter: str,
    model: str,
    image: list[Path],
    prompt: list[str],
    output: Path,
    image_encoder: str | None = None,
    scale: float = 1.0,
    seed: int = 0,
    count: int = 1,
    steps: int | None = None,
    guidance: float | None = None,
    height: int | None = None,
    width: int | None = None,
    source: str | None = None,
    combine: str | None = None,
    weights: list[float] | None = None,
    mask: list[Path] | None = None,
    negative_image: Path | None = None,
    weight_type: str = "linear",
    start: float = 0.0,
    end: float = 1.0,
) -> None:
    """Draw every prompt with every reference image: PNG files and a grid.

    With `combine` or `mask`, all reference images are for one picture. A safety checker that the model comes with (SD1.5) stays on: images that it takes for unsafe are black, and counted.

    Args:
        adapter: Adapter folder, published IP-Adapter file, hub name, or zoo:NAME.
        model: The diffusers pipeline that the adapter is for: folder, hub name, or zoo:NAME.
        image: Reference images.
        prompt: Prompts.
        output: Folder for the images; files of the same names are replaced.
        image_encoder: CLIP vision model of the adapter; by default the one that the adapter names.
        scale: Weight of the image prompt; 0 is the plain model.
        seed: Seed of the first image of each prompt; the next ones count up.
        count: Images per reference and prompt.
        steps: Denoising steps; the pipeline's own default if not given.
        guidance: Classifier-free guidance scale; the pipeline's own default if not given.
        height: In pixels, a multiple of 8; the model's own if not given.
        width: In pixels, a multiple of 8; the model's own if not given.
        source: Which of its sources the adapter is used with, by the name in its recipe, where it has several.
        combine: How all reference images act as one: concat, average, norm average, add, subtract.
        weights: Of the reference images that are combined.
        mask: Where in the picture each reference image acts, white there: one mask for each, in their order.
        negative_image: What the pictures should not show.
        weight_type: How the scale is spread over the sites, by the names of ComfyUI's IP-Adapter nodes.
        start: Fraction of the steps after which the image prompt begins to act.
        end: Fraction of the steps after which it acts no longer.
    """
    if not image or not prompt:
        raise InputError("There is nothing to draw: give at least one --image and one --prompt.")
    _check_numbers(count=count, steps=steps, height=height, width=width)
    how = {"negative": negative_image and open_image(negative_image), "weight_type": weight_type}
    how["course"] = Course(start, end)
    references = _references(image, combine, weights, mask, how)
    pipe = load(adapter, model, image_encoder, source)
    options = {"num_inference_steps": steps, "height": height, "width": width} | pipe.backbone.image_options()
    if guidance is not None:
        options |= pipe.backbone.guidance_options(guidance, count)
    options = {name: value for name, value in options.items() if value is not None}
    seeds = range(seed, seed + count)
    rows, records = [], []
    with atomic_write(output / "grid.png") as grid_file:
        output.mkdir(parents=True, exist_ok=True)
        grid_file.touch()  # fails here, and not after the work, where the folder cannot be written
        for r, (shown, reference, names) in enumerate(references):
            rows.append([shown])
            for p, text in enumerate(prompt):
                images, blackened = _draw(pipe, reference, text, seeds, scale, options)
                rows[-1] += images
                for drawn, black, used in zip(images, blackened, seeds, strict=True):
                    name = f"reference{r:02d}-prompt{p:02d}-seed{used}.png"
                    with atomic_write(output / name) as file:
                        drawn.save(file, format="PNG")
                    record = {"file": name, "reference": names, "prompt": text, "seed": used}
                    records.append({**record, "blackened": True} if black else record)
        grid(rows).save(grid_file, format="PNG")
    with atomic_write(output / "images.json") as file:
        facts = {"adapter": adapter, "model": model, "scale": scale, "images": records}
        file.write_text(json.dumps(facts, indent=1))
    if blackened := sum("blackened" in record for record in records):
        print(f"{blackened} of the images are black: the model's safety checker took them for unsafe.")
    print(
        f"{len(records)} images and grid.png are in {output}; images.json tells the prompt and seed of each.\n"
        f"Other images: --seed {seed + count}; closer to the prompt: a --scale smaller than {scale:g}."
    )


def _references(
    image: list[Path],
    combine: str | None,
    weights: list[float] | None,
    mask: list[Path] | None,
    how: dict[str, Any],
) -> list[tuple[Image.Image, list[ImagePrompt], str]]:
    """For each row of the grid: the image in its first column, what the pictures are drawn with, and its name."""
    if mask and (combine or len(mask) != len(image)):
        told = f"there are {len(mask)} --mask for {len(image)} --image" if not combine else "--combine is given, too"
        raise InputError(f"--mask takes one mask for each reference image and no --combine, but {told}.")
    if weights and not combine:
        raise InputError("--weights are those of reference images that act as one; give --combine, too.")
    images, names = [open_image(path) for path in image], ", ".join(map(str, image))
    side_by_side = make_image_grid([ImageOps.fit(one, images[0].size) for one in images], 1, len(images))
    shown = ImageOps.pad(side_by_side, images[0].size, color="white")
    if mask:
        return [
            (shown, [ImagePrompt(one, mask=load_mask(m), **how) for one, m in zip(images, mask, strict=True)], names)
        ]
    if combine:
        return [(shown, [ImagePrompt(images, combine=combine, weights=weights or 1.0, **how)], names)]
    return [(one, [ImagePrompt(one, **how)], str(path)) for one, path in zip(images, image, strict=True)]


def _draw(
    pipe: ImagePromptPipeline,
    reference: list[ImagePrompt],
    prompt: str,
    seeds: range,
    scale: float,
    options: dict[str, Any],
) -> tuple[list[Image.Image], list[bool]]:
    """Images of one prompt, and which of them a safety checker replaced by black."""
    noise = [torch.Generator().manual_seed(seed) for seed in seeds]
    given = {"image_prompt": [reference], "image_prompt_scale": scale, "generator": noise}
    result = pipe(prompt=[prompt] * len(seeds), **given, **options)
    blackened = getattr(result, "nsfw_content_detected", None) or [False] * len(seeds)
    return pipe.backbone.drawn_images(result), blackened


def load(adapter: str, model: str, image_encoder: str | None = None, source: str | None = None) -> ImagePromptPipeline:
    """A model with an adapter and its image encoder, on the GPU in half precision if there is one."""
    loaded = choose_source(load_adapter(adapter), source)
    encoder = encoder_of(loaded, adapter, image_encoder)
    device = default_device()
    pipe: Any = load_pipeline(model, dtype=torch.float16 if device.type == "cuda" else torch.float32)
    encoder.to(device)
    return ImagePromptPipeline(pipe.to(device), loaded, encoder)


def _check_numbers(**numbers: int | None) -> None:
    for name, number in numbers.items():
        unit = 8 if name in ("height", "width") else 1
        if number is not None and (number < unit or number % unit):
            raise InputError(f"--{name} is {number}; give {'at least 1' if unit == 1 else 'a multiple of 8 pixels'}.")

"""`a4a generate`: pictures from prompts and a reference."""

import json
from pathlib import Path

import torch

from a4a.adapters.loading import encoder_of, load_adapter
from a4a.backbones import load_pipeline
from a4a.errors import InputError
from a4a.pipeline import ImagePromptPipeline
from a4a.utils.files import atomic_write
from a4a.utils.images import grid, open_image


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
) -> None:
    """Draw every prompt with every reference picture: PNG files and a grid.

    Args:
        adapter: Adapter folder, published IP-Adapter file, hub name, or zoo:NAME.
        model: The diffusers pipeline that the adapter is for: folder, hub name, or zoo:NAME.
        image: Reference pictures.
        prompt: Prompts.
        output: Folder for the pictures; files of the same names are replaced.
        image_encoder: CLIP vision model of the adapter; by default the one that the adapter names.
        scale: Weight of the image prompt; 0 is the plain model.
        seed: Of the first picture of each prompt; the next ones count up.
        count: Pictures per reference and prompt.
        steps: Denoising steps; the pipeline's own default if not given.
        guidance: Classifier-free guidance scale; the pipeline's own default if not given.
        height: In pixels, a multiple of 8; the model's own if not given.
        width: In pixels, a multiple of 8; the model's own if not given.
    """
    if not image or not prompt:
        raise InputError("There is nothing to draw: give at least one --image and one --prompt.")
    _check_numbers(count, steps, height, width)
    references = [open_image(path) for path in image]
    loaded = load_adapter(adapter)
    clip = encoder_of(loaded, adapter, image_encoder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipe = load_pipeline(model, dtype=torch.float16 if device == "cuda" else torch.float32).to(device)
    clip.to(device)
    prompted = ImagePromptPipeline(pipe, loaded, clip)
    size = {"height": height, "width": width}
    optional = {"num_inference_steps": steps, "guidance_scale": guidance, **size}
    arguments = {name: value for name, value in optional.items() if value is not None}
    rows, files = [], []
    with atomic_write(Path(output) / "grid.png") as beside:  # fails before the work where the folder cannot be written
        Path(output).mkdir(parents=True, exist_ok=True)
        beside.touch()
        for r, reference in enumerate(references):
            row = [reference]
            for p, text in enumerate(prompt):
                noise = [torch.Generator().manual_seed(seed + i) for i in range(count)]
                pictures = prompted(
                    [text] * count, image_prompt=reference, image_prompt_scale=scale, generator=noise, **arguments
                ).images
                for i, picture in enumerate(pictures):
                    file = Path(output) / f"reference{r:02d}-prompt{p:02d}-seed{seed + i}.png"
                    with atomic_write(file) as own:
                        picture.save(own, format="PNG")
                    files.append(
                        {
                            "file": file.name,
                            "reference": str(image[r]),
                            "prompt": text,
                            "seed": seed + i,
                            "scale": scale,
                        }
                    )
                    row.append(picture)
            rows.append(row)
        grid(rows).save(beside, format="PNG")
    with atomic_write(Path(output) / "pictures.json") as own:
        own.write_text(json.dumps({"adapter": adapter, "model": model, "pictures": files}, indent=1))
    print(f"{len(files)} pictures and grid.png are in {output}")


def _check_numbers(count: int, steps: int | None, height: int | None, width: int | None) -> None:
    for name, number, unit in (("count", count, 1), ("steps", steps, 1), ("height", height, 8), ("width", width, 8)):
        if number is not None and (number < unit or number % unit):
            raise InputError(f"--{name} is {number}; give {'at least 1' if unit == 1 else 'a multiple of 8 pixels'}.")

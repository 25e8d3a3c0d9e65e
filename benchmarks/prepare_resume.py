"""`a4a prepare`, killed again and again, gives what an undisturbed run gives.

    python benchmarks/prepare_resume.py FOLDER

Draws a folder of images with every kind of defect and prepares it undisturbed, then again into another folder while
SIGKILL comes at random moments. Prints as JSON whether the rows are the same, and what was done twice.
"""

import io
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli
from PIL import Image


def random_image(seed: int, width: int = 64, height: int = 64) -> Image.Image:
    """Large random blocks, other ones for every seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)


def draw_images(folder: Path, count: int) -> dict[str, str]:
    """Writes `count` files, every second one with a defect.

    Returns, by file name, the beginning of what the report must say; empty for images without a defect.
    """
    folder.mkdir(parents=True)
    expected = {}
    for i in range(count):
        kind = DEFECTS[i // 2 % len(DEFECTS)] if i % 2 else None
        image = random_image(i, 48 + i % 3 * 24, 48 + i % 5 * 12)
        name, data, reason = kind(i, image, folder) if kind else (f"{i:05d}.png", encoded(image, "PNG"), "")
        (folder / name).write_bytes(data)
        expected[name] = reason
    return expected


def encoded(image: Image.Image, form: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def _exif(turn: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = turn
    return exif


def _sixteen_bits(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


DEFECTS = (
    lambda i, image, _: (f"{i:05d}.png", encoded(image, "PNG")[:90], "broken"),
    lambda i, image, _: (f"{i:05d}.jpg", b"no image at all", "broken"),
    lambda i, image, _: (f"{i:05d}.webp", b"", "broken"),
    lambda i, image, _: (f"{i:05d}.png", encoded(image.resize((20, 60)), "PNG"), "tiny"),
    lambda i, image, folder: (f"{i:05d}.jpg", encoded(random_image(i - 1, 96, 96), "JPEG", quality=95), "duplicate"),
    lambda i, image, _: (
        f"{i:05d}.gif",
        encoded(image, "GIF", save_all=True, append_images=[random_image(i + 10**6)]),
        "animated",
    ),
    lambda i, image, _: (f"{i:05d}.jpg", encoded(image.convert("CMYK"), "JPEG", quality=95), "CMYK"),
    lambda i, image, _: (f"{i:05d}.png", encoded(_sixteen_bits(image), "PNG"), "16 bits"),
    lambda i, image, _: (f"{i:05d}.jpg", encoded(image, "JPEG", quality=95, exif=_exif(6)), "turned"),
    lambda i, image, _: (
        f"{i:05d}.png",
        encoded(Image.merge("RGBA", (*image.split(), image.getchannel(0))), "PNG"),
        "transparent",
    ),
    lambda i, image, _: (f"{i:05d}.png", encoded(image.convert("P"), "PNG"), ""),
)


def run_and_kill(arguments: list[str], after: float | None) -> tuple[bool, float]:
    """Runs `a4a prepare` in a process of its own and kills it after so many seconds (None: never).

    Returns whether it was killed, and the seconds that it ran.
    """
    from a4a.cli.main import main

    began = time.perf_counter()
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(main(["prepare", *arguments]))
    if after is not None:
        while time.perf_counter() - began < after and not os.waitid(
            os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT
        ):
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status) and status:
        sys.exit("a4a prepare failed")
    return os.WIFSIGNALED(status), time.perf_counter() - began


def finished_parts(output: Path) -> dict[str, int]:
    """The results of chunks, and when each was written."""
    paths = [
        p
        for step in ("checked", "captions", "kept/validation", "kept/test", "shards")
        for p in (output / step).glob("*")
        if not p.name.startswith(".")
    ]
    return {str(p.relative_to(output)): p.stat().st_mtime_ns for p in paths}


def contents(output: Path) -> dict[str, bytes]:
    names = ("*/*.json", "kept/*/*.json", "images/*/*/*", "shards/*/*", "report.jsonl", "no_text.safetensors")
    return {
        str(p.relative_to(output)): p.read_bytes() for pattern in names for p in output.glob(pattern) if p.is_file()
    }


def main(
    folder: Path,
    count: int = 2000,
    kills: int = 5,
    model: str = "zoo:pixart-mini",
    image_encoder: str = "zoo:clip-large/image_encoder",
    seed: int = 0,
) -> None:
    """Args:
    folder: empty.
    count: images to draw.
    kills: how often the run is killed.
    model: whose VAE and text encoders encode.
    image_encoder: CLIP vision model.
    seed: of the moments of the kills.
    """
    import torch

    import a4a.data.prepare.run  # noqa: F401 (here, since every child would spend seconds on it, and time its kill by them)

    torch.set_num_threads(1)
    folder = Path(folder)
    draw_images(folder / "images", count)
    options = [
        "--source",
        "ImageFolder",
        "--source.init_args.path",
        str(folder / "images"),
        "--check.minimum",
        "32",
        "--crop.size",
        "16",
    ]
    options += [
        "--encode.model",
        model,
        "--encode.image_encoders",
        json.dumps({"clip": image_encoder}),
        "--chunk",
        str(max(count // 20, 1)),
    ]
    _, undisturbed = run_and_kill([*options, "--output", str(folder / "undisturbed")], None)
    rng = random.Random(seed)
    hits, done_twice, moments = 0, [], []
    before: dict[str, int] = {}
    output = folder / "killed"
    for _ in range(kills):
        hit, seconds = run_and_kill(
            [*options, "--output", str(output)], rng.uniform(0.15 * undisturbed, 0.4 * undisturbed)
        )
        hits, now = hits + hit, finished_parts(output)
        done_twice += [name for name, made in before.items() if now.get(name) != made]
        before = now
        moments.append([round(seconds, 2), len(now)])
    run_and_kill([*options, "--output", str(output)], None)
    done_twice += [name for name, made in before.items() if finished_parts(output).get(name) != made]
    rows = json.loads((output / "manifest.json").read_text())["counts"]
    same = contents(folder / "undisturbed") == contents(output)
    result = {"same": same, "hits": hits, "done_twice": done_twice, "counts": rows}
    print(json.dumps({**result, "seconds": undisturbed, "kills": moments}))


if __name__ == "__main__":
    auto_cli(main, as_positional=True)

"""`a4a prepare` killed again and again, held against a run that was left alone: `python benchmarks/prepare_resume.py FOLDER`.

Draws a folder of pictures with every kind of defect, prepares it with nothing in the way, then into another folder while
SIGKILL comes at random moments, and says in JSON whether the rows are the same and what was done twice.
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


def picture(seed: int, width: int = 64, height: int = 64) -> Image.Image:
    """Large random blocks, distinct for every seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)


def draw(folder: Path, count: int) -> dict[str, str]:
    """So many files, a defect in every second one; by name, the beginning of what the report must say, empty for what is fine."""
    folder.mkdir(parents=True)
    expected = {}
    for i in range(count):
        kind = DEFECTS[i // 2 % len(DEFECTS)] if i % 2 else None
        image = picture(i, 48 + i % 3 * 24, 48 + i % 5 * 12)
        name, data, said = kind(i, image, folder) if kind else (f"{i:05d}.png", saved(image, "PNG"), "")
        (folder / name).write_bytes(data)
        expected[name] = said
    return expected


def saved(image: Image.Image, form: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def _exif(turn: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = turn
    return exif


def _sixteen(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


DEFECTS = (
    lambda i, image, _: (f"{i:05d}.png", saved(image, "PNG")[:90], "broken"),
    lambda i, image, _: (f"{i:05d}.jpg", b"no picture at all", "broken"),
    lambda i, image, _: (f"{i:05d}.webp", b"", "broken"),
    lambda i, image, _: (f"{i:05d}.png", saved(image.resize((20, 60)), "PNG"), "tiny"),
    lambda i, image, folder: (f"{i:05d}.jpg", saved(picture(i - 1, 96, 96), "JPEG", quality=95), "duplicate"),
    lambda i, image, _: (
        f"{i:05d}.gif",
        saved(image, "GIF", save_all=True, append_images=[picture(i + 10**6)]),
        "animated",
    ),
    lambda i, image, _: (f"{i:05d}.jpg", saved(image.convert("CMYK"), "JPEG", quality=95), "CMYK"),
    lambda i, image, _: (f"{i:05d}.png", saved(_sixteen(image), "PNG"), "16 bits"),
    lambda i, image, _: (f"{i:05d}.jpg", saved(image, "JPEG", quality=95, exif=_exif(6)), "turned"),
    lambda i, image, _: (
        f"{i:05d}.png",
        saved(Image.merge("RGBA", (*image.split(), image.getchannel(0))), "PNG"),
        "transparent",
    ),
    lambda i, image, _: (f"{i:05d}.png", saved(image.convert("P"), "PNG"), ""),
)


def killed(arguments: list[str], after: float | None) -> tuple[bool, float]:
    """Runs `a4a prepare` in a process of its own and kills it after so many seconds; whether it was killed, and how long it ran."""
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


def finished(output: Path) -> dict[str, int]:
    """Results of chunks, and when each was made."""
    places = [
        p for step in ("checked", "captions", "shards") for p in (output / step).glob("*") if not p.name.startswith(".")
    ]
    return {str(p.relative_to(output)): p.stat().st_mtime_ns for p in places}


def contents(output: Path) -> dict[str, bytes]:
    names = ("*/*.json", "shards/*/*", "report.jsonl", "no_text.safetensors")
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
    folder: an empty one.
    count: pictures.
    kills: how often.
    model: whose VAE and text encoders encode.
    image_encoder: CLIP vision model.
    seed: of the moments.
    """
    import torch

    torch.set_num_threads(1)
    folder = Path(folder)
    draw(folder / "pictures", count)
    options = [
        "--source",
        "ImageFolder",
        "--source.init_args.path",
        str(folder / "pictures"),
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
    _, alone = killed([*options, "--output", str(folder / "alone")], None)
    chance = random.Random(seed)
    hits, twice, moments = 0, [], []
    before: dict[str, int] = {}
    output = folder / "killed"
    for _ in range(kills):
        hit, seconds = killed([*options, "--output", str(output)], chance.uniform(0.4 * alone, 0.75 * alone))
        hits, now = hits + hit, finished(output)
        twice += [name for name, made in before.items() if now.get(name) != made]
        before = now
        moments.append([round(seconds, 2), len(now)])
    killed([*options, "--output", str(output)], None)
    twice += [name for name, made in before.items() if finished(output).get(name) != made]
    rows = json.loads((output / "manifest.json").read_text())["counts"]
    same = contents(folder / "alone") == contents(output)
    print(json.dumps({"same": same, "hits": hits, "twice": twice, "counts": rows, "seconds": alone, "kills": moments}))


if __name__ == "__main__":
    auto_cli(main, as_positional=True)

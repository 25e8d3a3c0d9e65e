"""Which model made something, told without loading it."""

import hashlib
from pathlib import Path

from a4a.places import resolve

WEIGHTS = (".safetensors", ".bin", ".pth", ".onnx")


def origin(name: str | Path) -> str:
    """A hash of samples of a file or of a folder's weight files wherever they lie, without a pipeline's denoiser; a hub name as it is."""
    place = Path(resolve(name)).expanduser()
    if not place.exists():
        return str(name)
    folder, found = (place.parent, [place]) if place.is_file() else (place, sorted(f for f in place.rglob("*") if f.suffix in WEIGHTS))
    digest = hashlib.sha256()
    for file in found:
        place = file.relative_to(folder)
        if place.parts[0] in ("unet", "transformer"):
            continue
        size = file.stat().st_size
        digest.update(f"{place} {size}".encode())
        with file.open("rb") as stream:
            for start in range(0, size, max(size // 64, 4096)):
                stream.seek(start)
                digest.update(stream.read(4096))
    return digest.hexdigest()[:16]

"""Which model made something, told without loading it."""

import hashlib
from pathlib import Path

from torch import nn

from a4a.utils.hub import resolve_zoo
from a4a.utils.modules import DENOISER_PARTS

WEIGHTS = (".safetensors", ".bin", ".pth", ".onnx")


def file_fingerprint(name: str | Path) -> str:
    """A hash of samples of a file or of a folder's weight files wherever they lie, without a pipeline's denoiser; a hub name as it is."""
    place = Path(resolve_zoo(name)).expanduser()
    if not place.exists():
        return str(name)
    folder, found = (
        (place.parent, [place])
        if place.is_file()
        else (place, sorted(f for f in place.rglob("*") if f.suffix in WEIGHTS))
    )
    digest = hashlib.sha256()
    for file in found:
        place = file.relative_to(folder)
        if place.parts[0] in DENOISER_PARTS:
            continue
        size = file.stat().st_size
        digest.update(f"{place} {size}".encode())
        with file.open("rb") as stream:
            for start in range(0, size, max(size // 64, 4096)):
                stream.seek(start)
                digest.update(stream.read(4096))
    return digest.hexdigest()[:16]


def model_fingerprint(model: nn.Module) -> str:
    """A hash of a model's weights, from a thousand numbers of each: quick for billions of them."""
    digest = hashlib.sha256()
    for name, t in model.state_dict().items():
        flat = t.detach().flatten()
        sample = flat[:: max(len(flat) // 1000, 1)].float().cpu()
        digest.update(f"{name}{tuple(t.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()

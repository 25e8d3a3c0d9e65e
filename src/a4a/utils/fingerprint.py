"""Fingerprints: of model files, without loading them, and of the weights of a loaded model. They tell models apart."""

import hashlib
from pathlib import Path

from torch import nn

from a4a.utils.hub import resolve_zoo
from a4a.utils.modules import DENOISER_PARTS

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".onnx")
BLOCK, BLOCKS = 4096, 64
"""Bytes of a sample, and how many of them, evenly spaced, are read of a file."""


def file_fingerprint(name: str | Path) -> str:
    """Hash of a file, or of the weight files in a folder but a pipeline's denoiser, from samples of their bytes.

    It does not depend on where they are. A name on the hub, which is not looked up, is returned as it is.
    """
    path = Path(resolve_zoo(name)).expanduser()
    if not path.exists():
        return str(name)
    if path.is_file():
        folder, files = path.parent, [path]
    else:
        folder, files = path, sorted(f for f in path.rglob("*") if f.suffix in WEIGHT_SUFFIXES)
    digest = hashlib.sha256()
    for file in files:
        relative = file.relative_to(folder)
        if relative.parts[0] in DENOISER_PARTS:
            continue
        size = file.stat().st_size
        digest.update(f"{relative} {size}".encode())
        with file.open("rb") as stream:
            for start in range(0, size, max(size // BLOCKS, BLOCK)):
                stream.seek(start)
                digest.update(stream.read(BLOCK))
    return digest.hexdigest()[:16]


def model_fingerprint(model: nn.Module) -> str:
    """Hash of a loaded model's weights, from a thousand numbers of each tensor, so that large models take no time."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        flat = tensor.detach().flatten()
        sample = flat[:: max(len(flat) // 1000, 1)].float().cpu()
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()

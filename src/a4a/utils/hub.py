"""Names that stand for folders: `zoo:NAME` is a model that ships with the package."""

from pathlib import Path
from typing import Any

from a4a.errors import InputError

MODEL_WEIGHTS = "diffusion_pytorch_model*.safetensors"
"""The files of weights in a folder that diffusers saved a model into; several where it was split."""
ZOO = Path(__file__).parent.parent / "zoo" / "models"


def resolve_zoo(name: str | Path) -> str:
    """The folder of `zoo:NAME`; any other path or hub name as it is. InputError where the zoo has no such model."""
    name = str(name)
    if not name.startswith("zoo:"):
        return name
    path = ZOO / name.removeprefix("zoo:")
    if not path.exists():
        folders = sorted(p.name for p in ZOO.glob("[!.]*") if p.is_dir())
        raise InputError(f"The zoo has no {name.removeprefix('zoo:')}; it has {', '.join(folders) or 'nothing yet'}.")
    return str(path)


def is_local(path: str) -> bool:
    """Whether a path that does not exist was meant to be here, so that the hub need not be asked for it."""
    return path.startswith((".", "/", "~")) or ("/" in path and Path(path.partition("/")[0]).is_dir())


def resolve_model(name: str | Path, what: str) -> tuple[str, dict[str, Any]]:
    """The arguments of `from_pretrained` for a model: its name, and its subfolder where it has one.

    Args:
        name: `zoo:NAME`, a folder, `owner/repo` or `owner/repo/folder` on the hub.
        what: kind of model, for the error, such as `image encoder`.

    Raises InputError for any other name.
    """
    path = resolve_zoo(name)
    if Path(path).expanduser().is_dir():
        return str(Path(path).expanduser()), {}
    owner, _, rest = path.partition("/")
    repo, _, folder = rest.partition("/")
    if not owner or not repo or is_local(path):
        raise InputError(f"There is no {what} folder {name}; give one, or owner/repo or owner/repo/folder on the hub.")
    return f"{owner}/{repo}", {"subfolder": folder} if folder else {}

"""Names that stand for folders: `zoo:NAME` is a model that ships with the package."""

from pathlib import Path
from typing import Any

from a4a.errors import InputError

ZOO = Path(__file__).parent.parent / "zoo" / "models"


def resolve_zoo(name: str | Path) -> str:
    """A path or hub name as it is; InputError for `zoo:` and no model of that name."""
    name = str(name)
    if not name.startswith("zoo:"):
        return name
    place = ZOO / name.removeprefix("zoo:")
    if not place.exists():
        known = (
            ", ".join(sorted(p.name for p in ZOO.iterdir() if p.is_dir() and not p.name.startswith(".")))
            if ZOO.is_dir()
            else "nothing yet"
        )
        raise InputError(f"The zoo has no {name.removeprefix('zoo:')}; it has {known}.")
    return str(place)


def resolve_model(name: str | Path, what: str) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` takes for `zoo:NAME`, a folder, `owner/repo` or `owner/repo/folder`; InputError for anything else.

    Args:
        name: as the user wrote it.
        what: for the error, such as `image encoder`.
    """
    place = resolve_zoo(name)
    if Path(place).expanduser().is_dir():
        return str(Path(place).expanduser()), {}
    owner, _, rest = place.partition("/")
    repo, _, folder = rest.partition("/")
    if not owner or not repo or place.startswith((".", "~")):
        raise InputError(f"There is no {what} folder {name}; give one, or owner/repo or owner/repo/folder on the hub.")
    return f"{owner}/{repo}", {"subfolder": folder} if folder else {}

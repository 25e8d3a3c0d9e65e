"""Names that stand for folders: `zoo:NAME` is a model that ships with the package."""

from pathlib import Path

from a4a.errors import InputError

ZOO = Path(__file__).parent / "zoo" / "models"


def resolve(name: str | Path) -> str:
    """A path or hub name as it is; InputError for `zoo:` and no model of that name."""
    name = str(name)
    if not name.startswith("zoo:"):
        return name
    place = ZOO / name.removeprefix("zoo:")
    if not place.exists():
        known = ", ".join(sorted(p.name for p in ZOO.iterdir() if p.is_dir() and not p.name.startswith("."))) if ZOO.is_dir() else "nothing yet"
        raise InputError(f"The zoo has no {name.removeprefix('zoo:')}; it has {known}.")
    return str(place)

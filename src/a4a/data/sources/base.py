"""Where pictures come from: what lists them by name and opens one at a time. Paths may be URLs that fsspec knows."""

import posixpath
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from a4a.data.image_folder import SUFFIXES as IMAGE_SUFFIXES
from a4a.errors import InputError, first_line

SUFFIXES = (*IMAGE_SUFFIXES, ".gif")


@dataclass(frozen=True)
class ImageRecord:
    """A picture that is there, or should be."""

    id: str
    """The same for the same picture on every machine and in every run."""
    text: str | None = None
    subject: str | None = None
    """Whose pictures may be reference and target of each other."""
    group: str | None = None
    """What the split keeps together where that is more than the subject: the photo that crops are taken from."""
    box: tuple[float, float, float, float] | None = None
    """The part of the stored picture that is meant: left, top, right, bottom as fractions."""
    bytes: int | None = None
    """Of the file, where listing tells: another file under the same name is noticed."""


class Source(ABC):
    """Pictures by name."""

    @abstractmethod
    def items(self) -> list[ImageRecord]:
        """All of them, sorted by id; decodes nothing. InputError where there are none."""

    @abstractmethod
    def read(self, item: ImageRecord) -> bytes:
        """The picture's file; OSError where it cannot be read."""

    def facts(self) -> dict[str, str | None]:
        """What decides which pictures these are and is not told by the items, by names of options."""
        return {}


def filesystem(path: str) -> tuple[AbstractFileSystem, str]:
    try:
        system, root = url_to_fs(str(path))
    except (ValueError, ImportError) as error:
        raise InputError(f"{path} is no path that can be opened here ({first_line(error)}).") from error
    return system, str(root)


def files(path: str) -> dict[str, int]:
    """Bytes of all files below a folder, by their names relative to it."""
    system, root = filesystem(path)
    if not system.isdir(root):
        raise InputError(f"There is no data folder {path}; give one with pictures.")
    found: Any = system.find(root, detail=True)
    return {name[len(root.rstrip("/")) + 1 :]: info["size"] for name, info in found.items()}


def read(path: str, name: str) -> bytes:
    system, root = filesystem(path)
    data: Any = system.cat_file(posixpath.join(root, name))
    return data


def is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def some(items: list[ImageRecord], otherwise: str) -> list[ImageRecord]:
    """Sorted by id; InputError with what to say where there are none."""
    if not items:
        raise InputError(otherwise)
    return sorted(items, key=lambda item: item.id)

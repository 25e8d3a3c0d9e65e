"""The contract of sources: list images without decoding them, read one file at a time. Paths may be fsspec URLs."""

import posixpath
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from a4a.errors import InputError, first_line
from a4a.utils.images import IMAGE_SUFFIXES

SUFFIXES = (*IMAGE_SUFFIXES, ".gif")
HOW_TO_CAPTION = (
    "write each caption to NAME.txt beside NAME.jpg or as text in metadata.jsonl, "
    "or let a4a prepare write them: --caption.model Salesforce/blip2-opt-2.7b"
)


@dataclass(frozen=True)
class ImageRecord:
    """An image that a source lists; whether its file can be read is not known yet."""

    id: str
    """The same for the same image on every machine and in every run."""
    text: str | None = None
    """The caption, where one is known."""
    subject: str | None = None
    """Who or what is shown: images of one subject may be reference and target of each other."""
    group: str | None = None
    """What the split keeps together where that is more than the subject: the photo that crops are taken from."""
    box: tuple[float, float, float, float] | None = None
    """Part of the stored image to use: left, top, right, bottom as fractions of its sides. `a4a prepare` takes more
    around it where the crop is larger; what it takes counts as the whole image, of which it stores the original size.
    """
    bytes: int | None = None
    """Size of the file where the listing tells, so that another file under the same name is noticed."""

    @property
    def split_group(self) -> str:
        """All records with the same one go to the same split."""
        return self.group or self.subject or self.id


class Source(ABC):
    """Images by name. A subclass in a file of this folder is found by its class name: `--source ImageFolder`."""

    @abstractmethod
    def records(self) -> list[ImageRecord]:
        """All images, sorted by id. Decodes nothing. InputError where there are none."""

    @abstractmethod
    def read(self, record: ImageRecord) -> bytes:
        """The image's file; OSError where it cannot be read."""

    def identity(self) -> dict[str, str | None]:
        """What decides which images these are and cannot be told from the records, by option name."""
        return {}

    def warnings(self) -> list[str]:
        """Sentences about what `records` found and did not use."""
        return []


def filesystem(path: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a path or URL, and the path in it."""
    try:
        system, root = url_to_fs(str(path))
    except (ValueError, ImportError) as error:
        raise InputError(f"{path} is no path that can be opened here ({first_line(error)}).") from error
    return system, str(root)


def list_files(folder: str) -> dict[str, int]:
    """Size in bytes of every file below a folder, by its path relative to it."""
    system, root = filesystem(folder)
    if not system.isdir(root):
        raise InputError(f"There is no data folder {folder}; give one with images.")
    details: Any = system.find(root, detail=True)
    return {name[len(root.rstrip("/")) + 1 :]: info["size"] for name, info in details.items()}


def read_file(folder: str, name: str) -> bytes:
    system, root = filesystem(folder)
    data: Any = system.cat_file(posixpath.join(root, name))
    return data


def is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def sorted_records(records: Sequence[ImageRecord], error: str) -> list[ImageRecord]:
    """Sorted by id; InputError with this message where there are none."""
    if not records:
        raise InputError(error)
    return sorted(records, key=lambda record: record.id)


def first_few(names: Sequence[str], count: int = 5) -> str:
    """The first names, for messages: `a.png, b.png, ...`."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")

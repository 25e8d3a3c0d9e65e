"""Sources: a folder of images, or one folder per subject."""

import json
import posixpath

from a4a.data.sources.base import SUFFIXES, ImageRecord, Source, files, is_picture, read, some
from a4a.errors import InputError


class ImageFolder(Source):
    """Pictures in a folder, at any depth; where it has a `metadata.jsonl` those alone that it names.

    A line a picture: `file_name`, and `text` and `subject` where they are known.

    Args:
        path: of the folder.
    """

    def __init__(self, path: str):
        self.path = path

    def items(self) -> list[ImageRecord]:
        sizes = files(self.path)
        if "metadata.jsonl" in sizes:
            return sorted(self._named(sizes), key=lambda item: item.id)
        found = [
            ImageRecord(name, subject=self.subject(name), bytes=size)
            for name, size in sizes.items()
            if is_picture(name)
        ]
        return some(
            found, f"The data folder {self.path} has no pictures ({', '.join(SUFFIXES)}); give one that has some."
        )

    def subject(self, name: str) -> str | None:
        return None

    def _named(self, sizes: dict[str, int]) -> list[ImageRecord]:
        found: dict[str, ImageRecord] = {}
        for number, line in enumerate(read(self.path, "metadata.jsonl").decode().splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                name, text, subject = str(row["file_name"]), row.get("text"), row.get("subject")
                if not isinstance(text, str | None):
                    raise TypeError("text is no string")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                place = posixpath.join(self.path, "metadata.jsonl")
                raise InputError(
                    f"{place}, line {number}: expected a JSON object with file_name, and text as a string where it is known, found {line[:60]!r}."
                ) from error
            found[name] = ImageRecord(name, text, None if subject is None else str(subject), bytes=sizes.get(name))
        return some(
            list(found.values()), f"{posixpath.join(self.path, 'metadata.jsonl')} names no pictures; give at least one."
        )

    def read(self, item: ImageRecord) -> bytes:
        return read(self.path, item.id)


class SubjectFolders(ImageFolder):
    """Pictures in one folder a subject; the folder's name is the subject's.

    Args:
        path: of the folder that holds the subjects' folders.
    """

    def items(self) -> list[ImageRecord]:
        return some(
            [i for i in super().items() if i.subject],
            f"{self.path} has no pictures in folders; give one with a folder for each subject.",
        )

    def subject(self, name: str) -> str | None:
        return name.partition("/")[0] if "/" in name else None

"""Source: CelebAMask-HQ as it is downloaded."""

import posixpath

from a4a.data.sources.base import ImageRecord, Source, files, is_picture, read, some
from a4a.errors import InputError


class CelebAMaskHQ(Source):
    """CelebAMask-HQ: 30,000 faces. Who is on which is told by CelebA's `identity_CelebA.txt`, which comes separately.

    Args:
        path: the folder CelebAMask-HQ, with CelebA-HQ-img and CelebA-HQ-to-CelebA-mapping.txt.
        identities: identity_CelebA.txt; without it every picture is a subject of its own.
        text: the same caption for all; none by default.
    """

    def __init__(self, path: str, identities: str | None = None, text: str | None = None):
        self.path, self.identities, self.text = path, identities, text

    def items(self) -> list[ImageRecord]:
        sizes = {
            name: size for name, size in files(posixpath.join(self.path, "CelebA-HQ-img")).items() if is_picture(name)
        }
        subjects = self._subjects() if self.identities is not None else {}
        rows = [
            ImageRecord(name, self.text, subjects.get(posixpath.splitext(name)[0]), bytes=size)
            for name, size in sizes.items()
        ]
        return some(rows, f"{self.path}/CelebA-HQ-img has no pictures; unpack CelebAMask-HQ again.")

    def _subjects(self) -> dict[str, str]:
        """From a picture's number here to its number, there to its person."""
        persons = dict(_words(*posixpath.split(str(self.identities)), 2))
        mapping = _words(self.path, "CelebA-HQ-to-CelebA-mapping.txt", 3)[1:]
        return {number: persons[file] for number, _, file in mapping if file in persons}

    def read(self, item: ImageRecord) -> bytes:
        return read(self.path, posixpath.join("CelebA-HQ-img", item.id))


def _words(folder: str, name: str, count: int) -> list[list[str]]:
    try:
        lines = [line.split() for line in read(folder, name).decode().splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise InputError(f"There is no {posixpath.join(folder, name)}; give the folder as it was unpacked.") from error
    for number, line in enumerate(lines, 1):
        if len(line) != count:
            raise InputError(
                f"{posixpath.join(folder, name)}, line {number}: expected {count} words, found {' '.join(line)[:60]!r}."
            )
    return lines

"""CelebAMask-HQ as it is unpacked.

CelebAMask-HQ/CelebA-HQ-img/0.jpg ...
CelebAMask-HQ/CelebA-HQ-to-CelebA-mapping.txt    number here, number and file name in CelebA
identity_CelebA.txt                              file name in CelebA, number of the person
"""

import posixpath

from a4a.data.sources.base import ImageRecord, Source, is_image, list_files, read_file, sorted_records
from a4a.errors import InputError

IMAGES = "CelebA-HQ-img"
MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"


class CelebAMaskHQ(Source):
    """CelebAMask-HQ: 30,000 faces. CelebA's `identity_CelebA.txt`, a separate download, names the persons.

    Args:
        path: the folder CelebAMask-HQ, with CelebA-HQ-img and CelebA-HQ-to-CelebA-mapping.txt.
        identities: identity_CelebA.txt; without it no image has a subject.
        text: one caption for all images; none by default.
    """

    def __init__(self, path: str, identities: str | None = None, text: str | None = None):
        self.path, self.identities, self.text = path, identities, text

    def records(self) -> list[ImageRecord]:
        sizes = list_files(posixpath.join(self.path, IMAGES))
        persons = self._persons(self.identities) if self.identities is not None else {}
        records = [
            ImageRecord(name, self.text, persons.get(posixpath.splitext(name)[0]), bytes=size)
            for name, size in sizes.items()
            if is_image(name)
        ]
        return sorted_records(records, f"{self.path}/{IMAGES} has no images; unpack CelebAMask-HQ again.")

    def read(self, record: ImageRecord) -> bytes:
        return read_file(self.path, posixpath.join(IMAGES, record.id))

    def _persons(self, identities: str) -> dict[str, str]:
        """The person on each image, by the image's number in CelebAMask-HQ."""
        person_of_file = dict(_read_words(*posixpath.split(identities), 2))
        mapping = _read_words(self.path, MAPPING, 3)[1:]
        return {number: person_of_file[file] for number, _, file in mapping if file in person_of_file}


def _read_words(folder: str, name: str, count: int) -> list[list[str]]:
    """The words of every line of a text file; InputError where a line has another number of them."""
    path = posixpath.join(folder, name)
    try:
        lines = [line.split() for line in read_file(folder, name).decode().splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise InputError(f"There is no {path}; give the folder as it was unpacked.") from error
    for number, line in enumerate(lines, 1):
        if len(line) != count:
            raise InputError(f"{path}, line {number}: expected {count} words, found {' '.join(line)[:60]!r}.")
    return lines

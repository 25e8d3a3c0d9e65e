"""A folder of images, at any depth, with captions in metadata.jsonl or in a text file beside each image.

my-photos/metadata.jsonl    {"file_name": "a.jpg", "text": "a cat on a sofa", "subject": "tom"}
my-photos/a.jpg
my-photos/b.jpg
my-photos/b.txt             a dog on a beach
"""

import json
import posixpath
from collections.abc import Mapping

from a4a.data.sources.base import (
    SUFFIXES,
    ImageRecord,
    Source,
    first_few,
    is_image,
    list_files,
    read_file,
    sorted_records,
)
from a4a.errors import InputError

METADATA = "metadata.jsonl"


class ImageFolder(Source):
    """Images in a folder, at any depth.

    Where the folder has a `metadata.jsonl`, only the images that it names are used. It has one JSON object per line:
    `file_name`, and `text` and `subject` where they are known. An image without `text` takes its caption from the text
    file beside it: `a.txt` for `a.jpg`.

    Args:
        path: of the folder.
    """

    def __init__(self, path: str):
        self.path = path
        self._unlisted: list[str] = []
        self._repeated: list[str] = []

    def records(self) -> list[ImageRecord]:
        sizes = list_files(self.path)
        images = [name for name in sizes if is_image(name)]
        if METADATA in sizes:
            rows = self._metadata()
            self._unlisted = sorted(set(images) - set(rows))
            nothing = f"{posixpath.join(self.path, METADATA)} names no images; name at least one."
        else:
            rows = dict.fromkeys(images, (None, None))
            nothing = f"The data folder {self.path} has no images ({', '.join(SUFFIXES)}); give one that has some."
        records = [
            ImageRecord(
                id=name,
                text=text if text is not None else self._text_beside(name, sizes),
                subject=subject if subject is not None else self.subject(name),
                bytes=sizes.get(name),
            )
            for name, (text, subject) in rows.items()
        ]
        return sorted_records(records, nothing)

    def subject(self, name: str) -> str | None:
        """The subject of an image for which metadata.jsonl names none."""
        return None

    def read(self, record: ImageRecord) -> bytes:
        return read_file(self.path, record.id)

    def warnings(self) -> list[str]:
        metadata = posixpath.join(self.path, METADATA)
        warnings = []
        if self._unlisted:
            warnings.append(
                f"{len(self._unlisted)} images of {self.path} are not used because {METADATA} does not name them: "
                f"{first_few(self._unlisted)}; add a line for each, or remove {METADATA} to use all."
            )
        if self._repeated:
            warnings.append(
                f"{len(self._repeated)} images are named more than once in {metadata}, where the last line counts: "
                f"{first_few(self._repeated)}."
            )
        return warnings

    def _metadata(self) -> dict[str, tuple[str | None, str | None]]:
        """Caption and subject by file name."""
        rows: dict[str, tuple[str | None, str | None]] = {}
        repeated: dict[str, None] = {}
        for number, line in enumerate(read_file(self.path, METADATA).decode().splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                name, text, subject = str(row["file_name"]), row.get("text"), row.get("subject")
                if not isinstance(text, str | None):
                    raise TypeError("text is no string")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(
                    f"{posixpath.join(self.path, METADATA)}, line {number}: expected a JSON object with file_name, "
                    f"and text as a string where it is known, found {line[:60]!r}."
                ) from error
            if name in rows:
                repeated[name] = None
            rows[name] = (text, None if subject is None else str(subject))
        self._repeated = list(repeated)
        return rows

    def _text_beside(self, name: str, sizes: Mapping[str, int]) -> str | None:
        """The caption in the text file of the same name; None where there is none or it is empty."""
        text_name = posixpath.splitext(name)[0] + ".txt"
        if text_name not in sizes:
            return None
        try:
            return read_file(self.path, text_name).decode().strip() or None
        except UnicodeDecodeError as error:
            raise InputError(
                f"{posixpath.join(self.path, text_name)} is no UTF-8 text; write the caption of {name} as UTF-8."
            ) from error

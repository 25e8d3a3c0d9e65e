"""The images that `a4a prepare` keeps beside the encodings, as files: those that methods are scored on.

images/SPLIT/metadata.jsonl      a line per image: file_name, text, subject, group, id
images/SPLIT/SUBJECT/NAME.jpg    a folder for each subject, or for each image where subjects are not known

The folder of a split is one that `ImageFolder`, `ImageFolderDataset` and `FolderTask` read, too.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from a4a.data.manifest import SplitName, read_manifest
from a4a.data.sources.base import ImageRecord
from a4a.errors import InputError
from a4a.utils.files import atomic_write, slug

FOLDER, METADATA = "images", "metadata.jsonl"
LONGEST_NAME = 100


@dataclass(frozen=True)
class KeptImage:
    """A line of metadata.jsonl."""

    file_name: str
    """Below the folder of the split."""
    text: str
    subject: str | None
    group: str
    """What the split kept together: the subject, or the photo that a crop is of."""
    id: str

    @classmethod
    def of(cls, record: ImageRecord) -> "KeptImage":
        folder = record.subject or record.id
        name = record.id.removeprefix(f"{folder}/").removesuffix(".jpg")
        file_name = f"{_as_file_name(folder)}/{_as_file_name(name)}.jpg"
        return cls(file_name, record.text or "", record.subject, record.split_group, record.id)


def split_folder(folder: Path, split: SplitName) -> Path:
    """Where the images of a split are, in a folder that `a4a prepare` made."""
    return folder / FOLDER / split


def write_metadata(folder: Path, split: SplitName, images: Iterable[KeptImage]) -> None:
    with atomic_write(split_folder(folder, split) / METADATA) as temporary:
        temporary.write_text("".join(json.dumps(asdict(image)) + "\n" for image in images))


def read_kept_images(folder: Path, split: SplitName) -> list[KeptImage]:
    """The images that were kept of a split, by id; InputError where there are none."""
    read_manifest(folder)  # a folder without a manifest is not finished
    file = split_folder(folder, split) / METADATA
    if not file.exists():
        raise InputError(
            f"{folder} keeps no images of the {split} split; run the same a4a prepare again with --keep_images {split}."
        )
    images = [KeptImage(**json.loads(line)) for line in file.read_text().splitlines()]
    if not images:
        raise InputError(f"{folder} has no images in the {split} split; choose another split.")
    return sorted(images, key=lambda image: image.id)


def _as_file_name(name: str) -> str:
    """A name that every file system takes; with a hash where it had to be changed, so that no two become one."""
    clean = slug(name)[:LONGEST_NAME].lstrip(".")
    return clean if clean == name else f"{clean}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"

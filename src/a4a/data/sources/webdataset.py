"""WebDataset tar files: members with the same name before the first dot are one sample.

train-0.tar/000.jpg
train-0.tar/000.txt     a cat on a sofa
train-0.tar/001.png
train-0.tar/001.json    {"caption": "a dog", "subject": "rex"}
"""

import json
import posixpath
import re
import tarfile
from dataclasses import dataclass
from typing import IO, Any, cast

from a4a.data.sources.base import SUFFIXES, ImageRecord, Source, filesystem, is_image, sorted_records
from a4a.errors import InputError, first_line


@dataclass
class _Sample:
    """What the members of one sample tell."""

    location: tuple[str, int, int] | None = None
    """Of the image: tar file, first byte, number of bytes."""
    text: str | None = None
    subject: str | None = None


class WebDataset(Source):
    """Tar files whose members of one name are a sample: an image, and its caption in `.txt` or `.json`.

    JSON members have `text` or `caption`, and `subject` where it is known. A sample has one image: two, such as x.jpg
    and x.seg.png, are refused. An id is the tar's path below the fixed part of the pattern, then the name in the tar.

    Args:
        path: a tar file, or a pattern such as data/train-*.tar.
    """

    def __init__(self, path: str):
        self.path = path
        self.locations: dict[str, tuple[str, int, int]] = {}

    def records(self) -> list[ImageRecord]:
        system, pattern = filesystem(self.path)
        tars = sorted(str(t) for t in system.glob(pattern)) if any(c in pattern for c in "*?[") else [pattern]
        fixed = posixpath.dirname(re.split(r"[*?\[]", pattern)[0])
        samples: dict[str, _Sample] = {}
        for tar in tars:
            samples |= _read_tar(system, tar, tar.removeprefix(fixed).lstrip("/").removesuffix(".tar"))
        self.locations = {name: s.location for name, s in samples.items() if s.location is not None}
        records = [
            ImageRecord(name, samples[name].text, samples[name].subject, bytes=size)
            for name, (_, _, size) in self.locations.items()
        ]
        return sorted_records(
            records,
            f"{self.path} holds no images ({', '.join(SUFFIXES)}); give a WebDataset tar or a pattern of them.",
        )

    def read(self, record: ImageRecord) -> bytes:
        tar, start, size = self.locations[record.id]
        data: Any = filesystem(self.path)[0].cat_file(tar, start=start, end=start + size)
        return data


def _read_tar(system: Any, tar: str, prefix: str) -> dict[str, _Sample]:
    """The samples of a tar file by id; InputError where it cannot be read."""
    samples: dict[str, _Sample] = {}
    try:
        with system.open(tar, "rb") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                if member.isfile():
                    folder, name = posixpath.split(member.name)
                    sample = samples.setdefault(posixpath.join(prefix, folder, name.partition(".")[0]), _Sample())
                    _add_member(sample, tar, archive, member)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"There is no tar file {tar}; give one, or a pattern such as data/train-*.tar.") from error
    except (tarfile.TarError, ValueError, OSError) as error:
        raise InputError(
            f"{tar} is no WebDataset tar that can be read ({first_line(error)}); it must be uncompressed."
        ) from error
    return samples


def _add_member(sample: _Sample, tar: str, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    """Adds what a member tells of its sample."""
    name = posixpath.basename(member.name)
    suffix = name.partition(".")[2]
    if is_image(name):
        if sample.location is not None:
            raise InputError(
                f"{tar} has {member.name} as the second image of a sample; expected one, "
                "so leave out the other or give it another name."
            )
        sample.location = (tar, member.offset_data, member.size)
    elif suffix in ("txt", "json"):
        content = cast(IO[bytes], archive.extractfile(member)).read().decode()
        fields = {"text": content.strip()} if suffix == "txt" else json.loads(content)
        if not isinstance(fields, dict):
            raise ValueError(f"{member.name} holds no JSON object")
        text, subject = fields.get("text", fields.get("caption")), fields.get("subject")
        sample.text = str(text) if text is not None else sample.text
        sample.subject = str(subject) if subject is not None else sample.subject

"""Source: WebDataset tar shards."""

import json
import posixpath
import re
import tarfile
from typing import Any

from a4a.data.sources.base import SUFFIXES, ImageRecord, Source, filesystem, is_picture, some
from a4a.errors import InputError, first_line


class WebDataset(Source):
    """Tar files in which members of one name are a sample: a picture, and its text in `.txt` or `.json` (`text` or `caption`, and `subject`).

    A sample has one picture: two, such as x.jpg and x.seg.png, are refused. Samples are called by the tar's path below the
    part of the pattern that is fixed, and their name in it.

    Args:
        path: a tar file, or a pattern such as data/train-*.tar.
    """

    def __init__(self, path: str):
        self.path = path
        self.places: dict[str, tuple[str, int, int]] = {}

    def items(self) -> list[ImageRecord]:
        system, pattern = filesystem(self.path)
        tars = sorted(str(t) for t in system.glob(pattern)) if any(c in pattern for c in "*?[") else [pattern]
        fixed = posixpath.dirname(re.split(r"[*?\[]", pattern)[0])
        found: dict[str, dict[str, Any]] = {}
        for tar in tars:
            called = tar.removeprefix(fixed).lstrip("/").removesuffix(".tar")
            try:
                with system.open(tar, "rb") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:  # pyright: ignore[reportArgumentType, reportCallIssue]
                    for member in archive:
                        if member.isfile():
                            self._member(found, tar, called, archive, member)
            except InputError:
                raise
            except FileNotFoundError as error:
                raise InputError(
                    f"There is no tar file {tar}; give one, or a pattern such as data/train-*.tar."
                ) from error
            except (tarfile.TarError, ValueError, OSError) as error:
                raise InputError(
                    f"{tar} is no WebDataset tar that can be read ({first_line(error)}); uncompressed ones can."
                ) from error
        rows = [
            ImageRecord(id=name, **{k: v for k, v in facts.items() if k != "place"})
            for name, facts in found.items()
            if "place" in facts
        ]
        self.places = {name: facts["place"] for name, facts in found.items() if "place" in facts}
        return some(
            rows, f"{self.path} holds no pictures ({', '.join(SUFFIXES)}); give a WebDataset tar or a pattern of them."
        )

    def _member(
        self, found: dict[str, dict[str, Any]], tar: str, called: str, archive: tarfile.TarFile, member: tarfile.TarInfo
    ) -> None:
        folder, name = posixpath.split(member.name)
        key, _, suffix = name.partition(".")
        facts = found.setdefault(posixpath.join(called, folder, key), {})
        if is_picture(name):
            if "place" in facts:
                raise InputError(
                    f"{tar} has {member.name} as the second picture of a sample; expected one, so leave out the other or name it otherwise."
                )
            facts |= {"place": (tar, member.offset_data, member.size), "bytes": member.size}
        elif suffix in ("txt", "json"):
            content = archive.extractfile(member).read().decode()  # pyright: ignore[reportOptionalMemberAccess]
            said = {"text": content.strip()} if suffix == "txt" else json.loads(content)
            if not isinstance(said, dict):
                raise ValueError(f"{member.name} holds no JSON object")
            for field, value in (("text", said.get("text", said.get("caption"))), ("subject", said.get("subject"))):
                if value is not None:
                    facts[field] = str(value)

    def read(self, item: ImageRecord) -> bytes:
        tar, start, size = self.places[item.id]
        data: Any = filesystem(self.path)[0].cat_file(tar, start=start, end=start + size)
        return data

"""Where pictures come from: what lists them by name and opens one at a time. Paths may be URLs that fsspec knows."""

import json
import posixpath
import re
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from a4a.data import pictures
from a4a.errors import InputError, first_line

SUFFIXES = (*pictures.SUFFIXES, ".gif")


@dataclass(frozen=True)
class Item:
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
    def items(self) -> list[Item]:
        """All of them, sorted by id; decodes nothing. InputError where there are none."""

    @abstractmethod
    def read(self, item: Item) -> bytes:
        """The picture's file; OSError where it cannot be read."""

    def facts(self) -> dict[str, str | None]:
        """What decides which pictures these are and is not told by the items, by names of options."""
        return {}


class ImageFolder(Source):
    """Pictures in a folder, at any depth; where it has a `metadata.jsonl` those alone that it names.

    A line a picture: `file_name`, and `text` and `subject` where they are known.

    Args:
        path: of the folder.
    """

    def __init__(self, path: str):
        self.path = path

    def items(self) -> list[Item]:
        sizes = files(self.path)
        if "metadata.jsonl" in sizes:
            return sorted(self._named(sizes), key=lambda item: item.id)
        found = [Item(name, subject=self.subject(name), bytes=size) for name, size in sizes.items() if is_picture(name)]
        return some(found, f"The data folder {self.path} has no pictures ({', '.join(SUFFIXES)}); give one that has some.")

    def subject(self, name: str) -> str | None:
        return None

    def _named(self, sizes: dict[str, int]) -> list[Item]:
        found: dict[str, Item] = {}
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
            found[name] = Item(name, text, None if subject is None else str(subject), bytes=sizes.get(name))
        return some(list(found.values()), f"{posixpath.join(self.path, 'metadata.jsonl')} names no pictures; give at least one.")

    def read(self, item: Item) -> bytes:
        return read(self.path, item.id)


class SubjectFolders(ImageFolder):
    """Pictures in one folder a subject; the folder's name is the subject's.

    Args:
        path: of the folder that holds the subjects' folders.
    """

    def items(self) -> list[Item]:
        return some([i for i in super().items() if i.subject], f"{self.path} has no pictures in folders; give one with a folder for each subject.")

    def subject(self, name: str) -> str | None:
        return name.partition("/")[0] if "/" in name else None


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

    def items(self) -> list[Item]:
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
                raise InputError(f"There is no tar file {tar}; give one, or a pattern such as data/train-*.tar.") from error
            except (tarfile.TarError, ValueError, OSError) as error:
                raise InputError(f"{tar} is no WebDataset tar that can be read ({first_line(error)}); uncompressed ones can.") from error
        rows = [Item(id=name, **{k: v for k, v in facts.items() if k != "place"}) for name, facts in found.items() if "place" in facts]
        self.places = {name: facts["place"] for name, facts in found.items() if "place" in facts}
        return some(rows, f"{self.path} holds no pictures ({', '.join(SUFFIXES)}); give a WebDataset tar or a pattern of them.")

    def _member(self, found: dict[str, dict[str, Any]], tar: str, called: str, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
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

    def read(self, item: Item) -> bytes:
        tar, start, size = self.places[item.id]
        data: Any = filesystem(self.path)[0].cat_file(tar, start=start, end=start + size)
        return data


class HubDataset(Source):
    """A data set that `datasets.load_dataset` knows: a name on the Hugging Face hub, or a folder.

    Args:
        name: such as owner/name.
        split: which of its own splits to take.
        config: which of its configurations.
        image: column of the pictures.
        text: column of the captions.
        subject: column of the subjects.
    """

    def __init__(
        self, name: str, split: str = "train", config: str | None = None, image: str = "image", text: str | None = None, subject: str | None = None
    ):
        self.name, self.split, self.config, self.image, self.text, self.subject = name, split, config, image, text, subject
        self._rows: Any = None

    @property
    def rows(self) -> Any:
        if self._rows is None:
            import datasets

            try:
                rows = datasets.load_dataset(self.name, name=self.config, split=self.split)
            except Exception as error:  # what it raises has no class of its own
                raise InputError(f"{self.name} could not be loaded as a data set, split {self.split} ({first_line(error)}).") from error
            columns = rows.column_names
            for option in ("image", "text", "subject"):
                if (column := getattr(self, option)) is not None and column not in columns:
                    raise InputError(f"The data set {self.name} has no column {column!r} for {option}; it has {', '.join(columns)}.")
            self._rows = rows.cast_column(self.image, datasets.Image(decode=False))
        return self._rows

    def items(self) -> list[Item]:
        count = len(self.rows)
        said = {option: self._column(column, count) for option, column in (("text", self.text), ("subject", self.subject))}
        rows = [Item(f"{i:09d}", said["text"][i], said["subject"][i]) for i in range(count)]
        return some(rows, f"The data set {self.name} has no rows in its split {self.split}; choose another.")

    def facts(self) -> dict[str, str | None]:
        return {**{name: getattr(self, name) for name in ("name", "config", "split", "image")}, "fingerprint": self.rows._fingerprint}

    def _column(self, name: str | None, count: int) -> list[str | None]:
        if name is None:
            return [None] * count
        feature, values = self.rows.features[name], self.rows.select_columns([name])[:][name]
        to_name: Callable[[Any], str] = getattr(feature, "int2str", str)  # classes are numbers with names
        return [None if v is None else to_name(v) for v in values]

    def read(self, item: Item) -> bytes:
        stored = self.rows[int(item.id)][self.image]
        if stored is None:
            raise FileNotFoundError("the data set has no picture in this row")
        return stored["bytes"] if stored["bytes"] is not None else read(*posixpath.split(stored["path"]))


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


def some(items: list[Item], otherwise: str) -> list[Item]:
    """Sorted by id; InputError with what to say where there are none."""
    if not items:
        raise InputError(otherwise)
    return sorted(items, key=lambda item: item.id)

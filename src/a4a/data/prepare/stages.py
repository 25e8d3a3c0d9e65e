"""The steps of `a4a prepare`: each does a chunk of pictures at a time and leaves a file or folder where it is done.

A chunk's results are written beside and renamed, so what is there is whole: a run that is killed goes on with the
chunks that are not, and loses no more than those in flight.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from a4a.data import shards
from a4a.data.prepare.captioning import Caption, Captioner
from a4a.data.prepare.crops import Crop
from a4a.data.prepare.encoding import FACES, Encode, Encoders, arrays
from a4a.data.prepare.filters import Check, Record, RejectedImage, duplicates, inspect, opened
from a4a.data.prepare.splits import Split
from a4a.data.sources.base import ImageRecord, Source
from a4a.utils.files import atomic_write

THREADS = 4
"""That read and decode pictures; Pillow lets them run at once."""


@dataclass(frozen=True)
class Chunk:
    """So many pictures that follow each other in the source's list."""

    number: int
    items: list[ImageRecord]

    @property
    def name(self) -> str:
        return f"{self.number:06d}"


class Step(ABC):
    """One step for any chunk; made once, sent to where it runs, and loads its models there."""

    name: str

    def __init__(self, output: Path):
        self.output = output

    def place(self, chunk: Chunk) -> Path:
        return self.output / self.name / f"{chunk.name}.json"

    def missing(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        return [chunk for chunk in chunks if not self.place(chunk).exists()]

    def result(self, chunk: Chunk) -> Any:
        return json.loads(self.place(chunk).read_text())

    @abstractmethod
    def __call__(self, chunk: Chunk) -> None:
        """Does the work and leaves the result; InputError as `replacing`."""

    def _write(self, chunk: Chunk, content: Any) -> None:
        with atomic_write(self.place(chunk)) as beside:
            beside.write_text(json.dumps(content))


class Checking(Step):
    """A record of each picture."""

    name = "checked"

    def __init__(self, output: Path, source: Source, check: Check):
        super().__init__(output)
        self.source, self.check = source, check

    def __call__(self, chunk: Chunk) -> None:
        with _threads() as over:
            records: list[Record] = list(over(lambda item: inspect(self.source, item, self.check), chunk.items))
        self._write(chunk, records)


class Captioning(Step):
    """Texts of the pictures that have none, by their ids, written from the crop that will be encoded."""

    name = "captions"

    def __init__(self, output: Path, source: Source, crop: Crop, caption: Caption):
        super().__init__(output)
        self.source, self.crop, self.caption = source, replace(crop, views=1, flips=False), Captioner(caption)

    def missing(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        return super().missing([chunk for chunk in chunks if any(item.text is None for item in chunk.items)])

    def __call__(self, chunk: Chunk) -> None:
        said: dict[str, str] = {}
        with _threads() as over:
            for part in _parts([item for item in chunk.items if item.text is None], self.caption.settings.batch):
                views = dict(
                    zip(
                        (item.id for item in part),
                        over(lambda item: _views(self.source, item, self.crop), part),
                        strict=True,
                    )
                )
                found = {name: v[0] for name, v in views.items() if not isinstance(v, RejectedImage)}
                said |= zip(found, self.caption(list(found.values())), strict=True)
        self._write(chunk, said)


class Encoding(Step):
    """A shard: `rows.arrow`, `text.arrow` (each text of the chunk once) and `shard.json`, in a folder.

    Without `encode` it has words alone: ids, texts, subjects and splits.
    """

    name = "shards"

    def __init__(self, output: Path, source: Source, crop: Crop, encode: Encode | None, split: Split):
        super().__init__(output)
        self.source, self.crop, self.split = source, crop, split
        self.encoders = Encoders(encode) if encode is not None else None

    def place(self, chunk: Chunk) -> Path:
        return self.output / self.name / chunk.name

    def result(self, chunk: Chunk) -> Any:
        return json.loads((self.place(chunk) / "shard.json").read_text())

    def __call__(self, chunk: Chunk) -> None:
        models = self.encoders.fingerprints if self.encoders is not None else {}  # first: loading draws random numbers
        torch.manual_seed(chunk.number)  # latents are samples of a posterior
        left_out, encoded = self._encode(chunk) if self.encoders is not None else ({}, {})
        items = [item for item in chunk.items if item.id not in left_out]
        groups = [item.group or item.subject or item.id for item in items]
        words: dict[str, list] = {
            "id": [item.id for item in items],
            "text": [item.text or "" for item in items],
            "subject": [item.subject for item in items],
            "group": groups,
            "split": [self.split(group) for group in groups],
        }
        facts: dict[str, Any] = {"rows": len(items), "left_out": left_out, "files": {}}
        with atomic_write(self.place(chunk)) as beside:
            beside.mkdir()
            if items:
                numbers: dict[str, list[np.ndarray]] = {}
                if self.encoders is not None:
                    facts |= self._texts(beside / "text.arrow", words)
                    words["bucket"] = [encoded[name]["bucket"] for name in words["id"]]
                    numbers = {
                        column: [encoded[name][column] for name in words["id"]]
                        for column in encoded[words["id"][0]]
                        if column != "bucket"
                    }
                    if faces := numbers.get(f"embeds.{FACES}"):
                        words["face"] = [not np.isnan(face).any() for face in faces]
                    facts["latents"] = {
                        str(b): row.shape[1:] for b, row in zip(words["bucket"], numbers["latents"], strict=True)
                    }
                    facts["embeds"] = {
                        c.removeprefix("embeds."): rows[0].shape[1:]
                        for c, rows in numbers.items()
                        if c.startswith("embeds.")
                    }
                    facts["models"] = models
                shards.write(beside / "rows.arrow", words, numbers)
            for file in sorted(beside.iterdir()):
                facts["files"][file.name] = {"bytes": file.stat().st_size, "sha256": shards.checksum(file)}
            (beside / "shard.json").write_text(json.dumps(facts))

    def _encode(self, chunk: Chunk) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
        """Why pictures are left out, and the numbers of the others, by their ids; batches are of one bucket."""
        assert self.encoders is not None
        left_out: dict[str, str] = {}
        encoded: dict[str, dict[str, Any]] = {}
        waiting: dict[int, list[tuple[str, list]]] = {}
        count = self.crop.views * (1 + self.crop.flips)
        at_once = max(self.encoders.settings.batch // count, 1)

        def flush(bucket: int) -> None:
            assert self.encoders is not None
            names, views = zip(*waiting.pop(bucket), strict=True)
            pictures = [view for each in views for view in each]
            columns = {"latents": self.encoders.latents(pictures)}
            columns |= {f"embeds.{name}": t for name, t in self.encoders.embeds(pictures).items()}
            rows = {column: arrays(t.unflatten(0, (len(names), count))) for column, t in columns.items()}
            for i, name in enumerate(names):
                encoded[name] = {"bucket": bucket, **{column: values[i] for column, values in rows.items()}}

        with _threads() as over:
            for part in _parts(chunk.items, at_once):
                for item, views in zip(
                    part, over(lambda item: _views(self.source, item, self.crop), part), strict=True
                ):
                    if isinstance(views, RejectedImage):
                        left_out[item.id] = str(views)
                        continue
                    bucket = self.crop.sizes.index((views[0].height, views[0].width))
                    waiting.setdefault(bucket, []).append((item.id, views))
                    if len(waiting[bucket]) == at_once:
                        flush(bucket)
        for bucket in sorted(waiting):
            flush(bucket)
        return left_out, encoded

    def _texts(self, path: Path, words: dict[str, list]) -> dict[str, Any]:
        """Writes each text once, and to `words` which one is a row's."""
        assert self.encoders is not None
        lines = sorted(set(words["text"]))
        number = {line: i for i, line in enumerate(lines)}
        words["line"] = [number[line] for line in words["text"]]
        states = self.encoders.text(lines)
        shards.write(path, {"text": lines}, {name: arrays(t) for name, t in states.items()})
        return {
            "texts": len(lines),
            "text": {name: [str(t.dtype).removeprefix("torch."), list(t.shape[1:])] for name, t in states.items()},
        }


def survivors(chunks: Sequence[Chunk], checking: Checking) -> tuple[list[Chunk], list[dict[str, str]]]:
    """The chunks without what is left out, and the report's lines on what was left out or mended."""
    records = [record for chunk in chunks for record in checking.result(chunk)]
    same = duplicates(records, checking.check.distance) if checking.check.duplicates else {}
    reasons = {r["id"]: r["left_out"] for r in records if "left_out" in r} | {
        name: f"duplicate: looks like {first}" for name, first in same.items()
    }
    report = [{"id": name, "left_out": reason} for name, reason in reasons.items()]
    report += [
        {"id": r["id"], "repaired": "; ".join(r["repaired"])}
        for r in records
        if "repaired" in r and r["id"] not in reasons
    ]
    return [Chunk(c.number, [item for item in c.items if item.id not in reasons]) for c in chunks], report


def _views(source: Source, item: ImageRecord, crop: Crop) -> list | RejectedImage:
    try:
        return crop(opened(source, item)[0], item.id)
    except RejectedImage as reason:
        return reason


def _parts(items: list[ImageRecord], size: int) -> list[list[ImageRecord]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


@contextmanager
def _threads() -> Iterator[Callable]:
    with ThreadPoolExecutor(THREADS) as pool:
        yield pool.map

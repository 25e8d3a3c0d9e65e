"""The stages of `a4a prepare` before encoding: each does a chunk of images at a time and keeps its results in a file.

Results are written to a temporary path and renamed, so what is there is whole: a run that was killed continues with the
chunks that are missing, and loses no more than those it was working on.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from a4a.data.prepare.captioning import CaptionConfig, Captioner
from a4a.data.prepare.crops import Crop, View
from a4a.data.prepare.filters import (
    CheckConfig,
    CheckResult,
    RejectedImage,
    check_image,
    find_duplicates,
    open_record,
)
from a4a.data.sources.base import ImageRecord, Source
from a4a.utils.files import atomic_write

THREADS = 4
"""Threads that read and decode images; Pillow lets them run in parallel."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive images of the source's list: the unit of work and of what a kill can lose."""

    number: int
    records: list[ImageRecord]

    @property
    def name(self) -> str:
        return f"{self.number:06d}"


class Stage(ABC):
    """One stage for any chunk. Made once, sent to where it runs, and loads its models there."""

    name: str

    def __init__(self, output: Path):
        self.output = output

    def path(self, chunk: Chunk) -> Path:
        """Of a chunk's result; there once the chunk is finished."""
        return self.output / self.name / f"{chunk.name}.json"

    def unfinished(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        return [chunk for chunk in chunks if not self.path(chunk).exists()]

    def result(self, chunk: Chunk) -> Any:
        return json.loads(self.path(chunk).read_text())

    @abstractmethod
    def __call__(self, chunk: Chunk) -> None:
        """Does the work and writes the result; InputError where it cannot be written, as `atomic_write`."""

    def write_json(self, chunk: Chunk, content: Any) -> None:
        with atomic_write(self.path(chunk)) as temporary:
            temporary.write_text(json.dumps(content))


class CheckStage(Stage):
    """A CheckResult of each image."""

    name = "checked"

    def __init__(self, output: Path, source: Source, check: CheckConfig, crop: Crop):
        super().__init__(output)
        self.source, self.check, self.crop = source, check, crop

    def __call__(self, chunk: Chunk) -> None:
        with thread_map() as parallel:
            results = list(parallel(lambda r: check_image(self.source, r, self.check, self.crop), chunk.records))
        self.write_json(chunk, results)

    def survivors(self, chunks: Sequence[Chunk]) -> tuple[list[Chunk], list[dict[str, str]]]:
        """The chunks without the images that are left out, and lines for the report: what was left out or repaired."""
        results: list[CheckResult] = [result for chunk in chunks for result in self.result(chunk)]
        duplicate_of = find_duplicates(results, self.check.distance) if self.check.duplicates else {}
        reasons = {r["id"]: r["left_out"] for r in results if "left_out" in r}
        reasons |= {name: f"duplicate: looks like {first}" for name, first in duplicate_of.items()}
        report = [{"id": name, "left_out": reason} for name, reason in reasons.items()]
        report += [
            {"id": r["id"], "repaired": "; ".join(r["repaired"])}
            for r in results
            if "repaired" in r and r["id"] not in reasons
        ]
        return [Chunk(c.number, [r for r in c.records if r.id not in reasons]) for c in chunks], report


class CaptionStage(Stage):
    """Captions of the images that have none, by id, written for the crop that will be encoded."""

    name = "captions"

    def __init__(self, output: Path, source: Source, crop: Crop, caption: CaptionConfig):
        super().__init__(output)
        self.source, self.crop, self.captioner = source, replace(crop, views=1, flips=False), Captioner(caption)

    def unfinished(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        return super().unfinished([chunk for chunk in chunks if any(r.text is None for r in chunk.records)])

    def __call__(self, chunk: Chunk) -> None:
        captions: dict[str, str] = {}
        without = [record for record in chunk.records if record.text is None]
        with thread_map() as parallel:
            for batch in batches(without, self.captioner.settings.batch):
                views = parallel(lambda record: views_or_rejection(self.source, record, self.crop), batch)
                images = {
                    record.id: view[0].image
                    for record, view in zip(batch, views, strict=True)
                    if not isinstance(view, RejectedImage)
                }
                captions |= zip(images, self.captioner(list(images.values())), strict=True)
        self.write_json(chunk, captions)

    def with_captions(self, chunk: Chunk) -> Chunk:
        """The chunk with the captions that were written for it."""
        captions = self.result(chunk) if self.path(chunk).exists() else {}
        return Chunk(
            chunk.number, [replace(r, text=captions.get(r.id)) if r.text is None else r for r in chunk.records]
        )


def views_or_rejection(source: Source, record: ImageRecord, crop: Crop) -> list[View] | RejectedImage:
    """All views of an image, or why it is left out."""
    try:
        return crop(open_record(source, record, crop)[0], record.id)
    except RejectedImage as reason:
        return reason


def batches(records: list[ImageRecord], size: int) -> list[list[ImageRecord]]:
    return [records[i : i + size] for i in range(0, len(records), size)]


@contextmanager
def thread_map() -> Iterator[Callable[..., Iterator[Any]]]:
    """A `map` that runs in threads and keeps the order."""
    with ThreadPoolExecutor(THREADS) as pool:
        yield pool.map

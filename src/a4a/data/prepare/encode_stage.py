"""The last stage of `a4a prepare`: encodes a chunk and writes it as a shard."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from a4a.data import shards
from a4a.data.manifest import SplitName
from a4a.data.prepare.crops import Crop, View
from a4a.data.prepare.encoding import ARCFACE, EncodeConfig, Encoders, rows_as_arrays
from a4a.data.prepare.filters import RejectedImage
from a4a.data.prepare.stages import Chunk, Stage, batches, thread_map, views_or_rejection
from a4a.data.sources.base import ImageRecord, Source
from a4a.utils.files import atomic_write


@dataclass
class EncodedRow:
    """The encodings of one image, all its views one after the other."""

    bucket: int
    arrays: dict[str, np.ndarray]
    """`latents` [views, channels, height, width], `sizes` [views, 4] (original height and width, top and left of the
    crop) and, by encoder, `embeds.NAME` [views, *embed_shape]."""


class EncodeStage(Stage):
    """A shard per chunk: a folder with `rows.arrow`, `text.arrow` (each distinct caption once) and `shard.json`.

    Without `encode` a shard has ids, captions, subjects and splits only.
    """

    name = "shards"

    def __init__(
        self,
        output: Path,
        source: Source,
        crop: Crop,
        encode: EncodeConfig | None,
        split: Callable[[str], SplitName],
    ):
        super().__init__(output)
        self.source, self.crop, self.split = source, crop, split
        self.encoders = Encoders(encode) if encode is not None else None

    def path(self, chunk: Chunk) -> Path:
        return self.output / self.name / chunk.name

    def result(self, chunk: Chunk) -> Any:
        return json.loads((self.path(chunk) / "shard.json").read_text())

    def __call__(self, chunk: Chunk) -> None:
        left_out: dict[str, str] = {}
        rows: dict[str, EncodedRow] = {}
        models: dict[str, str] = {}
        if self.encoders is not None:
            models = self.encoders.fingerprints  # before the seed is set: loading models draws random numbers
            torch.manual_seed(chunk.number)  # latents are samples of a posterior
            rows, left_out = self._encode_images(chunk, self.encoders)
        records = [record for record in chunk.records if record.id not in left_out]
        facts: dict[str, Any] = {"rows": len(records), "left_out": left_out, "files": {}}
        with atomic_write(self.path(chunk)) as folder:
            folder.mkdir()
            if records:
                columns = self._columns(records)
                arrays: dict[str, list[np.ndarray]] = {}
                if self.encoders is not None:
                    facts |= self._write_text(folder / "text.arrow", columns, self.encoders)
                    arrays = _arrays([rows[record.id] for record in records], columns)
                    facts |= {"models": models, "enlarged": self._enlarged(rows), **_shapes(columns["bucket"], arrays)}
                shards.write(folder / "rows.arrow", columns, arrays)
            for file in sorted(folder.iterdir()):
                facts["files"][file.name] = {"bytes": file.stat().st_size, "sha256": shards.checksum(file)}
            (folder / "shard.json").write_text(json.dumps(facts))

    def _columns(self, records: Sequence[ImageRecord]) -> dict[str, list]:
        return {
            "id": [record.id for record in records],
            "text": [record.text or "" for record in records],
            "subject": [record.subject for record in records],
            "group": [record.split_group for record in records],
            "split": [self.split(record.split_group) for record in records],
        }

    def _encode_images(self, chunk: Chunk, encoders: Encoders) -> tuple[dict[str, EncodedRow], dict[str, str]]:
        """Encodings by id, and why the other images are left out. A batch has images of one bucket."""
        rows: dict[str, EncodedRow] = {}
        left_out: dict[str, str] = {}
        pending: dict[int, list[tuple[str, list[View]]]] = {}
        batch_size = max(encoders.settings.batch // (self.crop.views * (1 + self.crop.flips)), 1)
        with thread_map() as parallel:
            for batch in batches(chunk.records, batch_size):
                all_views = parallel(lambda record: views_or_rejection(self.source, record, self.crop), batch)
                for record, views in zip(batch, all_views, strict=True):
                    if isinstance(views, RejectedImage):
                        left_out[record.id] = str(views)
                        continue
                    bucket = self.crop.sizes.index(views[0].target_size)
                    pending.setdefault(bucket, []).append((record.id, views))
                    if len(pending[bucket]) == batch_size:
                        rows |= _encode_batch(encoders, bucket, pending.pop(bucket))
        for bucket in sorted(pending):
            rows |= _encode_batch(encoders, bucket, pending[bucket])
        return rows, left_out

    def _enlarged(self, rows: dict[str, EncodedRow]) -> dict[str, str]:
        """By id, from and to which size images were enlarged."""
        sizes = {
            name: (*row.arrays["sizes"][0, :2].tolist(), *self.crop.sizes[row.bucket]) for name, row in rows.items()
        }
        return {
            name: f"{width} x {height} pixels, to {crop_width} x {crop_height}"
            for name, (height, width, crop_height, crop_width) in sizes.items()
            if height < crop_height or width < crop_width
        }

    def _write_text(self, path: Path, columns: dict[str, list], encoders: Encoders) -> dict[str, Any]:
        """Writes each distinct caption's text states, adds to `columns` which of them is a row's, returns shapes."""
        captions = sorted(set(columns["text"]))
        line = {caption: i for i, caption in enumerate(captions)}
        columns["line"] = [line[caption] for caption in columns["text"]]
        states = encoders.text(captions)
        shards.write(path, {"text": captions}, {name: rows_as_arrays(t) for name, t in states.items()})
        return {
            "texts": len(captions),
            "text": {name: [str(t.dtype).removeprefix("torch."), list(t.shape[1:])] for name, t in states.items()},
        }


def _encode_batch(encoders: Encoders, bucket: int, batch: Sequence[tuple[str, list[View]]]) -> dict[str, EncodedRow]:
    """The rows of images of one bucket, by id."""
    names, views = zip(*batch, strict=True)
    images = [view.image for image_views in views for view in image_views]
    sizes = [[*view.original_size, *view.crop_top_left] for image_views in views for view in image_views]
    tensors = {"latents": encoders.latents(images), "sizes": torch.tensor(sizes, dtype=torch.int32)}
    tensors |= {f"embeds.{name}": t for name, t in encoders.embeddings(images).items()}
    arrays = {column: rows_as_arrays(t.unflatten(0, (len(names), -1))) for column, t in tensors.items()}
    return {name: EncodedRow(bucket, {c: a[i] for c, a in arrays.items()}) for i, name in enumerate(names)}


def _arrays(rows: Sequence[EncodedRow], columns: dict[str, list]) -> dict[str, list[np.ndarray]]:
    """Array columns of a shard; adds `bucket` and, where faces were encoded, `face` to the other columns."""
    columns["bucket"] = [row.bucket for row in rows]
    arrays = {column: [row.arrays[column] for row in rows] for column in rows[0].arrays}
    if faces := arrays.get(f"embeds.{ARCFACE}"):
        columns["face"] = [not np.isnan(face).any() for face in faces]
    return arrays


def _shapes(buckets: Sequence[int], arrays: dict[str, list[np.ndarray]]) -> dict[str, Any]:
    """Of one view: latents by bucket, embeddings by encoder ([image_embed_dim] or [tokens, image_embed_dim])."""
    latents = {str(bucket): row.shape[1:] for bucket, row in zip(buckets, arrays["latents"], strict=True)}
    embeds = {c.removeprefix("embeds."): list(r[0].shape[1:]) for c, r in arrays.items() if c.startswith("embeds.")}
    return {"latents": latents, "embeds": embeds}

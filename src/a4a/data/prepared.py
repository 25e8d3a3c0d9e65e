"""Training samples from a folder that `a4a prepare` made: nothing is decoded or encoded again, little is in memory."""

from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from a4a.backbones.sizes import SizeConditions
from a4a.data import shards
from a4a.data.base import EncodedDataset, evenly_spaced, reference_target_pairs
from a4a.data.compatibility import check_encodings, choose_image_encoder, choose_output
from a4a.data.manifest import NEEDS_SUBJECTS, SplitName, index_rows, read_manifest
from a4a.encoders.base import Output
from a4a.errors import InputError


class PreparedDataset(EncodedDataset):
    """Training samples that `a4a prepare` encoded. Every view of an image (crop, mirror image) is the target of one.

    Args:
        path: the folder, with its manifest.json.
        split: train, validation or test; no subject is in two of them.
        reference: what a target's reference is: `same`, the same view of the same photo (as the paper trains); `view`,
            another view of the same photo, so cropped or mirrored otherwise (needs several views); `subject`, another
            photo of the subject, in another view where there are several; the same photo where the subject has only
            one (needs subjects).
        image_encoder: whose embeddings the references have, by the name that encode.image_encoders gave it; needed
            where there are several. arcface leaves out images without a face, and `a4a transfer` refuses it: no command
            can generate with it.
        verify: read every file once and compare it with its checksum; sizes are always compared with the manifest.

    Attributes:
        samples: [samples, 4]: row and view of the reference, row and view of the target.
        views: views of each image, mirror images included.
    """

    def __init__(
        self,
        path: Path,
        split: SplitName = "train",
        reference: Literal["same", "view", "subject"] = "same",
        image_encoder: str | None = None,
        verify: bool = False,
    ):
        self._options = {"split": split, "reference": reference, "verify": verify}
        self.path, self.manifest = Path(path), read_manifest(Path(path))
        if not self.manifest["latents"]:
            raise InputError(
                f"{path} was prepared without encode, so there is nothing to train on; "
                "choose another output folder and set encode.model."
            )
        self.image_encoder = choose_image_encoder(self.path, self.manifest, image_encoder)
        if self.image_encoder is not None:
            self.embed_shape = tuple(self.manifest["embeds"][self.image_encoder])
            self.image_embed_dim = self.embed_shape[-1]
            self.no_image = load_file(self.path / "no_image.safetensors")[self.image_encoder]
        self.no_text = load_file(self.path / "no_text.safetensors")
        self.size = self.manifest["settings"].get("crop.size")
        self.views: int = self.manifest["views"] * (1 + self.manifest["flips"])
        self._latent_shapes = {int(bucket): tuple(shape) for bucket, shape in self.manifest["latents"].items()}
        self._files = shards.FilePool()
        self._index = index_rows(self.path, self.manifest, split, self.image_encoder, verify)
        self.samples = self._pair(self._index.subjects, reference)
        if len(self._latent_shapes) > 1:
            self.buckets = torch.from_numpy(self._index.bucket)[self.samples[:, 2]]

    def __len__(self) -> int:
        return len(self.samples)

    def check(self, model: str | Path, image_encoder: str | Path, encoder_output: Output = "pooled") -> None:
        check_encodings(self.path, self.manifest, self.image_encoder, model, image_encoder, encoder_output)

    def with_output(self, output: Output) -> "PreparedDataset":
        name = choose_output(self.path, self.manifest, self.image_encoder, output)
        return self if name == self.image_encoder else PreparedDataset(self.path, image_encoder=name, **self._options)

    def batch(self, indices: Tensor) -> dict[str, Any]:
        reference, reference_view, target, target_view = self.samples[indices].numpy().T
        buckets = sorted({int(b) for b in self._index.bucket[target]})
        if len(buckets) != 1:
            raise ValueError(f"A batch has targets of the buckets {buckets}; only rows of one bucket can be stacked.")
        batch = {"latents": self._read_views("latents", target, target_view, self._latent_shapes[buckets[0]])}
        sizes = self._read_views("sizes", target, target_view, (4,), np.dtype(np.int32))
        target_size = torch.tensor([self.manifest["sizes"][buckets[0]]]).expand(len(indices), 2)
        batch |= vars(SizeConditions(sizes[:, :2], sizes[:, 2:], target_size))
        for name, (dtype, shape) in self.manifest["text"].items():
            starts = self._index.offsets[name][target]
            batch[f"text.{name}"] = self._read("text", target, starts, np.dtype(dtype), tuple(shape))
        if self.embed_shape is not None:
            batch["embeds"] = self._embeddings(reference, reference_view)
        return batch

    def embeddings(self, indices: Tensor) -> Tensor:
        return self._embeddings(*self.samples[indices, :2].numpy().T)

    def reference_latents(self, indices: Tensor) -> Tensor:
        """[n, channels, height, width]: latents of the references, which must all be of one bucket."""
        rows, views = self.samples[indices, :2].numpy().T
        return self._read_views("latents", rows, views, self._latent_shapes[int(self._index.bucket[rows[0]])])

    def references(self, count: int) -> Tensor:
        return self.embeddings(evenly_spaced(len(self), count)).float()

    def column(self, name: Literal["id", "text", "subject"]) -> list[str | None]:
        """The id, caption or subject of every image of this split."""
        values = [shards.read(folder / "rows.arrow", [name], [])[0][name] for folder in self._index.shards]
        return [values[shard][row] for shard, row in zip(self._index.shard, self._index.row, strict=True)]

    def _embeddings(self, rows: np.ndarray, views: np.ndarray) -> Tensor:
        if self.embed_shape is None:
            raise InputError(f"{self.path} was prepared without image embeddings; set encode.image_encoders.")
        return self._read_views(f"embeds.{self.image_encoder}", rows, views, self.embed_shape)

    def _read_views(
        self,
        column: str,
        rows: np.ndarray,
        views: np.ndarray,
        shape: tuple[int, ...],
        dtype: np.dtype = np.dtype(np.float16),
    ) -> Tensor:
        """One view of each row; a row holds all its views one after the other."""
        starts = self._index.offsets[column][rows] + views * (prod(shape) * dtype.itemsize)
        return self._read("rows", rows, starts, dtype, shape)

    def _read(self, file: str, rows: np.ndarray, starts: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> Tensor:
        """[rows, *shape], each from its byte offset in `file`.arrow of its shard."""
        out = np.empty((len(rows), *shape), dtype)
        for array, shard, start in zip(out, self._index.shard[rows], starts, strict=True):
            self._files.read_into(array, self._index.shards[shard] / f"{file}.arrow", int(start))
        return torch.from_numpy(out)

    def _pair(self, subjects: list[str | None], reference: str) -> Tensor:
        """[samples, 4], see `samples`: one sample for each view of each target."""
        if reference == "view" and self.views == 1:
            raise InputError(
                f"{self.path} has one view of each photo but reference is view; "
                "set it to same, or prepare the data again with crop.views or crop.flips."
            )
        if reference == "subject" and not any(subjects):
            raise InputError(
                f"{self.path} was prepared without subjects but reference is subject; "
                f"set it to same, or {NEEDS_SUBJECTS}."
            )
        same_photo = torch.arange(len(subjects))[:, None].expand(-1, 2)
        pairs = reference_target_pairs(subjects) if reference == "subject" else same_photo
        target_view = torch.arange(self.views).repeat(len(pairs))
        reference_view = target_view if reference == "same" else (target_view + 1) % self.views
        reference_row, target_row = pairs.repeat_interleave(self.views, 0).unbind(1)
        return torch.stack([reference_row, reference_view, target_row, target_view], 1)

"""What `a4a prepare` made, as training samples: nothing of it is decoded or encoded again, and little of it is in memory."""

import json
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from a4a.backbones import Backbone
from a4a.data import shards
from a4a.data.base import TrainingData, pairs_of, spread_over
from a4a.encoders.clip import CLIPImageEncoder
from a4a.errors import InputError, first_line
from a4a.utils.fingerprint import file_fingerprint

FORMAT = 1
"""Of the folder; raise it when what is written changes."""
SUBJECTS = "prepare the data again with a source that tells them, such as SubjectFolders, or ImageFolder with subject in its metadata.jsonl"


class Prepared(TrainingData):
    """Training samples from a folder that `a4a prepare` made. Every view of a picture (crops, mirror images) is the target of one.

    Args:
        path: the folder, with its manifest.json.
        split: train, validation or test; no subject is in two of them.
        reference: what a target's reference is: `same`, the very view (as the paper trains); `view`, another view of
            the same photo, so cropped or mirrored otherwise (needs several); `subject`, another photo of the subject, in another view
            where there are several, and the same photo where the subject has one (needs subjects).
        image_encoder: which of the embeddings are the reference's, by the name that encode.image_encoders gave them; needed
            where there are several. arcface leaves out pictures without a face, and is not for `a4a transfer`: nothing draws with it.
        verify: read every file once and hold it against its checksum; sizes are held against the manifest anyhow.

    Attributes:
        samples: [samples, 4]: row and view of the reference, row and view of the target.
        buckets: [samples], the target's bucket, where latents have several shapes; a batch must be of one.
        size: side of the pictures in pixels; with buckets, of the square that has as many.
        image_embed_dim: width of the embeddings, 0 where there are none.
        no_text: one row, what guidance uses where there is no negative prompt.
    """

    is_encoded = True

    def __init__(
        self,
        path: Path,
        split: Literal["train", "validation", "test"] = "train",
        reference: Literal["same", "view", "subject"] = "same",
        image_encoder: str | None = None,
        verify: bool = False,
    ):
        self.path, self.manifest = Path(path), _manifest(Path(path))
        if not self.manifest["latents"]:
            raise InputError(
                f"{path} was prepared without encode, so there is nothing to train on; choose another output folder and set encode.model."
            )
        self.embeds = self._choose(image_encoder)
        self.image_embed_dim = self.manifest["embeds"][self.embeds] if self.embeds is not None else 0
        self.no_text: dict[str, Tensor] | None = load_file(self.path / "no_text.safetensors")
        self.size: int = self.manifest["settings"]["crop.size"]
        self.views = self.manifest["views"] * (1 + self.manifest["flips"])
        self._shapes = {int(bucket): tuple(shape) for bucket, shape in self.manifest["latents"].items()}
        self._files, self._shards = shards.Files(), []
        subjects = self._open(split, verify)
        self.samples = self._samples(subjects, reference)
        bucket = torch.from_numpy(self._bucket)[self.samples[:, 2]]
        self.buckets = bucket if len(self._shapes) > 1 else None

    def __len__(self) -> int:
        return len(self.samples)

    def encode(self, backbone: Backbone, image_encoder: CLIPImageEncoder | None, cache: Path) -> "Prepared":
        """Itself: `a4a prepare` has encoded everything."""
        return self

    def check(self, model: str | Path, image_encoder: str | Path) -> None:
        """InputError where the data were encoded by other models than these."""
        if self.embeds == "arcface":
            raise InputError(
                f"{self.path} has image_encoder arcface, whose embeddings no command can draw with; choose one that encode.image_encoders named."
            )
        asked = {"encode.model": model, f"encode.image_encoders.{self.embeds}": image_encoder}
        if self.embeds is None:
            raise InputError(
                f"{self.path} was prepared without image embeddings; prepare it again with encode.image_encoders: {{clip: {image_encoder}}}."
            )
        for option, name in asked.items():
            made = self.manifest["settings"].get(option)
            if made is not None and made["origin"] != (now := file_fingerprint(name)):
                raise InputError(
                    f"{self.path} was prepared with {option} = {made['name']} ({made['origin']}), not {name} ({now}); prepare the data again for it."
                )

    def batch(self, indices: Tensor) -> dict[str, Any]:
        reference, reference_view, target, target_view = self.samples[indices].numpy().T
        found = {int(b) for b in self._bucket[target]}
        if len(found) != 1:
            raise ValueError(
                f"A batch has targets of the buckets {sorted(found)}; rows of one bucket alone can be stacked."
            )
        batch = {"latents": self._read("rows", "latents", target, np.float16, self._shapes[found.pop()], target_view)}
        for name, (kind, shape) in self.manifest["text"].items():
            batch[f"text.{name}"] = self._read("text", name, target, np.dtype(kind), tuple(shape))
        if self.embeds is not None:
            batch["embeds"] = self._read(
                "rows", f"embeds.{self.embeds}", reference, np.float16, (self.image_embed_dim,), reference_view
            )
        return batch

    def references(self, count: int) -> Tensor:
        """Embeddings of so many references at most, evenly over the table: [count, image_embed_dim], float32."""
        reference, view = self.samples[spread_over(len(self), count), :2].numpy().T
        return self._read("rows", f"embeds.{self.embeds}", reference, np.float16, (self.image_embed_dim,), view).float()

    def words(self, name: Literal["id", "text", "subject"]) -> list[str | None]:
        """Of every row of this split: what it is called, what is said of it, who is on it."""
        found = [shards.read(self._shards[s] / "rows.arrow", [name], [])[0][name] for s in range(len(self._shards))]
        return [found[s][r] for s, r in zip(self._shard, self._row, strict=True)]

    def _read(
        self, file: str, name: str, rows: np.ndarray, kind: Any, shape: tuple[int, ...], views: np.ndarray | None = None
    ) -> Tensor:
        out = np.empty((len(rows), *shape), kind)
        starts = self._places[name][rows]
        if views is not None:
            starts = starts + views * (prod(shape) * out.itemsize)
        for array, shard, start in zip(out, self._shard[rows], starts, strict=True):
            self._files.read_into(array, self._shards[shard] / f"{file}.arrow", int(start))
        return torch.from_numpy(out)

    def _choose(self, name: str | None) -> str | None:
        known = sorted(self.manifest["embeds"] or {})
        if name is None and len(known) > 1:
            raise InputError(
                f"{self.path} has embeddings of {', '.join(known)}; say which are the reference's with data.init_args.image_encoder."
            )
        if name is not None and name not in known:
            raise InputError(
                f"{self.path} has no embeddings {name!r}, it has {', '.join(known) or 'none'}; choose one or prepare the data again."
            )
        return name if name is not None else next(iter(known), None)

    def _open(self, split: str, verify: bool) -> list[str | None]:
        """Finds the split's rows and where their numbers lie; their subjects."""
        words = ["split", "group", "subject", "bucket", "line", *(["face"] if self.embeds == "arcface" else [])]
        numbers = ["latents", *([f"embeds.{self.embeds}"] if self.embeds is not None else [])]
        subjects: list[str | None] = []
        parts: dict[str, list[np.ndarray]] = {
            name: [] for name in ("shard", "row", "bucket", *numbers, *self.manifest["text"])
        }
        places: dict[str, tuple[str, Path]] = {}
        for shard in self.manifest["shards"]:
            folder = self.path / "shards" / shard["name"]
            for name, facts in shard["files"].items():
                _hold(folder / name, facts, verify)
            if not shard["rows"]:
                continue
            said, starts = shards.read(folder / "rows.arrow", words, numbers)
            _, lines = shards.read(folder / "text.arrow", [], list(self.manifest["text"]))
            if len(said["split"]) != shard["rows"]:
                raise InputError(
                    f"{self.path / 'manifest.json'} says that {folder} has {shard['rows']} rows, it has {len(said['split'])}; prepare the data again."
                )
            for group, where in zip(said["group"], said["split"], strict=True):
                before, place = places.setdefault(group, (where, folder))
                if before != where:
                    raise InputError(
                        f"The subject {group!r} is in {before} in {place} and in {where} in {folder}; prepare the data again, or it is tested on what it has seen."
                    )
            faces = said.get("face", [True] * shard["rows"])
            chosen = np.array(
                [
                    r
                    for r, (where, face) in enumerate(zip(said["split"], faces, strict=True))
                    if where == split and face
                ],
                np.int64,
            )  # pyright: ignore[reportArgumentType, reportGeneralTypeIssues]
            subjects += [said["subject"][r] for r in chosen]
            line = np.array(said["line"], np.int64)[chosen]
            parts["shard"].append(np.full(len(chosen), len(self._shards)))
            parts["row"].append(chosen)
            parts["bucket"].append(np.array(said["bucket"], np.int64)[chosen])
            for name in numbers:
                parts[name].append(starts[name][chosen])
            for name in self.manifest["text"]:
                parts[name].append(lines[name][line])
            self._shards.append(folder)
        if not subjects:
            counts = ", ".join(f"{self.manifest['counts'].get(s, 0)} for {s}" for s in ("train", "validation", "test"))
            raise InputError(f"{self.path} has no pictures for {split} ({counts}); choose another split.")
        found = {name: np.concatenate(arrays) for name, arrays in parts.items()}
        self._shard, self._row, self._bucket = found.pop("shard"), found.pop("row"), found.pop("bucket")
        self._places = found
        return subjects

    def _samples(self, subjects: list[str | None], reference: str) -> Tensor:
        if reference == "view" and self.views == 1:
            raise InputError(
                f"{self.path} has one view of each photo but reference is view; set it to same, or prepare the data again with crop.views or crop.flips."
            )
        if reference == "subject" and not any(subjects):
            raise InputError(
                f"{self.path} was prepared without subjects but reference is subject; set it to same, or {SUBJECTS}."
            )
        pairs = pairs_of(subjects) if reference == "subject" else torch.arange(len(subjects))[:, None].expand(-1, 2)
        view = torch.arange(self.views).repeat(len(pairs))
        other = view if reference == "same" else (view + 1) % self.views
        first, second = pairs.repeat_interleave(self.views, 0).unbind(1)
        return torch.stack([first, other, second, view], 1)


def subjects_of(path: Path, split: Literal["train", "validation", "test"]) -> set[str]:
    """Names of the subjects that `a4a prepare` put into a split; InputError where it knew of none at all."""
    found: dict[str, str] = {}
    for shard in _manifest(path)["shards"]:
        if shard["rows"]:
            said, _ = shards.read(path / "shards" / shard["name"] / "rows.arrow", ["split", "subject"], [])
            found |= {
                str(name): where for name, where in zip(said["subject"], said["split"], strict=True) if name is not None
            }
    if not found:
        raise InputError(f"{path} was prepared without subjects; {SUBJECTS}.")
    return {name for name, where in found.items() if where == split}


def _manifest(path: Path) -> dict[str, Any]:
    file = path / "manifest.json"
    if not file.exists():
        unfinished = (path / "settings.json").exists()
        raise InputError(
            f"{path} is not finished; run the same a4a prepare again, which goes on where it was stopped."
            if unfinished
            else f"There is no {file}; give a folder that a4a prepare made."
        )
    try:
        manifest = json.loads(file.read_text())
        found = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is no manifest ({first_line(error)}); run the same a4a prepare again.") from error
    if found != FORMAT:
        raise InputError(f"{file} has format {found}, this version reads {FORMAT}; prepare the data again.")
    return manifest


def _hold(file: Path, facts: dict[str, Any], verify: bool) -> None:
    """InputError where a file is not what the manifest says."""
    try:
        size = file.stat().st_size
    except FileNotFoundError as error:
        raise InputError(
            f"The shard {file} is in manifest.json but not there; copy it again, or remove its folder and run a4a prepare again."
        ) from error
    if size != facts["bytes"]:
        what = "was cut short" if size < facts["bytes"] else "does not fit its manifest"
        raise InputError(
            f"The shard {file} {what}: {size} bytes instead of {facts['bytes']}; copy it again, or remove its folder and run a4a prepare again."
        )
    if verify and shards.checksum(file) != facts["sha256"]:
        raise InputError(
            f"The shard {file} has another content than manifest.json says; copy it again, or remove its folder and run a4a prepare again."
        )

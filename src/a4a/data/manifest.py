"""The folder that `a4a prepare` makes: its manifest, the integrity of its shards, and the rows of a split.

manifest.json          format, settings, shapes, counts, and each shard's files with size and checksum
report.jsonl           images left out or repaired, and warnings
no_text.safetensors    text states of no prompt
no_image.safetensors   by image encoder, the embedding of no image
images/SPLIT/          the images themselves, of the splits that are kept so (kept_images.py)
shards/000000/         rows.arrow (a row per image), text.arrow (a row per distinct caption)
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from a4a.data import shards
from a4a.errors import InputError, first_line

FORMAT = 3
"""Version of the folder's layout; raise it when what is written changes."""
SPLITS = ("train", "validation", "test")
SplitName = Literal["train", "validation", "test"]
NEEDS_SUBJECTS = (
    "prepare the data again with a source that names them, such as SubjectFolders, "
    "or ImageFolder with subject in its metadata.jsonl"
)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of manifest.json; InputError where it is missing, broken or of another format."""
    file = folder / "manifest.json"
    if not file.exists():
        if (folder / "settings.json").exists():
            raise InputError(
                f"{folder} is not finished; run the same a4a prepare again, it continues where it stopped."
            )
        raise InputError(f"There is no {file}; give a folder that a4a prepare made.")
    try:
        manifest = json.loads(file.read_text())
        version = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is no manifest ({first_line(error)}); run the same a4a prepare again.") from error
    if version != FORMAT:
        raise InputError(f"{file} has format {version}, this version reads {FORMAT}; prepare the data again.")
    return manifest


@dataclass
class RowIndex:
    """The rows of a split and where their arrays begin."""

    shards: list[Path]
    shard: np.ndarray
    """[rows], number of the row's shard in `shards`."""
    row: np.ndarray
    """[rows], number of the row in its shard."""
    bucket: np.ndarray
    """[rows], aspect-ratio bucket; 0 where there are none."""
    subjects: list[str | None]
    offsets: dict[str, np.ndarray]
    """For each array column, [rows] byte offsets in the row's rows.arrow or text.arrow."""


def index_rows(folder: Path, manifest: dict[str, Any], split: str, embeds: str | None, verify: bool) -> RowIndex:
    """Finds a split's rows in all shards.

    Args:
        folder: that `a4a prepare` made.
        manifest: of that folder.
        split: train, validation or test.
        embeds: name of the image encoder whose embeddings will be read; rows without a face are left out for arcface.
        verify: compare every file with its checksum, not only its size.
    """
    arrays = ["latents", "sizes", *([f"embeds.{embeds}"] if embeds is not None else [])]
    split_of_group: dict[str, tuple[str, Path]] = {}
    parts = []
    for shard in manifest["shards"]:
        shard_folder = folder / "shards" / shard["name"]
        for name, expected in shard["files"].items():
            _check_file(shard_folder / name, expected, verify)
        if shard["rows"]:
            part = _index_shard(shard_folder, shard["rows"], split, arrays, list(manifest["text"]), embeds == "arcface")
            _check_groups(part.groups, shard_folder, split_of_group)
            parts.append(part)
    if not any(len(part.row) for part in parts):
        counts = ", ".join(f"{manifest['counts'].get(name, 0)} for {name}" for name in SPLITS)
        raise InputError(f"{folder} has no images for {split} ({counts}); choose another split.")
    return RowIndex(
        shards=[part.folder for part in parts],
        shard=np.concatenate([np.full(len(part.row), number) for number, part in enumerate(parts)]),
        row=np.concatenate([part.row for part in parts]),
        bucket=np.concatenate([part.bucket for part in parts]),
        subjects=[subject for part in parts for subject in part.subjects],
        offsets={name: np.concatenate([part.offsets[name] for part in parts]) for name in parts[0].offsets},
    )


@dataclass
class _ShardRows:
    """What a shard adds to a RowIndex."""

    folder: Path
    groups: Sequence[tuple[str, str]]
    """(group, split) of every row, of any split."""
    row: np.ndarray
    bucket: np.ndarray
    subjects: list[str | None]
    offsets: dict[str, np.ndarray]


def _index_shard(
    folder: Path, expected_rows: int, split: str, arrays: list[str], text_arrays: list[str], needs_face: bool
) -> _ShardRows:
    names = ["split", "group", "subject", "bucket", "line", *(["face"] if needs_face else [])]
    columns, offsets = shards.read(folder / "rows.arrow", names, arrays)
    _, text_offsets = shards.read(folder / "text.arrow", [], text_arrays)
    count = len(columns["split"])
    if count != expected_rows:
        raise InputError(
            f"The manifest.json of {folder.parents[1]} says that {folder} has {expected_rows} rows, it has {count}; "
            "prepare the data again."
        )
    has_face = columns.get("face", [True] * count)
    row = np.array([r for r in range(count) if columns["split"][r] == split and has_face[r]], np.int64)
    line = np.array(columns["line"], np.int64)[row]
    return _ShardRows(
        folder=folder,
        groups=list(zip(columns["group"], columns["split"], strict=True)),
        row=row,
        bucket=np.array(columns["bucket"], np.int64)[row],
        subjects=[columns["subject"][r] for r in row],
        offsets={name: offsets[name][row] for name in arrays}
        | {name: text_offsets[name][line] for name in text_arrays},
    )


def _check_groups(groups: Sequence[tuple[str, str]], folder: Path, split_of_group: dict[str, tuple[str, Path]]) -> None:
    """InputError where a group is in two splits: the adapter would be tested on what it was trained on."""
    for group, split in groups:
        first_split, first_folder = split_of_group.setdefault(group, (split, folder))
        if first_split != split:
            raise InputError(
                f"The subject {group!r} is in {first_split} in {first_folder} and in {split} in {folder}, "
                "so it would be tested on what it was trained on; prepare the data again."
            )


def _check_file(file: Path, expected: dict[str, Any], verify: bool) -> None:
    """InputError where a file is not what the manifest says."""
    repair = "copy it again, or remove its folder and run a4a prepare again"
    try:
        size = file.stat().st_size
    except FileNotFoundError as error:
        raise InputError(f"The shard {file} is in manifest.json but not there; {repair}.") from error
    if size != expected["bytes"]:
        problem = "was cut short" if size < expected["bytes"] else "does not fit its manifest"
        raise InputError(f"The shard {file} {problem}: {size} bytes instead of {expected['bytes']}; {repair}.")
    if verify and shards.checksum(file) != expected["sha256"]:
        raise InputError(f"The shard {file} has another content than manifest.json says; {repair}.")

"""What a training set is, before its encoding, and the one that people have: a folder of pictures."""

import hashlib
import json
import sys
from pathlib import Path

from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageOps
from torch import Tensor

from a4a.data.base import TrainingImages, reference_target_pairs
from a4a.errors import InputError
from a4a.utils.images import open_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


class ImageFolderDataset(TrainingImages):
    """A folder with `metadata.jsonl` (a line a picture: `file_name`, `text`, and `subject` where it is known).

    Each picture is scaled to cover `size` x `size` and cropped to its middle. Reference and target are the same picture
    (as the paper trains), or two different ones of a subject where subjects are named. Broken pictures are left out,
    counted and named on the error stream.

    Args:
        path: of the folder.
        size: in pixels, the size that the denoiser is trained at.
    """

    def __init__(self, path: Path, size: int = 512):
        self.size = size
        rows = _metadata(Path(path))
        self.files, self.captions, subjects, broken = [], [], [], []
        for file, text, subject in rows:
            try:
                open_image(file)
            except InputError:
                broken.append(file.name)
                continue
            self.files.append(file)
            self.captions.append(text)
            subjects.append(subject)
        if broken:
            shown = ", ".join(broken[:5]) + (", ..." if len(broken) > 5 else "")
            print(
                f"{path}: {len(broken)} of {len(rows)} pictures cannot be read and are left out: {shown}",
                file=sys.stderr,
            )
        if not self.files:
            raise InputError(
                f"The data folder {path} has no readable picture; give one with pictures and a metadata.jsonl."
            )
        self.pairs = reference_target_pairs(subjects)
        stats = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in self.files]
        self.key = hashlib.sha256(json.dumps([size, stats]).encode()).hexdigest()
        self._processor = VaeImageProcessor(do_normalize=False)

    def __len__(self) -> int:
        return len(self.files)

    def pixels(self, indices: Tensor) -> Tensor:
        pictures = [
            ImageOps.fit(open_image(self.files[i]), (self.size, self.size), Image.Resampling.LANCZOS)
            for i in indices.tolist()
        ]
        return self._processor.preprocess(pictures)  # pyright: ignore[reportArgumentType]


def _metadata(folder: Path) -> list[tuple[Path, str, str | None]]:
    if not folder.is_dir():
        raise InputError(f"There is no data folder {folder}; give one with pictures and a metadata.jsonl.")
    table = folder / "metadata.jsonl"
    if not table.exists():
        count = sum(p.suffix.lower() in SUFFIXES for p in folder.iterdir())
        raise InputError(
            f'The data folder {folder} has {count} pictures but no metadata.jsonl; write one with a line such as {{"file_name": "a.png", "text": "a cat"}} for each.'
        )
    rows = []
    for number, line in enumerate(table.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row["text"], str):
                raise TypeError("text is no string")
            rows.append(
                (folder / row["file_name"], row["text"], None if row.get("subject") is None else str(row["subject"]))
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{table}, line {number}: expected a JSON object with file_name and text as strings, found {line[:60]!r}."
            ) from error
    if not rows:
        raise InputError(
            f"The data folder {folder} is empty: its metadata.jsonl has no lines; give at least one picture."
        )
    return rows

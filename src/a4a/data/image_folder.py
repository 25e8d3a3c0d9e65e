"""A folder of one's own images as training data, encoded when training starts. `a4a prepare` checks and crops more."""

import hashlib
import json
import sys
from pathlib import Path

import torch
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor

from a4a.backbones import SizeConditions
from a4a.data.base import TrainingImages, reference_target_pairs
from a4a.data.prepare.crops import Crop, middle_crop
from a4a.data.sources.base import HOW_TO_CAPTION, ImageRecord, first_few
from a4a.data.sources.image_folder import ImageFolder
from a4a.errors import InputError
from a4a.utils.images import open_image


class ImageFolderDataset(TrainingImages):
    """Images in a folder, each with a caption: as `text` in `metadata.jsonl`, or in `NAME.txt` beside `NAME.jpg`.

    The layout is that of the source `ImageFolder`: `metadata.jsonl` has a JSON object per line with `file_name`, and
    `text` and `subject` where they are known; without it all images of the folder are used. Samples are sorted by file
    name. Each image is scaled to cover `size` x `size` and cropped to its middle. Reference and target are the same
    image (as the paper trains), or two different ones of a subject where subjects are named.

    InputError where an image has no caption. Broken images, and those that would have to be enlarged, are left out;
    they, empty captions and images that metadata.jsonl does not name are counted and listed on the error stream.

    Args:
        path: of the folder.
        size: side in pixels, the size that the denoiser is trained at.
        enlarge: use images that are smaller, too; SDXL and PixArt-alpha are told their true original size.
    """

    def __init__(self, path: Path, size: int = 512, enlarge: bool = False):
        self.path, self.size, self._crop = Path(path), size, Crop(size, enlarge=enlarge)
        source = ImageFolder(str(path))
        records = source.records()
        self._require_captions(records)
        sizes = {record.id: _size(self.path / record.id) for record in records}
        readable = [record for record in records if sizes[record.id] is not None]
        if not readable:
            raise InputError(f"The data folder {path} has no readable image; give one with PNG or JPEG files.")
        small = {record.id for record in readable if min(sizes[record.id] or (0,)) < size}
        used = [record for record in readable if enlarge or record.id not in small]
        if not used:
            raise InputError(
                f"All {len(readable)} images in the data folder {path} are smaller than {size} x {size} pixels; "
                "give larger ones or a smaller size, or set enlarge to true."
            )
        for warning in [
            *source.warnings(),
            *_warnings(records, readable),
            *_size_warning(sorted(small), size, enlarge),
        ]:
            print(f"{path}: {warning}", file=sys.stderr)
        self.files = [self.path / record.id for record in used]
        self.captions = [record.text or "" for record in used]
        self.pairs = reference_target_pairs([record.subject for record in used])
        stats = [(r.id, f.stat().st_size, f.stat().st_mtime_ns) for r, f in zip(used, self.files, strict=True)]
        self.key = hashlib.sha256(json.dumps([size, stats]).encode()).hexdigest()
        self._sizes = torch.tensor([sizes[record.id] for record in used])
        self._processor = VaeImageProcessor(do_normalize=False)

    def __len__(self) -> int:
        return len(self.files)

    def pixels(self, indices: Tensor) -> Tensor:
        images = [self._crop(open_image(self.files[i]), self.files[i].name)[0].image for i in indices.tolist()]
        return self._processor.preprocess(images)  # pyright: ignore[reportArgumentType] (it takes lists of PIL images)

    def sizes(self, indices: Tensor) -> SizeConditions:
        original, side = self._sizes[indices], self._crop.size
        crops = [middle_crop(width, height, side, side) for height, width in original.tolist()]
        top_left = torch.tensor([[round(top / scale), round(left / scale)] for scale, left, top in crops])
        return SizeConditions(original, top_left, torch.full_like(original, side))

    def _require_captions(self, records: list[ImageRecord]) -> None:
        missing = [record.id for record in records if record.text is None]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(records)} images in the data folder {self.path} have no caption "
                f"({first_few(missing)}); {HOW_TO_CAPTION}."
            )


def _size(file: Path) -> tuple[int, int] | None:
    """(height, width) of an image; None where it cannot be read."""
    try:
        image = open_image(file)
    except InputError:
        return None
    return image.height, image.width


def _size_warning(small: list[str], size: int, enlarge: bool) -> list[str]:
    if not small:
        return []
    what = "enlarged" if enlarge else "left out; to use them, give a smaller size or set enlarge to true"
    return [f"{len(small)} images are smaller than {size} x {size} pixels ({first_few(small)}) and {what}."]


def _warnings(records: list[ImageRecord], readable: list[ImageRecord]) -> list[str]:
    warnings = []
    found = {record.id for record in readable}
    if broken := [record.id for record in records if record.id not in found]:
        warnings.append(f"{len(broken)} of {len(records)} images cannot be read and are left out: {first_few(broken)}.")
    if empty := [record.id for record in readable if not record.text]:
        warnings.append(
            f"{len(empty)} of {len(readable)} images have an empty caption, from which training learns nothing "
            f"about prompts: {first_few(empty)}."
        )
    return warnings

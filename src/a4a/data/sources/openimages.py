"""OpenImages: objects cut out of its photos by its table of boxes.

train/**/IMAGEID.jpg
oidv6-train-annotations-bbox.csv            a box per line: ImageID, LabelName, XMin, XMax, YMin, YMax, ...
oidv7-class-descriptions-boxable.csv        LabelName, name of the class
"""

import hashlib
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.csv

from a4a.data.sources.base import ImageRecord, Source, filesystem, is_image, list_files, read_file, sorted_records
from a4a.errors import InputError, first_line

BOX_COLUMNS: dict[str, pa.DataType] = {
    **dict.fromkeys(("ImageID", "LabelName"), pa.string()),
    **dict.fromkeys(("XMin", "XMax", "YMin", "YMax", "IsGroupOf", "IsDepiction"), pa.float64()),
}
"""Columns that are read from the table of boxes; without types, ids of digits alone would be read as numbers."""


class OpenImages(Source):
    """OpenImages: objects cut out of photos by its table of boxes. Crops of one photo stay in one split.

    Boxes are fractions of the image as it is stored, before its EXIF rotation. Boxes around a group of objects, boxes
    of depictions (a toy, a drawing) and boxes of photos that are not there are left out. Where a box is smaller than
    the crop that will be encoded, more of the photo around it is taken, not a magnified box.

    Args:
        images: folder of the photos, IMAGEID.jpg at any depth.
        boxes: such as oidv6-train-annotations-bbox.csv.
        classes: such as oidv7-class-descriptions-boxable.csv; needed for `labels` and `text`.
        labels: names of the classes to take, such as [Dog, Teddy bear]; all by default.
        minimum: shortest side of a box, as a fraction of the photo; `check.minimum` is in pixels.
        margin: how much of a box's sides to add around it.
        per_photo: at most so many boxes of a photo, the largest ones; all by default.
        limit: at most so many boxes in all, the same random ones in every run; all by default.
        text: a caption with {label} in it; by default there are no captions and the caption step can write them.
    """

    def __init__(
        self,
        images: str,
        boxes: str,
        classes: str | None = None,
        labels: list[str] | None = None,
        minimum: float = 0.2,
        margin: float = 0.1,
        per_photo: int | None = None,
        limit: int | None = None,
        text: str | None = None,
    ):
        for option, value in (("per_photo", per_photo), ("limit", limit)):
            if value is not None and value < 1:
                raise InputError(f"source.{option} is {value}; expected at least 1, or null for all boxes.")
        if classes is None and (labels or text):
            raise InputError("source.labels and source.text need source.classes; give the CSV file with class names.")
        self.images, self.boxes, self.classes, self.labels = images, boxes, classes, labels
        self.minimum, self.margin, self.text = minimum, margin, text
        self.per_photo, self.limit = per_photo, limit
        self.photos: dict[str, str] = {}
        """File name by image id."""

    def records(self) -> list[ImageRecord]:
        sizes = list_files(self.images)
        self.photos = {posixpath.splitext(posixpath.basename(name))[0]: name for name in sizes if is_image(name)}
        class_names = self._class_names()
        boxes: dict[str, list[dict[str, Any]]] = {}
        for box in _read_boxes(self.boxes):
            if self._is_wanted(box, class_names):
                of_photo = boxes.setdefault(box["ImageID"], [])
                of_photo.append(box)
                if self.per_photo is not None and len(of_photo) > self.per_photo:
                    of_photo.remove(min(of_photo, key=_area))
        records = {
            r.id: r for of_photo in boxes.values() for r in (self._record(b, class_names, sizes) for b in of_photo)
        }
        return sorted_records(
            sorted(records.values(), key=lambda record: _random_order(record.id))[: self.limit],
            f"No box of {self.boxes} is of a photo in {self.images}, with the labels and minimum size asked for.",
        )

    def read(self, record: ImageRecord) -> bytes:
        return read_file(self.images, self.photos[str(record.group)])

    def _is_wanted(self, box: dict[str, Any], class_names: Mapping[str, str]) -> bool:
        return (
            box["ImageID"] in self.photos
            and not box["IsGroupOf"] > 0
            and not box["IsDepiction"] > 0
            and min(box["XMax"] - box["XMin"], box["YMax"] - box["YMin"]) >= self.minimum
            and (not self.labels or box["LabelName"] in class_names)
        )

    def _record(self, box: dict[str, Any], class_names: Mapping[str, str], sizes: Mapping[str, int]) -> ImageRecord:
        left, top, right, bottom = box["XMin"], box["YMin"], box["XMax"], box["YMax"]
        x, y = self.margin * (right - left), self.margin * (bottom - top)
        corners = "-".join(f"{round(10_000 * v):05d}" for v in (left, top, right, bottom))
        text = None
        if self.text:
            text = self.text.replace("{label}", class_names.get(box["LabelName"], "thing").lower())
        return ImageRecord(
            id=f"{box['ImageID']}/{box['LabelName'].strip('/').replace('/', '_')}-{corners}",
            text=text,
            group=box["ImageID"],
            box=(max(left - x, 0.0), max(top - y, 0.0), min(right + x, 1.0), min(bottom + y, 1.0)),
            bytes=sizes[self.photos[box["ImageID"]]],
        )

    def _class_names(self) -> dict[str, str]:
        """Names of the classes by label, only of those asked for."""
        if self.classes is None:
            return {}
        try:
            table = read_file(*posixpath.split(self.classes)).decode()
        except FileNotFoundError as error:
            raise InputError(
                f"There is no table of classes {self.classes}; give OpenImages' CSV file with the classes' names."
            ) from error
        lines = [line.split(",", 1) for line in table.splitlines() if "," in line]
        names = {label: name.strip().strip('"') for label, name in lines}
        if missing := sorted(set(self.labels or []) - set(names.values())):
            raise InputError(
                f"{self.classes} has no class {missing[0]!r}; "
                f"its names begin with a capital, such as {next(reversed(names.values()), '')!r}."
            )
        return {label: name for label, name in names.items() if not self.labels or name in self.labels}


def _area(box: dict[str, Any]) -> float:
    return (box["XMax"] - box["XMin"]) * (box["YMax"] - box["YMin"])


def _random_order(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _read_boxes(path: str) -> Iterator[dict[str, Any]]:
    """Rows of the table of boxes, read a block at a time: OpenImages' has 14 million."""
    system, file = filesystem(path)
    options: Any = pyarrow.csv.ConvertOptions(include_columns=list(BOX_COLUMNS), column_types=BOX_COLUMNS)
    try:
        with system.open(file, "rb") as stream, pyarrow.csv.open_csv(stream, convert_options=options) as reader:
            for block in reader:
                yield from block.to_pylist()
    except FileNotFoundError as error:
        raise InputError(f"There is no table of boxes {path}; give OpenImages' CSV file.") from error
    except (pa.ArrowInvalid, pa.ArrowKeyError, KeyError) as error:
        raise InputError(
            f"{path} is no table of boxes ({first_line(error)}); "
            f"expected a CSV file with the columns {', '.join(BOX_COLUMNS)}."
        ) from error

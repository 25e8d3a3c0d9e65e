"""The paper's data sets, as they lie on disk once unpacked."""

import posixpath
from typing import Any

import pyarrow as pa
import pyarrow.csv

from a4a.data.sources.base import ImageRecord, Source, files, filesystem, is_picture, read, some
from a4a.errors import InputError, first_line

BOX = dict.fromkeys(("ImageID", "LabelName"), pa.string()) | dict.fromkeys(
    ("XMin", "XMax", "YMin", "YMax", "IsGroupOf", "IsDepiction"), pa.float64()
)
"""Columns of OpenImages' boxes that are read."""


class OpenImages(Source):
    """OpenImages: things cut out of photos by its table of boxes. Crops of one photo stay in one split.

    Boxes are fractions of the picture as it is stored, before its EXIF rotation. Of things that are depicted (a toy, a
    drawing), and of boxes around a group of them, there are none. Boxes of photos that are not there are passed over.

    Args:
        images: folder of the photos, IMAGEID.jpg at any depth.
        boxes: such as oidv6-train-annotations-bbox.csv.
        classes: such as oidv7-class-descriptions-boxable.csv; needed for `labels` and `text`.
        labels: names of the classes to take, such as [Dog, Teddy bear]; all by default.
        minimum: shortest side of a box, as a fraction of the photo; in pixels it is `check.minimum`.
        margin: how much of a box's sides to add around it.
        text: a caption with {label} in it; without one the caption step makes them.
    """

    def __init__(
        self,
        images: str,
        boxes: str,
        classes: str | None = None,
        labels: list[str] | None = None,
        minimum: float = 0.2,
        margin: float = 0.1,
        text: str | None = None,
    ):
        if classes is None and (labels or text):
            raise InputError(
                "source.labels and source.text need source.classes; give the CSV file with the classes' names."
            )
        self.images, self.boxes, self.classes, self.labels = images, boxes, classes, labels
        self.minimum, self.margin, self.text = minimum, margin, text
        self.names: dict[str, str] = {}

    def items(self) -> list[ImageRecord]:
        found = files(self.images)
        self.names = {posixpath.splitext(posixpath.basename(name))[0]: name for name in found if is_picture(name)}
        classes = self._classes()
        rows = {}
        for box in _table(self.boxes, BOX):  # pyright: ignore[reportArgumentType]
            left, top, right, bottom = box["XMin"], box["YMin"], box["XMax"], box["YMax"]
            wanted = box["ImageID"] in self.names and not (box["IsGroupOf"] > 0 or box["IsDepiction"] > 0)
            if (
                not wanted
                or min(right - left, bottom - top) < self.minimum
                or (self.labels and box["LabelName"] not in classes)
            ):
                continue
            x, y = self.margin * (right - left), self.margin * (bottom - top)
            around = (max(left - x, 0.0), max(top - y, 0.0), min(right + x, 1.0), min(bottom + y, 1.0))
            corner = "-".join(f"{round(10_000 * v):05d}" for v in (left, top, right, bottom))
            name = f"{box['ImageID']}/{box['LabelName'].strip('/').replace('/', '_')}-{corner}"
            text = self.text.replace("{label}", classes.get(box["LabelName"], "thing").lower()) if self.text else None
            rows[name] = ImageRecord(
                name, text, group=box["ImageID"], box=around, bytes=found[self.names[box["ImageID"]]]
            )
        return some(
            list(rows.values()),
            f"No box of {self.boxes} is of a photo in {self.images}, of the labels and the minimum size asked for.",
        )

    def _classes(self) -> dict[str, str]:
        """Names by label; the wanted ones alone."""
        if self.classes is None:
            return {}
        try:
            table = read(*posixpath.split(self.classes)).decode()
        except FileNotFoundError as error:
            raise InputError(
                f"There is no table of classes {self.classes}; give OpenImages' CSV file with the classes' names."
            ) from error
        lines = [line.split(",", 1) for line in table.splitlines() if "," in line]
        names = {label: name.strip().strip('"') for label, name in lines}
        if missing := sorted(set(self.labels or []) - set(names.values())):
            raise InputError(
                f"{self.classes} has no class {missing[0]!r}; its names begin with a capital, such as {next(reversed(names.values()), '')!r}."
            )
        return {label: name for label, name in names.items() if not self.labels or name in self.labels}

    def read(self, item: ImageRecord) -> bytes:
        return read(self.images, self.names[str(item.group)])


def _table(path: str, columns: dict[str, pa.DataType]):
    """Rows of a CSV file as dictionaries, a block at a time: OpenImages' has 14 million."""
    system, place = filesystem(path)
    options: Any = pyarrow.csv.ConvertOptions(
        include_columns=list(columns), column_types=columns
    )  # guessed, ids of digits alone would be numbers
    try:
        with system.open(place, "rb") as stream, pyarrow.csv.open_csv(stream, convert_options=options) as reader:
            for block in reader:
                yield from block.to_pylist()
    except FileNotFoundError as error:
        raise InputError(f"There is no table of boxes {path}; give OpenImages' CSV file.") from error
    except (pa.ArrowInvalid, pa.ArrowKeyError, KeyError) as error:
        raise InputError(
            f"{path} is no table of boxes ({first_line(error)}); expected a CSV file with the columns {', '.join(columns)}."
        ) from error

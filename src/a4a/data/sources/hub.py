"""Source: a dataset on the Hugging Face hub, or any that `datasets` loads."""

import posixpath
from collections.abc import Callable
from typing import Any

from a4a.data.sources.base import ImageRecord, Source, read, some
from a4a.errors import InputError, first_line


class HubDataset(Source):
    """A data set that `datasets.load_dataset` knows: a name on the Hugging Face hub, or a folder.

    Args:
        name: such as owner/name.
        split: which of its own splits to take.
        config: which of its configurations.
        image: column of the pictures.
        text: column of the captions.
        subject: column of the subjects.
    """

    def __init__(
        self,
        name: str,
        split: str = "train",
        config: str | None = None,
        image: str = "image",
        text: str | None = None,
        subject: str | None = None,
    ):
        self.name, self.split, self.config, self.image, self.text, self.subject = (
            name,
            split,
            config,
            image,
            text,
            subject,
        )
        self._rows: Any = None

    @property
    def rows(self) -> Any:
        if self._rows is None:
            import datasets

            try:
                rows = datasets.load_dataset(self.name, name=self.config, split=self.split)
            except Exception as error:  # what it raises has no class of its own
                raise InputError(
                    f"{self.name} could not be loaded as a data set, split {self.split} ({first_line(error)})."
                ) from error
            columns = rows.column_names
            for option in ("image", "text", "subject"):
                if (column := getattr(self, option)) is not None and column not in columns:
                    raise InputError(
                        f"The data set {self.name} has no column {column!r} for {option}; it has {', '.join(columns)}."
                    )
            self._rows = rows.cast_column(self.image, datasets.Image(decode=False))
        return self._rows

    def items(self) -> list[ImageRecord]:
        count = len(self.rows)
        said = {
            option: self._column(column, count) for option, column in (("text", self.text), ("subject", self.subject))
        }
        rows = [ImageRecord(f"{i:09d}", said["text"][i], said["subject"][i]) for i in range(count)]
        return some(rows, f"The data set {self.name} has no rows in its split {self.split}; choose another.")

    def facts(self) -> dict[str, str | None]:
        return {
            **{name: getattr(self, name) for name in ("name", "config", "split", "image")},
            "fingerprint": self.rows._fingerprint,
        }

    def _column(self, name: str | None, count: int) -> list[str | None]:
        if name is None:
            return [None] * count
        feature, values = self.rows.features[name], self.rows.select_columns([name])[:][name]
        to_name: Callable[[Any], str] = getattr(feature, "int2str", str)  # classes are numbers with names
        return [None if v is None else to_name(v) for v in values]

    def read(self, item: ImageRecord) -> bytes:
        stored = self.rows[int(item.id)][self.image]
        if stored is None:
            raise FileNotFoundError("the data set has no picture in this row")
        return stored["bytes"] if stored["bytes"] is not None else read(*posixpath.split(stored["path"]))

"""A dataset on the Hugging Face hub, or any other that `datasets.load_dataset` loads."""

import posixpath
from collections.abc import Callable
from typing import Any

from a4a.data.sources.base import ImageRecord, Source, read_file, sorted_records
from a4a.errors import InputError, first_line


class HubDataset(Source):
    """A dataset that `datasets.load_dataset` knows: a name on the Hugging Face hub, or a folder.

    Args:
        name: such as owner/name.
        split: which of its own splits to take.
        config: which of its configurations.
        image: column of the images.
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
        self.name, self.split, self.config = name, split, config
        self.image, self.text, self.subject = image, text, subject
        self._rows: Any = None

    @property
    def rows(self) -> Any:
        """The `datasets.Dataset`, loaded when first used; its images stay encoded."""
        if self._rows is None:
            self._rows = self._load()
        return self._rows

    def records(self) -> list[ImageRecord]:
        texts, subjects = self._strings(self.text), self._strings(self.subject)
        records = [
            ImageRecord(f"{i:09d}", text, subject)
            for i, (text, subject) in enumerate(zip(texts, subjects, strict=True))
        ]
        return sorted_records(records, f"The dataset {self.name} has no rows in its split {self.split}.")

    def identity(self) -> dict[str, str | None]:
        options = {name: getattr(self, name) for name in ("name", "config", "split", "image")}
        return {**options, "fingerprint": self.rows._fingerprint}

    def read(self, record: ImageRecord) -> bytes:
        stored = self.rows[int(record.id)][self.image]
        if stored is None:
            raise FileNotFoundError("the dataset has no image in this row")
        return stored["bytes"] if stored["bytes"] is not None else read_file(*posixpath.split(stored["path"]))

    def _load(self) -> Any:
        import datasets

        try:
            rows: Any = datasets.load_dataset(self.name, name=self.config, split=self.split)
        except Exception as error:  # what it raises has no class of its own
            raise InputError(
                f"{self.name} could not be loaded as a dataset, split {self.split} ({first_line(error)})."
            ) from error
        for option in ("image", "text", "subject"):
            column = getattr(self, option)
            if column is not None and column not in rows.column_names:
                raise InputError(
                    f"The dataset {self.name} has no column {column!r} for {option}; "
                    f"it has {', '.join(rows.column_names)}."
                )
        return rows.cast_column(self.image, datasets.Image(decode=False))

    def _strings(self, column: str | None) -> list[str | None]:
        """A column as strings, class numbers as the names of the classes."""
        if column is None:
            return [None] * len(self.rows)
        feature, values = self.rows.features[column], self.rows.select_columns([column])[:][column]
        to_name: Callable[[Any], str] = getattr(feature, "int2str", str)
        return [None if value is None else to_name(value) for value in values]
